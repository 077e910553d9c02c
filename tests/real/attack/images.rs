//! Images made to harm: what of them is refused and why, and that nothing of them leaves its container.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use state::reason::Reason;

use crate::harness::image::{Image, Packing};
use crate::harness::{Testbed, registry::Registry};
use crate::stand::Stand;

/// What comes of an image.
enum Outcome {
    /// It runs, and is as harmless as any.
    Runs,
    /// It does not, for this reason, with these words.
    Refused(Reason, &'static str),
}

use Outcome::{Refused, Runs};

/// Time for all of them: a message that tells of a wait stands in place of the failure before it.
const PATIENCE: Duration = Duration::from_secs(150);

impl Outcome {
    /// Whether a container shows it, and nothing that is no text.
    fn is(&self, shown: &Value) -> bool {
        let message = shown["message"].as_str().unwrap_or_default();
        let is_so = match self {
            Runs => shown["status"] == "running",
            Refused(reason, part) => shown["reason"] == reason.as_str() && message.contains(part),
        };
        is_so && !message.chars().any(char::is_control)
    }
}

/// An entry of an archive, with its name and its target as they are, however odd.
fn entry(kind: tar::EntryType, name: &str, target: &str, content: &[u8]) -> Vec<u8> {
    entry_with(kind, name, content, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
    })
}

fn entry_with(
    kind: tar::EntryType,
    name: &str,
    content: &[u8],
    change: impl FnOnce(&mut tar::Header),
) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    change(&mut header);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    bytes
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(tar::EntryType::Regular, name, "", content)
}

fn link(name: &str, target: &str) -> Vec<u8> {
    entry(tar::EntryType::Symlink, name, target, b"")
}

fn node(kind: tar::EntryType, name: &str, major: u32, minor: u32) -> Vec<u8> {
    entry_with(kind, name, b"", |header| {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    })
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut content = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        content += &format!("{length} {key}={value}\n");
    }
    entry(tar::EntryType::XHeader, "pax", "", content.as_bytes())
}

/// Archive of these entries.
fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Image with a layer of these entries on top.
fn with(entries: &[Vec<u8>]) -> Image {
    Image::busybox().raw_layer(Packing::Gzip, archive(entries))
}

fn passwd(entry: Vec<u8>) -> Image {
    with(&[entry]).config("User", json!("daemon"))
}

fn zeros(count: usize) -> Vec<u8> {
    archive(&[file("zeros", &vec![0; count])])
}

/// Most that an image may take on this node.
const MAX: &str = "24Mi";
const MIB: usize = 1 << 20;
const TERA: &str = "1099511627776";

