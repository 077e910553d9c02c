//! Small images, built and pushed without any tool but the registry: what an image holds is said in the test.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

pub(crate) use super::digest::digest;
use super::registry::Registry;
use super::{http, run};

/// How a layer is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    /// Needs the `zstd` program.
    Zstd,
}

/// Whose media types the manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Oci,
    Docker,
}

/// An image to be pushed. It starts as one layer with busybox in it.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    layers: Vec<(Packing, Vec<u8>)>,
    config: BTreeMap<&'static str, Value>,
    architecture: String,
    dialect: Dialect,
    layer_type: Option<&'static str>,
    claimed_layers: usize,
    top: BTreeMap<&'static str, Value>,
    config_type: Option<&'static str>,
    surplus: i64,
}

/// A pushed image, by digests as in `sha256:…`.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    /// The manifest's (or the index's).
    pub(crate) digest: String,
    pub(crate) media_type: String,
    pub(crate) size_bytes: usize,
    pub(crate) architecture: String,
    /// The layers', as they are transferred.
    pub(crate) layers: Vec<String>,
    pub(crate) config: String,
}

impl Image {
    /// Debian's static busybox with a link for each applet, `/www/index.html` and a user `web` (1000).
    pub(crate) fn busybox() -> Self {
        let config = BTreeMap::from([("Env", json!(["PATH=/bin"])), ("Cmd", json!(["sh"]))]);
        let layers = vec![(Packing::Gzip, busybox_layer().0.clone())];
        Self {
            layers,
            config,
            architecture: architecture().to_owned(),
            dialect: Dialect::Oci,
            layer_type: None,
            claimed_layers: 0,
            top: BTreeMap::new(),
            config_type: None,
            surplus: 0,
        }
    }

    /// As [`Self::busybox`], serving `/www` on port 80 as its entrypoint.
    pub(crate) fn web() -> Self {
        Self::busybox()
            .config(
                "Entrypoint",
                json!(["httpd", "-f", "-p", "80", "-h", "/www"]),
            )
            .config("Cmd", Value::Null)
    }

    /// The same without a file.
    pub(crate) fn empty(mut self) -> Self {
        self.layers.clear();
        self
    }

    /// Sets a field of the image's configuration, by its name there: `Entrypoint`, `Env`, `Volumes`, …
    pub(crate) fn config(mut self, field: &'static str, value: Value) -> Self {
        self.config.insert(field, value);
        self
    }

    /// Sets a field beside that: `architecture`, `os`, `history`, …
    pub(crate) fn top(mut self, field: &'static str, value: Value) -> Self {
        self.top.insert(field, value);
        self
    }

    /// One more layer with these files, by absolute path.
    pub(crate) fn layer(self, packing: Packing, files: &[(&str, &[u8])]) -> Self {
        self.layer_of(packing, tar::EntryType::Regular, 0o644, files)
    }

    /// One more layer with a program.
    pub(crate) fn program(self, path: &str, content: &[u8]) -> Self {
        let kind = tar::EntryType::Regular;
        self.layer_of(Packing::Plain, kind, 0o755, &[(path, content)])
    }

