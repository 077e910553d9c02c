//! Parts of an image, brought into the content store: from there if they are stored already, else
//! from the registry, resumed where an earlier try ended.

use std::collections::HashMap;

use bytes::Bytes;
use state::digest::{is_digest, sha256};
use state::failure::Failure;
use state::policy::signers::SignatureDemand;
use state::reason::Reason;
use state::reference::ImageReference;
use tokio::sync::OwnedMutexGuard;

use super::flight::Flights;
use super::local::CONFIG_BYTES_MAX;
use super::manifest::{self, Document};
use super::patience::Patience;
use super::room::Room;
use super::share::PullShare;
use crate::oci::descriptor::Descriptor;
use crate::registry::{MANIFEST_BYTES_MAX, RegistryClient, RegistryConfig, RegistryError};
use crate::runtime::containerd::rpc::content::{self, ContentError};
use crate::runtime::containerd::rpc::lease::Lease;
use crate::runtime::{PullProgress, RuntimeError};

/// Access of one pull to the parts of its image.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    /// Source of missing parts; `None`: only stored ones may be used.
    pub(crate) registry: Option<&'a RegistryClient>,
    pub(crate) config: &'a RegistryConfig,
    pub(crate) room: &'a Room,
    /// Share of this pull in the room.
    pub(crate) share: &'a PullShare,
    pub(crate) flights: &'a Flights,
    pub(crate) image: &'a ImageReference,
    /// Signatures that the image needs.
    pub(crate) signatures: &'a [SignatureDemand],
    pub(crate) lease: &'a Lease,
    pub(crate) progress: &'a PullProgress,
}

/// Manifest or index with the bytes that its digest is over.
#[derive(Debug)]
pub(crate) struct FetchedDocument {
    pub(crate) document: Document,
    pub(crate) blob: Descriptor,
    pub(crate) bytes: Bytes,
}

impl Fetch<'_> {
    pub(super) fn registry(&self) -> Result<&RegistryClient, RuntimeError> {
        self.registry.ok_or_else(|| {
            let message = format!(
                "{} is not on the node, and image_pull is \"never\"",
                self.image
            );
            RuntimeError::failed(Reason::ImageNotPresent, message)
        })
    }

    /// Digest that a tag stands for now; `None`: only its manifest can tell.
    pub(crate) async fn resolve(&self, tag: &str) -> Result<Option<String>, RuntimeError> {
        let mut patience = Patience::new(self.config);
        loop {
            match self.registry()?.resolve(self.image, tag).await {
                Ok(digest) => {
                    self.progress.set_fault(None);
                    return Ok(digest.filter(|digest| is_digest(digest)));
                }
                Err(error) => patience.wait_after(error, self.progress).await?,
            }
        }
    }

    /// Manifest or index under a tag or digest. `declared` is the media type it was promised with,
    /// if any.
    pub(crate) async fn document(
        &self,
        version: &str,
        declared: &str,
    ) -> Result<FetchedDocument, RuntimeError> {
        if is_digest(version) {
            self.lease.keep_blob(version).await?;
            if let Some(bytes) =
                content::read(&self.lease.client, version, MANIFEST_BYTES_MAX).await?
            {
                return Ok(fetched(bytes, declared)?);
            }
        }
        let mut patience = Patience::new(self.config);
        loop {
            let error = match self.registry()?.manifest(self.image, version).await {
                Ok(sent) => {
                    self.progress.set_fault(None);
                    return Ok(fetched(sent.bytes, &sent.media_type)?);
                }
                Err(error) => error,
            };
            patience.wait_after(error, self.progress).await?;
        }
    }

    /// Configuration of the image.
    pub(crate) async fn configuration(&self, blob: &Descriptor) -> Result<Bytes, RuntimeError> {
        if blob.size > CONFIG_BYTES_MAX as u64 {
            let message = format!(
                "the image's configuration has {} bytes, more than {CONFIG_BYTES_MAX}",
                blob.size
            );
            return Err(RuntimeError::failed(Reason::ImageInvalid, message));
        }
        self.lease.keep_blob(&blob.digest).await?;
        if let Some(bytes) =
            content::read(&self.lease.client, &blob.digest, CONFIG_BYTES_MAX).await?
        {
            return Ok(bytes);
        }
        let mut patience = Patience::new(self.config);
        loop {
            let error = match self
                .registry()?
                .small_blob(
                    self.image,
                    &blob.digest,
                    ("image configuration", CONFIG_BYTES_MAX),
                )
                .await
            {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            patience.wait_after(error, self.progress).await?;
        }
    }

    /// Stores a small blob with the labels that lead the garbage collector on to what it refers to.
    pub(crate) async fn store(
        &self,
        blob: &Descriptor,
        bytes: &Bytes,
        labels: &HashMap<String, String>,
    ) -> Result<(), RuntimeError> {
        let _alone = self.turn(blob).await;
        let mut patience = Patience::new(self.config);
        loop {
            match content::put(&self.lease.client, blob, bytes, labels).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    patience
                        .wait_after(self.recover(blob, error).await?, self.progress)
                        .await?;
                }
            }
        }
    }

    /// Turn of this pull at a blob, of which one pull at a time is served.
    pub(super) async fn turn(&self, blob: &Descriptor) -> OwnedMutexGuard<()> {
        let key = format!("blob {}", blob.digest);
        let note = || format!("waits for another pull, which fetches {} too", blob.digest);
        self.flights.turn(&key, self.progress, note).await
    }

    /// Makes a clean start possible after the content store refused a blob, and answers the error
    /// of the try.
    pub(super) async fn recover(
        &self,
        blob: &Descriptor,
        error: ContentError,
    ) -> Result<RegistryError, RuntimeError> {
        match error {
            ContentError::Runtime(error) => Err(error),
            ContentError::Locked(_) => Ok(RegistryError::passing(
                Reason::CreateFailed,
                error.to_string(),
            )),
            ContentError::Mismatch(message) => {
                content::abort(&self.lease.client, &blob.digest).await?;
                let registry = self.image.registry();
                let message = format!(
                    "registry {registry} sent something else than {}: {message}",
                    blob.digest
                );
                Ok(RegistryError::passing(Reason::DigestMismatch, message))
            }
        }
    }
}

fn fetched(bytes: Bytes, declared: &str) -> Result<FetchedDocument, Failure> {
    let (document, media_type) = manifest::parse(&bytes, declared)?;
    let blob = Descriptor {
        media_type,
        digest: sha256(&bytes),
        size: bytes.len() as u64,
    };
    Ok(FetchedDocument {
        document,
        blob,
        bytes,
    })
}
