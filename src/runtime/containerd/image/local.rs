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

/// Manifest for `host` that a root digest leads to, and the digests on the way from the root down to
/// it. `None`: one of them is absent; those before it are answered all the same.
async fn way(
    client: &ContainerdClient,
    digest: &str,
    host: &Platform,
) -> Result<(Option<Manifest>, Vec<String>), RuntimeError> {
    let (mut digests, mut declared) = (vec![digest.to_owned()], String::new());
    loop {
        let depth = digests.len() - 1;
        let bytes = content::read(client, &digests[depth], MANIFEST_BYTES_MAX).await?;
        let Some(bytes) = bytes else {
            return Ok((None, digests));
        };
        match manifest::parse(&bytes, &declared)?.0 {
            Document::Manifest(manifest) => return Ok((Some(manifest), digests)),
            Document::Index(index) => {
                let chosen = index.choose_at(depth, host)?;
                digests.push(chosen.digest.clone());
                declared.clone_from(&chosen.media_type);
            }
        }
    }
}

/// Digests of an image on the node, from its root down to the manifest for `host`, and whether that
/// is there: where one on the way is absent, nobody knows those below it.
///
/// # Errors
/// When containerd does not answer, or what is there is no image for this machine.
pub(crate) async fn digests(
    client: &ContainerdClient,
    digest: &str,
    host: &Platform,
) -> Result<(Vec<String>, bool), RuntimeError> {
    let (manifest, digests) = way(client, digest, host).await?;
    Ok((digests, manifest.is_some()))
}

/// Bytes of the layers of an image, packed. `None`: its manifest is absent.
///
/// # Errors
/// When containerd does not answer, or what is there is no image for this machine.
pub(crate) async fn packed_bytes(
    client: &ContainerdClient,
    digest: &str,
    host: &Platform,
) -> Result<Option<u64>, RuntimeError> {
    let (manifest, _) = way(client, digest, host).await?;
    Ok(manifest.map(|manifest| manifest.layers_bytes()))
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
    let (Some(manifest), digests) = way(client, digest, host).await? else {
        return Ok(None);
    };
    let Some(bytes) = content::read(client, &manifest.config.digest, CONFIG_BYTES_MAX).await?
    else {
        return Ok(None);
    };
    let config = configuration(&bytes, &manifest, host, digests.len() > 1)?;
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
