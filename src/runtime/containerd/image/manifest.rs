//! Reads manifests and indexes, of OCI and of Docker, from registries that are not trusted: everything has a bound.

use serde::Deserialize;
use state::reason::Reason;

use super::platform::Platform;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::content::Descriptor;

/// More layers than overlayfs can be mounted with as containerd does it; docker builds 127 at most.
const LAYERS_MAX: usize = 128;

/// Variants and attestations in one index; the largest official images have some 30.
const VARIANTS_MAX: usize = 512;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Layers that containerd can unpack, whichever way they are compressed.
const LAYERS: [&str; 10] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// What a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// One image.
    Manifest(Manifest),
    /// The same image for several platforms.
    Index(Index),
}

/// One image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The image's configuration.
    pub(crate) config: Descriptor,
    /// The layers, bottom up.
    pub(crate) layers: Vec<Descriptor>,
}

/// Manifests by platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    variants: Vec<(Descriptor, Option<Platform>)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

impl WireDescriptor {
    fn check(self) -> Result<(Descriptor, Option<Platform>), RuntimeError> {
        if is_digest(&self.digest) && i64::try_from(self.size).is_ok() {
            Ok((Descriptor { media_type: self.media_type, digest: self.digest, size: self.size }, self.platform))
        } else {
            let shown: String = self.digest.chars().take(80).collect();
            Err(invalid(format!("it names a part {shown:?} of {} bytes, which is no sha256 digest and size", self.size)))
        }
    }
}

/// Whether a text is `sha256:` and 64 hex digits in lower case: the only kind of digest used, and safe in paths.
pub(crate) fn is_digest(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.strip_prefix("sha256:").is_some_and(|hash| hash.len() == 64 && hash.bytes().all(hex))
}

fn invalid(fault: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::failed(Reason::ImageInvalid, format!("the image's manifest cannot be used: {fault}"))
}

fn unsupported(fault: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::failed(Reason::ImageFormatUnsupported, format!("the image cannot be run: {fault}"))
}

/// Reads a manifest or index, and says its media type. `declared` is what the registry calls it: some manifests do not
/// say so themselves.
///
/// # Errors
/// [`Reason::ImageInvalid`], [`Reason::ImageFormatUnsupported`] or [`Reason::RegistryAnswerInvalid`], with what is wrong.
pub(crate) fn parse(bytes: &[u8], declared: &str) -> Result<(Document, String), RuntimeError> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| match bytes.trim_ascii_start().first() {
        Some(b'{') => invalid(error),
        _ => RuntimeError::failed(
            Reason::RegistryAnswerInvalid,
            format!("the registry sent something that is no manifest ({declared:?}); is there a proxy or login page before it?"),
        ),
    })?;
    if wire.schema_version == 1 || declared.starts_with(DOCKER_SCHEMA_1) {
        return Err(unsupported(
            "it is of schema 1, which docker itself no longer pulls; push the image again with a current tool",
        ));
    }
    if wire.schema_version != 2 {
        return Err(unsupported(format_args!("it is of schema {}", wire.schema_version)));
    }
    let named = if wire.media_type.is_empty() { declared } else { &wire.media_type };
    let docker = named.starts_with("application/vnd.docker.");
    match (wire.manifests, wire.config, wire.layers) {
        (Some(variants), None, None) if matches!(named, OCI_INDEX | DOCKER_INDEX) || wire.media_type.is_empty() => {
            let media_type = if docker { DOCKER_INDEX } else { OCI_INDEX };
            Ok((Document::Index(index(variants)?), media_type.to_owned()))
        }
        (None, Some(config), Some(layers)) if matches!(named, OCI_MANIFEST | DOCKER_MANIFEST) || wire.media_type.is_empty() => {
            let media_type = if docker { DOCKER_MANIFEST } else { OCI_MANIFEST };
            Ok((Document::Manifest(manifest(config, layers)?), media_type.to_owned()))
        }
        // Read one way here and the other way by somebody else, the same digest would be two images (CVE-2021-41190).
        (Some(_), ..) => Err(invalid("it claims to be an index and a manifest at once")),
        _ => Err(unsupported(format_args!("a document of type {named:?} is no image"))),
    }
}