    /// One more layer with a directory.
    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        let (kind, path) = (tar::EntryType::Directory, format!("{path}/"));
        self.layer_of(Packing::Plain, kind, mode, &[(&path, &[])])
    }

    /// One more layer with the node of a character device.
    pub(crate) fn device(mut self, path: &str, major: u32, minor: u32) -> Self {
        let mut header = header(tar::EntryType::Char, 0o666, 0);
        let both = header.set_device_major(major);
        both.and_then(|()| header.set_device_minor(minor))
            .expect("the header has them");
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, path.trim_start_matches('/'), &[][..])
            .expect("memory takes it");
        self.layers
            .push((Packing::Plain, tar.into_inner().expect("memory takes it")));
        self
    }

    /// One more layer with another name for a file.
    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(header(tar::EntryType::Link, 0o644, 0), path, target)
    }

    /// One more layer with a symbolic link.
    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.link(header(tar::EntryType::Symlink, 0o777, 0), path, target)
    }

    fn link(mut self, mut header: tar::Header, path: &str, target: &str) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_link(&mut header, path.trim_start_matches('/'), target)
            .expect("memory takes it");
        self.layers
            .push((Packing::Plain, tar.into_inner().expect("memory takes it")));
        self
    }

    fn layer_of(
        mut self,
        packing: Packing,
        kind: tar::EntryType,
        mode: u32,
        files: &[(&str, &[u8])],
    ) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content) in files {
            add(&mut tar, path, kind, mode, content);
        }
        let tar = tar.into_inner().expect("memory takes it");
        self.layers.push((packing, tar));
        self
    }

    /// So many more layers, each with a file `/layers/<number>`.
    pub(crate) fn layers(mut self, more: usize) -> Self {
        for n in 0..more {
            let path = format!("/layers/{n}");
            self = self.layer(Packing::Plain, &[(&path, b"x")]);
        }
        self
    }

    /// One more layer: a file `/big` of that size that cannot be compressed. Another seed, another content.
    pub(crate) fn big_layer(self, packing: Packing, size_bytes: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut noise = Vec::with_capacity(size_bytes + 8);
        while noise.len() < size_bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        noise.truncate(size_bytes);
        self.layer(packing, &[("/big", &noise)])
    }

    /// One more layer of exactly these bytes.
    pub(crate) fn raw_layer(mut self, packing: Packing, tar: Vec<u8>) -> Self {
        self.layers.push((packing, tar));
        self
    }

    /// One more layer, which is no archive.
    pub(crate) fn no_archive(mut self) -> Self {
        self.layers
            .push((Packing::Gzip, b"this is no archive ".repeat(100)));
        self
    }

    /// Its layers are of this media type, whatever they are.
    pub(crate) fn layer_type(mut self, media_type: &'static str) -> Self {
        self.layer_type = Some(media_type);
        self
    }

    /// Its configuration tells of so many more layers than its manifest.
    pub(crate) fn claims_layers(mut self, more: usize) -> Self {
        self.claimed_layers = more;
        self
    }

    /// Its manifest calls its configuration this.
    pub(crate) fn config_type(mut self, media_type: &'static str) -> Self {
        self.config_type = Some(media_type);
        self
    }

    /// Its manifest says that its last layer has so many more bytes than it has.
    pub(crate) fn claims_bytes(mut self, more: i64) -> Self {
        self.surplus = more;
        self
    }

    /// Says it was built for another machine than this one, as in `arm64`.
    pub(crate) fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    pub(crate) fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// Pushes it as `name`, as in `web:1`.
    pub(crate) async fn push(&self, registry: &Registry, name: &str) -> Pushed {
        let (repository, tag) = name.split_once(':').expect("a name and a tag");
        let base = format!("http://{}/v2/{repository}", registry.push_address());
        let docker = self.dialect == Dialect::Docker;
        let (mut described, mut diff_ids, mut layers) = (Vec::new(), Vec::new(), Vec::new());
        for (packing, tar) in &self.layers {
            let (first, first_packed) = busybox_layer();
            let packed = if tar == first {
                first_packed.clone()
            } else {
                pack(*packing, tar)
            };
            let media_type = self
                .layer_type
                .map_or_else(|| layer_media_type(*packing, docker), str::to_owned);
            described.push(
                json!({"mediaType": media_type, "digest": digest(&packed), "size": packed.len()}),
            );
            diff_ids.push(digest(tar));
            layers.push(digest(&packed));
            push_blob(&base, packed).await;
        }
        let size = &mut described.last_mut().expect("one layer at least")["size"];
        *size = json!(size.as_i64().expect("it is small") + self.surplus);
        diff_ids.extend((0..self.claimed_layers).map(|n| digest(&n.to_le_bytes())));
        let mut config = json!({
            "architecture": self.architecture, "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        for (field, value) in &self.top {
            config[*field] = value.clone();
        }
        let config = config.to_string().into_bytes();
        let (config_type, media_type) = if docker {
            (
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
            )
        } else {
            (
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.manifest.v1+json",
            )
        };
        let config_type = self.config_type.unwrap_or(config_type);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": digest(&config), "size": config.len()}, "layers": described,
        });
        let manifest = manifest.to_string();
        let pushed = Pushed {
            digest: digest(manifest.as_bytes()),
            media_type: media_type.to_owned(),
            size_bytes: manifest.len(),
            architecture: self.architecture.clone(),
            layers,
            config: digest(&config),
        };
        push_blob(&base, config).await;
        push_manifest(&base, tag, media_type, manifest).await;
        pushed
    }
}

