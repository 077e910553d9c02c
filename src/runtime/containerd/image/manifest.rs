//! Manifests and indexes, of OCI and of Docker, from registries that are not trusted: everything
//! has a bound.

use serde::Deserialize;
use state::digest::is_digest;
use state::failure::Failure;
use state::reason::Reason;

use super::platform::Platform;
use crate::oci::descriptor::Descriptor;

/// Largest number of layers that overlayfs can be mounted with as containerd does it; docker builds
/// 127 at most.
const LAYERS_MAX: usize = 128;

/// Variants and attestations in one index; the largest official images have some 30.
const VARIANTS_MAX: usize = 512;

/// Indexes on the way to a manifest, one in the other. Some tools put an index for each platform into
/// the one for all; nobody needs a third.
const INDEXES_MAX: usize = 4;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Type that docker up to 1.10 gave to the configuration, as to any blob.
const ANY_BYTES: &str = "application/octet-stream";

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

/// Document that a reference leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    /// Manifest of one image.
    Manifest(Manifest),
    /// Index of the same image for several platforms.
    Index(Index),
}

/// Image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Configuration of the image.
    pub(crate) config: Descriptor,
    /// Layers, bottom up.
    pub(crate) layers: Vec<Descriptor>,
}

impl Manifest {
    /// Bytes of all layers, packed.
    pub(crate) fn layers_bytes(&self) -> u64 {
        let sizes = self.layers.iter().map(|layer| layer.size);
        sizes.fold(0, u64::saturating_add)
    }
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
    fn check(self) -> Result<(Descriptor, Option<Platform>), Failure> {
        if is_digest(&self.digest) && i64::try_from(self.size).is_ok() {
            Ok((
                Descriptor {
                    media_type: self.media_type,
                    digest: self.digest,
                    size: self.size,
                },
                self.platform.map(Platform::normal),
            ))
        } else {
            let shown: String = self.digest.chars().take(80).collect();
            Err(invalid(format!(
                "it names a part {shown:?} of {} bytes, which is no sha256 digest and size",
                self.size
            )))
        }
    }
}

fn invalid(fault: impl std::fmt::Display) -> Failure {
    Failure::new(
        Reason::ImageInvalid,
        format!("the image's manifest cannot be used: {fault}"),
    )
}

fn unsupported(fault: impl std::fmt::Display) -> Failure {
    Failure::new(
        Reason::ImageFormatUnsupported,
        format!("the image cannot be run: {fault}"),
    )
}

/// Manifest or index in `bytes`, and its media type. `declared` is the type that the registry
/// names: some manifests hold none.
///
/// # Errors
/// [`Reason::ImageInvalid`], [`Reason::ImageFormatUnsupported`] or
/// [`Reason::RegistryAnswerInvalid`], with what is wrong.
pub(crate) fn parse(bytes: &[u8], declared: &str) -> Result<(Document, String), Failure> {
    let wire: Wire = serde_json::from_slice(bytes).map_err(|error| match bytes.trim_ascii_start().first() {
        Some(b'{') => invalid(error),
        _ => Failure::new(
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
        return Err(unsupported(format_args!(
            "it is of schema {}",
            wire.schema_version
        )));
    }
    let named = if wire.media_type.is_empty() {
        declared
    } else {
        &wire.media_type
    };
    let docker = named.starts_with("application/vnd.docker.");
    match (wire.manifests, wire.config, wire.layers) {
        (Some(variants), None, None)
            if matches!(named, OCI_INDEX | DOCKER_INDEX) || wire.media_type.is_empty() =>
        {
            let media_type = if docker { DOCKER_INDEX } else { OCI_INDEX };
            Ok((Document::Index(index(variants)?), media_type.to_owned()))
        }
        (None, Some(config), Some(layers))
            if matches!(named, OCI_MANIFEST | DOCKER_MANIFEST) || wire.media_type.is_empty() =>
        {
            let media_type = if docker {
                DOCKER_MANIFEST
            } else {
                OCI_MANIFEST
            };
            Ok((
                Document::Manifest(manifest(config, layers, docker)?),
                media_type.to_owned(),
            ))
        }
        // Read one way here and the other way by somebody else, the same digest would be two images
        // (CVE-2021-41190).
        (Some(_), ..) => Err(invalid("it claims to be an index and a manifest at once")),
        _ => Err(unsupported(format_args!(
            "a document of type {named:?} is no image"
        ))),
    }
}

fn index(variants: Vec<WireDescriptor>) -> Result<Index, Failure> {
    if variants.len() > VARIANTS_MAX {
        return Err(invalid(format_args!(
            "it has {} variants, more than {VARIANTS_MAX}",
            variants.len()
        )));
    }
    Ok(Index {
        variants: variants
            .into_iter()
            .map(WireDescriptor::check)
            .collect::<Result<_, _>>()?,
    })
}

fn manifest(
    config: WireDescriptor,
    layers: Vec<WireDescriptor>,
    docker: bool,
) -> Result<Manifest, Failure> {
    let (config, _) = config.check()?;
    let of_an_image = match config.media_type.as_str() {
        OCI_CONFIG | DOCKER_CONFIG => true,
        ANY_BYTES => docker,
        _ => false,
    };
    if !of_an_image {
        return Err(unsupported(format_args!(
            "it is not a container image but holds {:?}",
            config.media_type
        )));
    }
    if layers.is_empty() || layers.len() > LAYERS_MAX {
        return Err(invalid(format_args!(
            "it has {} layers; 1 to {LAYERS_MAX} can be run",
            layers.len()
        )));
    }
    let layers = layers
        .into_iter()
        .map(|layer| layer.check().map(|(layer, _)| layer))
        .collect::<Result<Vec<_>, _>>()?;
    match layers
        .iter()
        .find(|layer| !LAYERS.contains(&layer.media_type.as_str()))
    {
        Some(layer) => Err(unsupported(format_args!(
            "its layer {} is of type {:?}, which is not known",
            layer.digest, layer.media_type
        ))),
        None => Ok(Manifest { config, layers }),
    }
}

/// Failure of an image whose indexes lead from one to the next.
pub(crate) fn too_deep() -> Failure {
    invalid(format_args!(
        "more than {INDEXES_MAX} indexes lead from one to the next"
    ))
}

impl Index {
    /// Variant for `host`, as [`Self::choose`], of an index that so many others led to.
    ///
    /// # Errors
    /// [`Reason::ImageInvalid`], when they are too many; else as [`Self::choose`].
    pub(crate) fn choose_at(&self, depth: usize, host: &Platform) -> Result<&Descriptor, Failure> {
        if depth >= INDEXES_MAX {
            return Err(too_deep());
        }
        self.choose(host)
    }

    /// Manifest, or index of its own, of the variant for `host`.
    ///
    /// # Errors
    /// [`Reason::ImagePlatformMismatch`], with the platforms there are.
    pub(crate) fn choose(&self, host: &Platform) -> Result<&Descriptor, Failure> {
        let manifests = || {
            self.variants.iter().filter(|(blob, _)| {
                matches!(
                    blob.media_type.as_str(),
                    OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_INDEX
                )
            })
        };
        let suiting = manifests()
            .rev()
            .filter_map(|(blob, platform)| Some((host.suits(platform.as_ref()?)?, blob)));
        // Of equals the first, as every other client has it. What says nothing about its platform
        // is tried last.
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
            Failure::new(Reason::ImagePlatformMismatch, message)
        })
    }
}

#[cfg(test)]
mod tests;