fn index(variants: Vec<WireDescriptor>) -> Result<Index, RuntimeError> {
    if variants.len() > VARIANTS_MAX {
        return Err(invalid(format_args!("it has {} variants, more than {VARIANTS_MAX}", variants.len())));
    }
    Ok(Index { variants: variants.into_iter().map(WireDescriptor::check).collect::<Result<_, _>>()? })
}

fn manifest(config: WireDescriptor, layers: Vec<WireDescriptor>) -> Result<Manifest, RuntimeError> {
    let (config, _) = config.check()?;
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        return Err(unsupported(format_args!("it is not a container image but holds {:?}", config.media_type)));
    }
    if layers.is_empty() || layers.len() > LAYERS_MAX {
        return Err(invalid(format_args!("it has {} layers; 1 to {LAYERS_MAX} can be run", layers.len())));
    }
    let layers = layers.into_iter().map(|layer| layer.check().map(|(layer, _)| layer)).collect::<Result<Vec<_>, _>>()?;
    match layers.iter().find(|layer| !LAYERS.contains(&layer.media_type.as_str())) {
        Some(layer) => {
            Err(unsupported(format_args!("its layer {} is of type {:?}, which is not known", layer.digest, layer.media_type)))
        }
        None => Ok(Manifest { config, layers }),
    }
}

