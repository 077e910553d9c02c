//! Brings an image's parts into the content store: from there if they are there already, else from the registry, going
//! on where an earlier try ended.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use state::digest::{is_digest, sha256};
use state::failure::Failure;
use state::reason::Reason;
use state::reference::ImageReference;

use super::flight::Flights;
use super::local::CONFIG_BYTES_MAX;
use super::manifest::{self, Document};
use super::patience::Patience;
use crate::oci::descriptor::Descriptor;
use crate::registry::{MANIFEST_BYTES_MAX, Registry, RegistryConfig, RegistryError};
use crate::runtime::containerd::content::{self, Opened, PIECE_BYTES, StoreError, Writer};
use crate::runtime::containerd::lease::Lease;
use crate::runtime::{PullProgress, RuntimeError};

/// One pull's way to the parts of its image.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    /// `None`: only what is on the node may be used.
    pub(crate) registry: Option<&'a Registry>,
    pub(crate) config: &'a RegistryConfig,
    pub(crate) flights: &'a Flights,
    pub(crate) image: &'a ImageReference,
    pub(crate) lease: &'a Lease,
    pub(crate) progress: &'a PullProgress,
}

/// A manifest or index with the bytes that its digest is over.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) document: Document,
    pub(crate) blob: Descriptor,
    pub(crate) bytes: Bytes,
}

