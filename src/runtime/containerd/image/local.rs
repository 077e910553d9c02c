//! Images as they are on the node, read without any network.

use bytes::Bytes;
use state::digest::is_digest;
use state::failure::Failure;
use state::reason::Reason;

use super::manifest::{self, Document, Manifest};
use super::platform::Platform;
use super::unpack;
use crate::oci::image::ImageConfig;
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
    pub config: ImageConfig,
}

/// Configuration in `bytes`, checked against manifest and host. `chosen`: an index told that the
/// manifest is for this machine.
///
/// # Errors
/// [`Reason::ImageInvalid`], or [`Reason::ImagePlatformMismatch`] when it is for another machine.
pub(crate) fn configuration(
    bytes: &Bytes,
    manifest: &Manifest,
    host: &Platform,
    chosen: bool,
) -> Result<ImageConfig, Failure> {
    let invalid = |fault: &dyn std::fmt::Display| {
        Failure::new(
            Reason::ImageInvalid,
            format!("the image's configuration cannot be used: {fault}"),
        )
    };
    let config = ImageConfig::parse(bytes).map_err(|faults| invalid(&faults))?;
    let made_for = Platform::of(&config.os, &config.architecture, None);
    let untold = config.os.is_empty() || config.architecture.is_empty();
    if untold && !chosen {
        let message = format!(
            "the image's configuration does not tell its platform (\"os\" is {:?}, \"architecture\" is {:?}), so that it \
             suits {host}, this machine, is not known; build it with a tool that writes both",
            config.os, config.architecture
        );
        return Err(Failure::new(Reason::ImagePlatformMismatch, message));
    }
    // The index chose the variant already; many configurations do not name it.
    if !untold && (host.os != made_for.os || host.architecture != made_for.architecture) {
        let message = format!("the image is made for {made_for}, and this machine is {host}");
        return Err(Failure::new(Reason::ImagePlatformMismatch, message));
    }
    let (layers, diffs) = (manifest.layers.len(), config.diff_ids.len());
    if diffs != layers {
        return Err(invalid(&format_args!(
            "it tells of {diffs} layers, and the manifest of {layers}"
        )));
    }
    if let Some(wrong) = config.diff_ids.iter().find(|diff_id| !is_digest(diff_id)) {
        let shown: String = wrong.chars().take(80).collect();
        return Err(invalid(&format_args!("{shown:?} is no sha256 digest")));
    }
    Ok(config)
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
    let mut document = manifest::parse(&bytes, "")?.0;
    let mut depth = 0;
    let manifest = loop {
        let index = match document {
            Document::Manifest(manifest) => break manifest,
            Document::Index(index) => index,
        };
        let chosen = index.choose_at(depth, host)?;
        let Some(bytes) = content::read(client, &chosen.digest, MANIFEST_BYTES_MAX).await? else {
            return Ok(None);
        };
        document = manifest::parse(&bytes, &chosen.media_type)?.0;
        depth += 1;
    };
    let Some(bytes) = content::read(client, &manifest.config.digest, CONFIG_BYTES_MAX).await?
    else {
        return Ok(None);
    };
    let config = configuration(&bytes, &manifest, host, depth > 0)?;
    let top = unpack::chain_ids(&config.diff_ids)
        .pop()
        .unwrap_or_default();
    if !unpack::is_unpacked(client, &top).await? {
        return Ok(None);
    }
    Ok(Some(LocalImage {
        digest: digest.to_owned(),
        top_chain_id: top,
        config,
    }))
}
