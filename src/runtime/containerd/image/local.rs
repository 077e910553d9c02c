//! Images as they are on the node, read without any network.

use bytes::Bytes;
use oci_spec::image::ImageConfiguration;
use state::digest::is_digest;
use state::failure::Failure;
use state::reason::Reason;

use super::manifest::{self, Document, Manifest};
use super::platform::Platform;
use super::unpack;
use crate::registry::MANIFEST_BYTES_MAX;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::ContainerdClient;
use crate::runtime::containerd::rpc::content;

/// Bytes of the largest configuration. Environment, labels and history of every build step lie in
/// it: some 10 kB, with documents in labels some 100 kB. It is parsed in memory, so a
/// registry must not choose its size.
pub(crate) const CONFIG_BYTES_MAX: usize = 4 << 20;

/// Image that containers can be made from.
#[derive(Clone, Debug)]
pub struct LocalImage {
    /// Digest of the manifest or index that the reference resolved to.
    pub digest: String,
    /// Snapshot with all layers: the parent of a container's own.
    pub top_chain_id: String,
    /// Entrypoint, command, environment, directory, user and stop signal, as the image's author set
    /// them.
    pub config: ImageConfiguration,
}

/// Configuration of an image, checked against its manifest and this machine.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// Parsed document.
    pub(crate) parsed: ImageConfiguration,
    /// Digests of the unpacked layers, bottom up.
    pub(crate) diff_ids: Vec<String>,
}

/// Configuration in `bytes`, checked against manifest and host.
///
/// # Errors
/// [`Reason::ImageInvalid`], or [`Reason::ImagePlatformMismatch`] when it is for another machine.
pub(crate) fn configuration(
    bytes: &Bytes,
    manifest: &Manifest,
    host: &Platform,
) -> Result<Configuration, Failure> {
    let invalid = |fault: &dyn std::fmt::Display| {
        Failure::new(
            Reason::ImageInvalid,
            format!("the image's configuration cannot be used: {fault}"),
        )
    };
    let parsed =
        ImageConfiguration::from_reader(bytes.as_ref()).map_err(|error| invalid(&error))?;
    let made_for = Platform {
        os: parsed.os().to_string(),
        architecture: parsed.architecture().to_string(),
        variant: None,
    };
    // The index chose the variant already; many configurations do not name it.
    if host.os != made_for.os || host.architecture != made_for.architecture {
        let message = format!("the image is made for {made_for}, and this machine is {host}");
        return Err(Failure::new(Reason::ImagePlatformMismatch, message));
    }
    let diff_ids = parsed.rootfs().diff_ids().clone();
    if diff_ids.len() != manifest.layers.len() {
        let (layers, diffs) = (manifest.layers.len(), diff_ids.len());
        return Err(invalid(&format_args!(
            "it tells of {diffs} layers, and the manifest of {layers}"
        )));
    }
    if let Some(wrong) = diff_ids.iter().find(|diff_id| !is_digest(diff_id)) {
        let shown: String = wrong.chars().take(80).collect();
        return Err(invalid(&format_args!("{shown:?} is no sha256 digest")));
    }
    Ok(Configuration { parsed, diff_ids })
}

/// Image under a root digest; `None`: manifest, configuration or an unpacked layer is absent.
///
/// # Errors
/// When containerd does not answer, or the image is there and cannot run on this machine.
pub(crate) async fn look(
    client: &ContainerdClient,
    digest: &str,
    host: &Platform,
) -> Result<Option<LocalImage>, RuntimeError> {
    let Some(bytes) = content::read(client, digest, MANIFEST_BYTES_MAX).await? else {
        return Ok(None);
    };
    let manifest = match manifest::parse(&bytes, "")?.0 {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => {
            let chosen = index.choose(host)?;
            let Some(bytes) = content::read(client, &chosen.digest, MANIFEST_BYTES_MAX).await?
            else {
                return Ok(None);
            };
            match manifest::parse(&bytes, &chosen.media_type)?.0 {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(nested().into()),
            }
        }
    };
    let Some(bytes) = content::read(client, &manifest.config.digest, CONFIG_BYTES_MAX).await?
    else {
        return Ok(None);
    };
    let configuration = configuration(&bytes, &manifest, host)?;
    let top = unpack::chain_ids(&configuration.diff_ids)
        .pop()
        .unwrap_or_default();
    if !unpack::is_unpacked(client, &top).await? {
        return Ok(None);
    }
    Ok(Some(LocalImage {
        digest: digest.to_owned(),
        top_chain_id: top,
        config: configuration.parsed,
    }))
}

/// Error for an index in an index, which no builder makes.
pub(crate) fn nested() -> Failure {
    Failure::new(
        Reason::ImageFormatUnsupported,
        "the image's index leads to another index, which is not followed",
    )
}