fn rows() -> Vec<(&'static str, Image, Outcome)> {
    use tar::EntryType::{Block, Char, Fifo, Link};
    const UP: &str = "../../../../../../../..";
    let up = |path: &str| format!("{UP}{path}");
    let old_sparse = entry_with(tar::EntryType::GNUSparse, "hole", b"", |header| {
        // Ten binary digits of thousands: a terabyte, in octal.
        header
            .as_gnu_mut()
            .unwrap()
            .realsize
            .copy_from_slice(b"20000000000\0");
    });
    let pax_sparse =
        |records: &[(&str, &str)]| with(&[pax(records), file("hole", &[b'0', b'\n'].repeat(256))]);
    let many: Vec<_> = (0..7000).map(|n| file(&format!("many/{n}"), b"")).collect();
    let volumes: serde_json::Map<_, _> = (0..100).map(|n| (format!("/v{n}"), json!({}))).collect();
    let environment: Vec<_> = (0..4600)
        .map(|n| format!("A{n}={}", "x".repeat(1000)))
        .collect();
    vec![
        ("dotdot", with(&[file(&up("/tmp/pwn-dotdot"), b"x")]), Runs),
        ("absolute", with(&[file("/tmp/pwn-absolute", b"x")]), Runs),
        (
            "linkdir",
            with(&[link("lnk", "/tmp"), file("lnk/pwn-linkdir", b"x")]),
            Runs,
        ),
        (
            "linkup",
            with(&[link("lnk", &up("/tmp")), file("lnk/pwn-linkup", b"x")]),
            Runs,
        ),
        (
            "linklayer",
            with(&[link("lnk", &up("/tmp"))])
                .raw_layer(Packing::Plain, archive(&[file("lnk/pwn-linklayer", b"x")])),
            Runs,
        ),
        (
            "linkloop",
            with(&[link("a", "b"), link("b", "a"), file("a/pwn-loop", b"x")]),
            Refused(Reason::ImageLayerInvalid, "too many"),
        ),
        (
            "hardlink",
            with(&[entry(Link, "etc/stolen", &up("/etc/shadow"), b"")]),
            Refused(Reason::ImageLayerInvalid, "no such file"),
        ),
        (
            "hardlinkself",
            with(&[entry(Link, "self", "self", b"")]),
            Refused(Reason::ImageLayerInvalid, ""),
        ),
        (
            "passwdabs",
            passwd(link("etc/passwd", "/proc/1/root/etc/passwd")),
            Refused(Reason::UserNotFound, "daemon"),
        ),
        (
            "passwdup",
            passwd(link("etc/passwd", &up("/etc/passwd"))),
            Refused(Reason::UserNotFound, "a link to itself"),
        ),
        (
            "passwdthere",
            with(&[
                file("var/passwd", b"daemon:x:1:1::/:/bin/sh\n"),
                link("etc/passwd", &up("/var/passwd")),
            ])
            .config("User", json!("daemon")),
            Runs,
        ),
        (
            "passwdfifo",
            passwd(entry(Fifo, "etc/passwd", "", b"")),
            Refused(Reason::UserNotFound, ""),
        ),
        (
            "passwdzero",
            passwd(node(Char, "etc/passwd", 1, 5)),
            Refused(Reason::UserNotFound, ""),
        ),
        (
            "passwdbig",
            passwd(file("etc/passwd", &b"a:x:1:1:::\n".repeat(MIB / 2))),
            Refused(Reason::UserNotFound, ""),
        ),
        (
            "passwdloop",
            passwd(link("etc/passwd", "passwd")),
            Refused(Reason::UserNotFound, ""),
        ),
        (
            "uid",
            with(&[file(
                "etc/passwd",
                b"daemon:x:4294967295:4294967295::/:/bin/sh\n",
            )])
            .config("User", json!("daemon")),
            Refused(Reason::UserNotFound, ""),
        ),
        (
            "devices",
            with(&[
                node(Block, "disk", 254, 0),
                node(Char, "mem", 1, 1),
                node(Char, "tun", 10, 200),
            ]),
            Runs,
        ),
        (
            "mountpoints",
            with(&[
                link("proc", "/etc"),
                link("sys", "/tmp"),
                link("etc/hosts", &up("/tmp/pwn-hosts")),
                link("etc/resolv.conf", "/tmp/pwn-resolv"),
            ]),
            Refused(Reason::MountFailed, ""),
        ),
        ("whiteout", with(&[file(".wh..wh..opq", b"")]), Runs),
        (
            "whiteoutup",
            with(&[file(".wh...", b""), file("x/.wh..", b"")]),
            Refused(Reason::ImageLayerInvalid, ""),
        ),
        (
            "paxsparse1",
            pax_sparse(&[
                ("GNU.sparse.major", "1"),
                ("GNU.sparse.minor", "0"),
                ("GNU.sparse.name", "hole"),
                ("GNU.sparse.realsize", TERA),
            ]),
            Refused(Reason::ImageTooLarge, "image.max_unpacked"),
        ),
        (
            "paxsparse0",
            pax_sparse(&[
                ("GNU.sparse.size", TERA),
                ("GNU.sparse.numblocks", "1"),
                ("GNU.sparse.map", "0,512"),
            ]),
            Refused(Reason::ImageTooLarge, "image.max_unpacked"),
        ),
        (
            "oldsparse",
            with(&[old_sparse]),
            Refused(Reason::ImageLayerInvalid, "unhandled tar header type"),
        ),
        (
            "zeros",
            Image::busybox().raw_layer(Packing::Gzip, zeros(32 * MIB)),
            Refused(Reason::ImageTooLarge, "image.max_unpacked"),
        ),
        (
            "zeroszstd",
            Image::busybox().raw_layer(Packing::Zstd, zeros(32 * MIB)),
            Refused(Reason::ImageTooLarge, "image.max_unpacked"),
        ),
        (
            "zerosbehind",
            Image::busybox().raw_layer(Packing::Gzip, vec![0; 32 * MIB]),
            Runs,
        ),
        (
            "summed",
            Image::busybox()
                .raw_layer(Packing::Gzip, zeros(14 * MIB))
                .raw_layer(Packing::Gzip, zeros(14 * MIB + 1)),
            Refused(Reason::ImageTooLarge, "image.max_unpacked"),
        ),
        ("many", with(&many), Runs),
        (
            "hugepax",
            with(&[
                entry(tar::EntryType::XHeader, "pax", "", &vec![b'x'; 2 * MIB]),
                file("x", b""),
            ]),
            Refused(Reason::ImageLayerInvalid, ""),
        ),
        (
            "oddpax",
            with(&[pax(&[("size", "-1")]), file("x", b"")]),
            Refused(Reason::ImageLayerInvalid, ""),
        ),
        (
            "text",
            Image::busybox().no_archive(),
            Refused(Reason::ImageLayerInvalid, "tar"),
        ),
        (
            "layers",
            Image::busybox().layers(130),
            Refused(Reason::ImageInvalid, "layers"),
        ),
        (
            "claimed",
            Image::busybox().claims_layers(3),
            Refused(Reason::ImageInvalid, "layers"),
        ),
        (
            "longer",
            with(&[file("longer", b"x")]).claims_bytes(5),
            Refused(Reason::DigestMismatch, "push the image again"),
        ),
        (
            "kind",
            with(&[file("kind", b"x")]).layer_type("application/vnd.example.tar"),
            Refused(
                Reason::ImageFormatUnsupported,
                "application/vnd.example.tar",
            ),
        ),
        (
            "chart",
            with(&[file("chart", b"x")]).config_type("application/vnd.cncf.helm.config.v1+json"),
            Refused(Reason::ImageFormatUnsupported, "helm"),
        ),
        (
            "platform",
            with(&[file("platform", b"x")]).architecture("\u{1b}[31mvax"),
            Refused(Reason::ImagePlatformMismatch, "vax"),
        ),
        (
            "volumes",
            with(&[file("volumes", b"x")]).config("Volumes", Value::Object(volumes)),
            Refused(Reason::ImageInvalid, "Volumes"),
        ),
        (
            "nul",
            with(&[file("nul", b"x")]).config("Env", json!(["A=\u{0}b"])),
            Refused(Reason::ImageInvalid, "NUL"),
        ),
        (
            "bomb",
            with(&[file("bomb", b"x")]).config("Env", json!(environment)),
            Refused(Reason::ImageInvalid, "bytes"),
        ),
        (
            "entrypoint",
            with(&[file("entrypoint", b"x")]).config("Entrypoint", json!({"a": 1})),
            Refused(Reason::ImageInvalid, "Entrypoint"),
        ),
        (
            "signal",
            with(&[file("signal", b"x")]).config("StopSignal", json!("SIGEVIL\n")),
            Refused(Reason::ImageInvalid, "signal"),
        ),
        (
            "user",
            with(&[file("user", b"x")]).config("User", json!("x\u{1b}[2J\nFAKE:y")),
            Refused(Reason::UserNotFound, "FAKE"),
        ),
        (
            "workdir",
            with(&[file("workdir", b"x")]).config("WorkingDir", json!("/../../../../../../etc")),
            Runs,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_image_has_its_refusal_or_runs_harmlessly() {
    let rows = rows();
    let bed = Testbed::new();
    let registry = Registry::open(&bed);
    for (name, image, _) in &rows {
        image.push(&registry, &format!("{name}:1")).await;
    }
    let variables = [
        ("CHAS_REGISTRY_INSECURE", registry.address()),
        ("CHAS_IMAGE_MAX_UNPACKED", MAX),
        ("CHAS_REGISTRY_PULLS_PER_REGISTRY", "16"),
        ("CHAS_REGISTRY_PULLS_MAX", "16"),
    ];
    let agent = crate::harness::agent::Agent::start_with(&bed, &variables).await;
    let address = registry.address();
    let deployed = join_all(rows.iter().map(async |(name, ..)| {
        let body = json!({"name": name, "image": format!("{address}/{name}:1"), "args": ["sleep", "1000"], "stop": {"timeout": "0s"}});
        agent.deploy(&body).await
    }));
    for (status, problem) in deployed.await {
        assert_eq!(status, 202, "{problem}");
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut wrong = Vec::new();
        for (name, _, outcome) in &rows {
            let (_, shown) = agent.get(&format!("/containers/{name}")).await;
            if !outcome.is(&shown) {
                let told = [&shown["status"], &shown["reason"], &shown["message"]];
                wrong.push(format!("{name}: {told:?}"));
            }
        }
        if wrong.is_empty() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{wrong:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = std::fs::read_dir("/tmp").unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    let escaped = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("pwn-");
    assert_eq!(left.iter().find(escaped), None);
    Stand {
        agent,
        registry,
        bed,
    }
    .end()
    .await;
}