/// Pushes an index over images (or indexes) of the same repository, one for each architecture.
pub(crate) async fn push_index(registry: &Registry, name: &str, images: &[&Pushed]) -> Pushed {
    let (repository, tag) = name.split_once(':').expect("a name and a tag");
    let media_type = "application/vnd.oci.image.index.v1+json";
    let manifests = images.iter().map(|image| {
        json!({"mediaType": image.media_type, "digest": image.digest, "size": image.size_bytes,
            "platform": {"os": "linux", "architecture": image.architecture}})
    });
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests.collect::<Vec<_>>()}).to_string();
    let pushed = Pushed {
        digest: digest(index.as_bytes()),
        media_type: media_type.to_owned(),
        size_bytes: index.len(),
        architecture: images[0].architecture.clone(),
        layers: Vec::new(),
        config: String::new(),
    };
    push_manifest(
        &format!("http://{}/v2/{repository}", registry.push_address()),
        tag,
        media_type,
        index,
    )
    .await;
    pushed
}

/// This machine's architecture, by the name that images use.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) async fn push_blob(base: &str, blob: Vec<u8>) {
    let client = http::client();
    let opened = client
        .post(format!("{base}/blobs/uploads/"))
        .send()
        .await
        .expect("the registry answers");
    assert_eq!(opened.status(), 202, "{base}: an upload is opened");
    let location = opened.headers()["location"]
        .to_str()
        .expect("a URL")
        .to_owned();
    let joint = if location.contains('?') { '&' } else { '?' };
    let put = client
        .put(format!("{location}{joint}digest={}", digest(&blob)))
        .body(blob);
    assert_eq!(
        put.send().await.expect("the registry answers").status(),
        201,
        "{base}: a blob is taken"
    );
}

pub(super) async fn push_manifest(base: &str, tag: &str, media_type: &str, manifest: String) {
    let put = http::client()
        .put(format!("{base}/manifests/{tag}"))
        .header("content-type", media_type)
        .body(manifest);
    assert_eq!(
        put.send().await.expect("the registry answers").status(),
        201,
        "{base}: the manifest is taken"
    );
}

fn layer_media_type(packing: Packing, docker: bool) -> String {
    let (base, separator) = if docker {
        ("application/vnd.docker.image.rootfs.diff.tar", ".")
    } else {
        ("application/vnd.oci.image.layer.v1.tar", "+")
    };
    match packing {
        Packing::Plain => base.to_owned(),
        Packing::Gzip => format!("{base}{separator}gzip"),
        Packing::Zstd => format!("{base}{separator}zstd"),
    }
}

fn pack(packing: Packing, tar: &[u8]) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(tar)
                .and_then(|()| gzip.finish())
                .expect("memory takes it")
        }
        Packing::Zstd => {
            let dir = tempfile::tempdir().expect("a directory");
            let (plain, packed) = (dir.path().join("tar"), dir.path().join("tar.zst"));
            std::fs::write(&plain, tar).expect("the disk takes it");
            run(
                "zstd",
                [
                    "-q".as_ref(),
                    "-o".as_ref(),
                    packed.as_os_str(),
                    plain.as_os_str(),
                ],
            )
            .expect("zstd is installed");
            std::fs::read(packed).expect("zstd wrote it")
        }
    }
}

/// The first layer of every image, unpacked and packed: made once, since an unoptimised gzip takes most of a second.
fn busybox_layer() -> &'static (Vec<u8>, Vec<u8>) {
    static LAYER: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    LAYER.get_or_init(|| {
        let tar = busybox_tar();
        let packed = pack(Packing::Gzip, &tar);
        (tar, packed)
    })
}

fn busybox_tar() -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("tmp/", 0o1777),
        ("www/", 0o755),
        ("var/", 0o755),
    ] {
        add(&mut tar, path, tar::EntryType::Directory, mode, &[]);
    }
    add(
        &mut tar,
        "bin/busybox",
        tar::EntryType::Regular,
        0o755,
        &busybox,
    );
    for applet in run("/bin/busybox", ["--list"])
        .expect("it runs")
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("memory takes it");
    }
    let passwd = b"root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/www:/bin/sh\n";
    add(
        &mut tar,
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        passwd,
    );
    add(
        &mut tar,
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n",
    );
    add(
        &mut tar,
        "www/index.html",
        tar::EntryType::Regular,
        0o644,
        b"hello from busybox\n",
    );
    tar.into_inner().expect("memory takes it")
}

fn add(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) {
    let mut header = header(kind, mode, content.len());
    tar.append_data(&mut header, path.trim_start_matches('/'), content)
        .expect("memory takes it");
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header
}