impl Index {
    /// The variant for `host`.
    ///
    /// # Errors
    /// [`Reason::ImagePlatformMismatch`], with the platforms there are.
    pub(crate) fn choose(&self, host: &Platform) -> Result<&Descriptor, RuntimeError> {
        let manifests =
            || self.variants.iter().filter(|(blob, _)| matches!(blob.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST));
        let suiting = manifests().rev().filter_map(|(blob, platform)| Some((host.suits(platform.as_ref()?)?, blob)));
        // Of equals the first, as every other client has it. What says nothing about its platform is tried last.
        let best = suiting.max_by_key(|(rank, _)| *rank).map(|(_, blob)| blob);
        best.or_else(|| manifests().find(|(_, platform)| platform.is_none()).map(|(blob, _)| blob)).ok_or_else(|| {
            let mut there: Vec<_> = manifests()
                .filter_map(|(_, platform)| platform.as_ref())
                .filter(|platform| platform.os != "unknown")
                .map(ToString::to_string)
                .collect();
            there.truncate(20);
            let there = if there.is_empty() { "no platform at all".to_owned() } else { there.join(", ") };
            let message = format!("the image has no variant for {host}, this machine's platform; it is made for {there}");
            RuntimeError::failed(Reason::ImagePlatformMismatch, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn part(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{HASH}"), "size": 7})
    }

    fn image(media_type: Option<&str>, config: &str, layer: &str, layers: usize) -> Value {
        let mut image = json!({"schemaVersion": 2, "config": part(config), "layers": vec![part(layer); layers]});
        if let Some(media_type) = media_type {
            image["mediaType"] = media_type.into();
        }
        image
    }

    fn variant(platform: Option<&str>) -> Value {
        let mut variant = part(OCI_MANIFEST);
        if let Some((os, architecture)) = platform.and_then(|text| text.split_once('/')) {
            variant["platform"] = json!({"os": os, "architecture": architecture});
        }
        variant
    }

    fn read(document: &Value, declared: &str) -> Result<(Document, String), RuntimeError> {
        parse(document.to_string().as_bytes(), declared)
    }

    #[track_caller]
    fn refused(result: Result<(Document, String), RuntimeError>, expected: Reason, part: &str) {
        match result {
            Err(RuntimeError::Failed { reason, message, .. }) => {
                assert!(reason == expected && message.contains(part), "{reason}: {message}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn manifests_of_every_dialect_are_read_also_without_a_type_of_their_own() {
        for (own, declared, config, layer, media_type) in [
            (Some(OCI_MANIFEST), OCI_MANIFEST, OCI_CONFIG, LAYERS[1], OCI_MANIFEST),
            (None, OCI_MANIFEST, OCI_CONFIG, LAYERS[0], OCI_MANIFEST),
            (None, "", OCI_CONFIG, LAYERS[2], OCI_MANIFEST),
            (None, DOCKER_MANIFEST, DOCKER_CONFIG, LAYERS[7], DOCKER_MANIFEST),
            (Some(DOCKER_MANIFEST), "text/plain", DOCKER_CONFIG, LAYERS[9], DOCKER_MANIFEST),
        ] {
            let (document, found) = read(&image(own, config, layer, 2), declared).unwrap();
            let Document::Manifest(manifest) = document else { panic!("{document:?}") };
            assert_eq!((found.as_str(), manifest.layers.len()), (media_type, 2));
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_its_name() {
        let (invalid, unsupported) = (Reason::ImageInvalid, Reason::ImageFormatUnsupported);
        refused(read(&json!({"schemaVersion": 1, "fsLayers": []}), ""), unsupported, "schema 1");
        refused(read(&json!({"schemaVersion": 3}), ""), unsupported, "schema 3");
        refused(read(&image(None, "application/vnd.cncf.helm.config.v1+json", LAYERS[0], 1), ""), unsupported, "helm");
        refused(read(&image(None, OCI_CONFIG, "application/x-encrypted", 1), ""), unsupported, "x-encrypted");
        refused(read(&image(None, OCI_CONFIG, LAYERS[0], 0), ""), invalid, "0 layers");
        refused(read(&image(None, OCI_CONFIG, LAYERS[0], LAYERS_MAX + 1), ""), invalid, "129 layers");
        refused(read(&json!({"schemaVersion": 2, "manifests": vec![variant(None); VARIANTS_MAX + 1]}), ""), invalid, "513");
        let mut both = image(None, OCI_CONFIG, LAYERS[0], 1);
        both["manifests"] = json!([]);
        refused(read(&both, ""), invalid, "at once");
        let mut disguised = image(Some(OCI_INDEX), OCI_CONFIG, LAYERS[0], 1);
        refused(read(&disguised, OCI_MANIFEST), unsupported, "is no image");
        for digest in ["sha256:0", "md5:00", "sha256:../../../../etc/passwd", ""] {
            disguised = image(None, OCI_CONFIG, LAYERS[0], 1);
            disguised["layers"][0]["digest"] = digest.into();
            refused(read(&disguised, ""), invalid, "no sha256 digest");
        }
        refused(parse(b"<html>log in</html>", "text/html"), Reason::RegistryAnswerInvalid, "login page");
        refused(parse(b"", ""), Reason::RegistryAnswerInvalid, "proxy");
    }

    #[test]
    fn the_first_suiting_variant_is_chosen_and_one_without_a_platform_last() {
        let index = |platforms: &[Option<&str>]| {
            let mut variants: Vec<_> = platforms.iter().map(|platform| variant(*platform)).collect();
            for (n, variant) in variants.iter_mut().enumerate() {
                variant["size"] = n.into();
            }
            match read(&json!({"schemaVersion": 2, "manifests": variants}), "").unwrap().0 {
                Document::Index(index) => index,
                Document::Manifest(_) => panic!("an index"),
            }
        };
        let amd64 = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None };
        let choose = |platforms: &[Option<&str>]| index(platforms).choose(&amd64).map(|blob| blob.size);
        assert_eq!(choose(&[Some("unknown/unknown"), Some("linux/amd64"), Some("linux/amd64")]).unwrap(), 1);
        assert_eq!(choose(&[None, Some("linux/arm64"), Some("linux/amd64")]).unwrap(), 2);
        assert_eq!(choose(&[Some("linux/arm64"), None]).unwrap(), 1);
        let error = choose(&[Some("linux/arm64"), Some("unknown/unknown"), Some("windows/amd64")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("linux/arm64, windows/amd64") && !text.contains("unknown"), "{text}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), declared in ".{0,40}") {
            let _ = parse(&bytes, &declared);
        }
    }
}