/// Why one try to download a layer ended.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Fetch<'_> {
    fn registry(&self) -> Result<&Registry, RuntimeError> {
        self.registry.ok_or_else(|| {
            let message = format!(
                "{} is not on the node, and image_pull is \"never\"",
                self.image
            );
            RuntimeError::failed(Reason::ImageNotPresent, message)
        })
    }

    /// The digest a tag stands for now; `None`: only its manifest can tell.
    pub(crate) async fn resolve(&self, tag: &str) -> Result<Option<String>, RuntimeError> {
        let mut patience = Patience::new(self.config);
        loop {
            match self.registry()?.resolve(self.image, tag).await {
                Ok(digest) => return Ok(digest.filter(|digest| is_digest(digest))),
                Err(error) => patience.wait_after(error).await?,
            }
        }
    }

    /// The manifest or index under a tag or digest. `declared` is the media type it was promised with, if any.
    pub(crate) async fn document(
        &self,
        version: &str,
        declared: &str,
    ) -> Result<Fetched, RuntimeError> {
        if is_digest(version) {
            self.lease.hold_blob(version).await?;
            if let Some(bytes) =
                content::read(&self.lease.client, version, MANIFEST_BYTES_MAX).await?
            {
                return Ok(fetched(bytes, declared)?);
            }
        }
        let mut patience = Patience::new(self.config);
        loop {
            let error = match self.registry()?.manifest(self.image, version).await {
                Ok(sent) if !is_digest(version) || sha256(&sent.bytes) == version => {
                    return Ok(fetched(sent.bytes, &sent.media_type)?);
                }
                Ok(sent) => mismatch("manifest", version, &sha256(&sent.bytes)),
                Err(error) => error,
            };
            patience.wait_after(error).await?;
        }
    }

    /// The image's configuration.
    pub(crate) async fn configuration(&self, blob: &Descriptor) -> Result<Bytes, RuntimeError> {
        if blob.size > CONFIG_BYTES_MAX as u64 {
            let message = format!(
                "the image's configuration has {} bytes, more than {CONFIG_BYTES_MAX}",
                blob.size
            );
            return Err(RuntimeError::failed(Reason::ImageInvalid, message));
        }
        self.lease.hold_blob(&blob.digest).await?;
        if let Some(bytes) =
            content::read(&self.lease.client, &blob.digest, CONFIG_BYTES_MAX).await?
        {
            return Ok(bytes);
        }
        let mut patience = Patience::new(self.config);
        loop {
            let error = match self
                .registry()?
                .small_blob(self.image, &blob.digest, CONFIG_BYTES_MAX)
                .await
            {
                Ok(bytes) if sha256(&bytes) == blob.digest => return Ok(bytes),
                Ok(bytes) => mismatch("configuration", &blob.digest, &sha256(&bytes)),
                Err(error) => error,
            };
            patience.wait_after(error).await?;
        }
    }

    /// Stores a small blob with the labels that lead the garbage collector on to what it refers to.
    pub(crate) async fn store(
        &self,
        blob: &Descriptor,
        bytes: &Bytes,
        labels: &HashMap<String, String>,
    ) -> Result<(), RuntimeError> {
        let _alone = self.flights.enter(&format!("blob {}", blob.digest)).await;
        let mut patience = Patience::new(self.config);
        loop {
            match content::put(&self.lease.client, blob, bytes, labels).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    patience
                        .wait_after(self.recover(blob, error).await?)
                        .await?;
                }
            }
        }
    }

    /// A layer's blob, which may be large: downloaded in as many tries as it takes, each from where the last one ended.
    pub(crate) async fn layer(&self, blob: &Descriptor) -> Result<(), RuntimeError> {
        let _alone = self.flights.enter(&format!("blob {}", blob.digest)).await;
        let mut patience = Patience::new(self.config);
        let mut counted = 0;
        loop {
            let before = counted;
            let error = match self.try_layer(blob, &mut counted).await {
                Ok(()) => {
                    self.progress.add_fetched(blob.size.saturating_sub(counted));
                    return Ok(());
                }
                Err(TryError::Registry(error)) => {
                    if counted > before {
                        patience.advanced();
                    }
                    error
                }
                Err(TryError::Store(error)) => {
                    let error = self.recover(blob, error).await?;
                    // What was thrown away is to be fetched once more.
                    self.progress.add_total(std::mem::take(&mut counted));
                    error
                }
            };
            patience.wait_after(error).await?;
        }
    }

    /// Makes a clean start possible after the content store refused a blob.
    async fn recover(
        &self,
        blob: &Descriptor,
        error: StoreError,
    ) -> Result<RegistryError, RuntimeError> {
        match error {
            StoreError::Runtime(error) => Err(error),
            StoreError::Locked(_) => Ok(RegistryError::passing(
                Reason::CreateFailed,
                error.to_string(),
            )),
            StoreError::Mismatch(message) => {
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

    /// One try. `counted` is what of the blob has been reported as fetched.
    async fn try_layer(&self, blob: &Descriptor, counted: &mut u64) -> Result<(), TryError> {
        let mut writer = match content::open(&self.lease.client, blob).await? {
            Opened::There => return Ok(()),
            Opened::Writer(writer) => writer,
        };
        self.count(&writer, counted);
        if writer.offset() < blob.size {
            let registry = self.registry().map_err(StoreError::from)?;
            let mut body = registry
                .blob(self.image, &blob.digest, writer.offset())
                .await?;
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
            let ended = loop {
                match body.next().await {
                    Ok(Some(chunk)) => {
                        self.progress.add_received(chunk.len() as u64);
                        buffer.extend_from_slice(&chunk);
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
                if writer.offset() + buffer.len() as u64 > blob.size {
                    return Err(StoreError::Mismatch(format!(
                        "more than the {} bytes promised",
                        blob.size
                    ))
                    .into());
                }
                while buffer.len() >= PIECE_BYTES {
                    writer.write(buffer.split_to(PIECE_BYTES).freeze()).await?;
                    self.count(&writer, counted);
                }
            };
            if !buffer.is_empty() {
                writer.write(buffer.freeze()).await?;
                self.count(&writer, counted);
            }
            ended?;
            if writer.offset() < blob.size {
                let message = format!(
                    "registry {} ended layer {} early",
                    self.image.registry(),
                    blob.digest
                );
                return Err(
                    RegistryError::passing(Reason::ImageDownloadInterrupted, message).into(),
                );
            }
        }
        Ok(writer.commit(HashMap::new()).await?)
    }

    fn count(&self, writer: &Writer, counted: &mut u64) {
        self.progress
            .add_fetched(writer.offset().saturating_sub(*counted));
        self.progress
            .add_total(counted.saturating_sub(writer.offset()));
        *counted = writer.offset();
    }
}

fn fetched(bytes: Bytes, declared: &str) -> Result<Fetched, Failure> {
    let (document, media_type) = manifest::parse(&bytes, declared)?;
    let blob = Descriptor {
        media_type,
        digest: sha256(&bytes),
        size: bytes.len() as u64,
    };
    Ok(Fetched {
        document,
        blob,
        bytes,
    })
}

fn mismatch(what: &str, wanted: &str, got: &str) -> RegistryError {
    let message = format!("the registry sent a {what} with digest {got} instead of {wanted}");
    RegistryError::passing(Reason::DigestMismatch, message)
}
