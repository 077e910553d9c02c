//! Parts of an image, brought into the content store: from there if they are stored already, else
//! from the registry, resumed where an earlier try ended.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use state::digest::{is_digest, sha256};
use state::failure::Failure;
use state::reason::Reason;
use state::reference::ImageReference;
use tokio::sync::OwnedMutexGuard;

use super::flight::{Flights, is_awaited};
use super::local::CONFIG_BYTES_MAX;
use super::manifest::{self, Document};
use super::other_size;
use super::patience::Patience;
use crate::oci::descriptor::Descriptor;
use crate::registry::{
    BlobBody, MANIFEST_BYTES_MAX, RegistryClient, RegistryConfig, RegistryError,
};
use crate::runtime::containerd::rpc::content::{
    self, BlobWriter, ContentError, OpenedBlob, PIECE_BYTES,
};
use crate::runtime::containerd::rpc::lease::Lease;
use crate::runtime::{PullProgress, RuntimeError};

/// Access of one pull to the parts of its image.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    /// Source of missing parts; `None`: only stored ones may be used.
    pub(crate) registry: Option<&'a RegistryClient>,
    pub(crate) config: &'a RegistryConfig,
    pub(crate) flights: &'a Flights,
    pub(crate) image: &'a ImageReference,
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

/// End of one try to download a layer.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The answer was over in good order before all that was promised had come.
    #[error("the answer ended early")]
    Ended(RegistryError),
    /// More came than was promised.
    #[error(transparent)]
    Longer(Failure),
    #[error(transparent)]
    Store(#[from] ContentError),
    /// Nothing came, and another pull wants the turn.
    #[error("another pull takes over")]
    Yielded,
}

impl Fetch<'_> {
    fn registry(&self) -> Result<&RegistryClient, RuntimeError> {
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
                .small_blob(self.image, &blob.digest, CONFIG_BYTES_MAX)
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
    async fn turn(&self, blob: &Descriptor) -> OwnedMutexGuard<()> {
        let key = format!("blob {}", blob.digest);
        let note = || format!("waits for another pull, which fetches {} too", blob.digest);
        self.flights.turn(&key, self.progress, note).await
    }

    /// Downloads a layer's blob, which may be large, in as many tries as it takes, each from where
    /// the last one ended.
    pub(crate) async fn layer(&self, blob: &Descriptor) -> Result<(), RuntimeError> {
        let mut patience = Patience::new(self.config);
        let (mut counted, mut may_yield) = (0, true);
        // Bytes after which a try ended in good order, although more were promised.
        let mut ended = None;
        loop {
            let before = counted;
            // Another pull may have a registry that answers: the turn is not kept over a wait.
            let tried = {
                let turn = self.turn(blob).await;
                self.try_layer(blob, &mut counted, &turn, may_yield).await
            };
            let error = match tried {
                Ok(()) => {
                    self.progress.set_fault(None);
                    self.progress.add_fetched(blob.size.saturating_sub(counted));
                    return Ok(());
                }
                Err(TryError::Yielded) => {
                    may_yield = false;
                    continue;
                }
                // There is nothing behind that place, whether the registry says so by an error or not.
                Err(TryError::Ended(_) | TryError::Registry(RegistryError::Lasting(_)))
                    if ended == Some(counted) =>
                {
                    content::abort(&self.lease.client, &blob.digest).await?;
                    return Err(other_size::failure(self.image, blob, counted, "").into());
                }
                Err(TryError::Ended(error)) => {
                    ended = Some(counted);
                    if counted > before {
                        patience.advanced();
                    }
                    error
                }
                Err(TryError::Registry(error)) => {
                    if counted > before {
                        patience.advanced();
                    }
                    error
                }
                Err(TryError::Longer(failure)) => {
                    content::abort(&self.lease.client, &blob.digest).await?;
                    self.progress.add_total(std::mem::take(&mut counted));
                    RegistryError::Passing(failure)
                }
                Err(TryError::Store(error)) => {
                    let error = self.recover(blob, error).await?;
                    // The part that was deleted is to be fetched once more.
                    self.progress.add_total(std::mem::take(&mut counted));
                    error
                }
            };
            patience.wait_after(error, self.progress).await?;
        }
    }

    /// Makes a clean start possible after the content store refused a blob, and answers the error
    /// of the try.
    async fn recover(
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

    /// Downloads a layer's blob in one try. `counted` are its bytes that were reported as fetched.
    async fn try_layer(
        &self,
        blob: &Descriptor,
        counted: &mut u64,
        turn: &OwnedMutexGuard<()>,
        may_yield: bool,
    ) -> Result<(), TryError> {
        let mut writer = match content::open(&self.lease.client, blob).await? {
            OpenedBlob::Complete => return Ok(()),
            OpenedBlob::Writer(writer) => writer,
        };
        self.count(&writer, counted);
        let mut source = None;
        if writer.offset() < blob.size {
            let received = self.receive(blob, &mut writer, counted, turn, may_yield);
            match received.await {
                Ok(body) => source = Some(body),
                Err(error) => {
                    // Until containerd has let go of it, the blob can be neither resumed nor deleted.
                    writer.close().await;
                    return Err(error);
                }
            }
        }
        Ok(writer
            .commit(HashMap::new())
            .await
            .map_err(|error| match error {
                ContentError::Mismatch(message) => {
                    let from =
                        source.map_or_else(|| "an earlier try".to_owned(), |body| body.blame());
                    ContentError::Mismatch(format!("{message}, from {from}"))
                }
                ContentError::Locked(_) | ContentError::Runtime(_) => error,
            })?)
    }

    /// Awaits `answer`, but not for long while another pull wants the turn.
    async fn unless_awaited<T>(
        &self,
        turn: &OwnedMutexGuard<()>,
        may_yield: bool,
        answer: impl Future<Output = T> + Send,
    ) -> Result<T, TryError> {
        let mut answer = std::pin::pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                () = tokio::time::sleep(self.config.idle_after), if may_yield => {}
            }
            if is_awaited(turn) {
                return Err(TryError::Yielded);
            }
        }
    }

    /// Receives what a blob's writer lacks, and answers where it came from.
    async fn receive(
        &self,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        counted: &mut u64,
        turn: &OwnedMutexGuard<()>,
        may_yield: bool,
    ) -> Result<BlobBody<'_>, TryError> {
        let registry = self.registry().map_err(ContentError::from)?;
        let asked = registry.blob(self.image, &blob.digest, writer.offset());
        let mut body = self.unless_awaited(turn, may_yield, asked).await??;
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        let ended = loop {
            match self.unless_awaited(turn, may_yield, body.next()).await? {
                Ok(Some(chunk)) => {
                    self.progress.add_received(chunk.len() as u64);
                    buffer.extend_from_slice(&chunk);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            let sent = writer.offset() + buffer.len() as u64;
            if sent > blob.size {
                let failure = other_size::longer(self.image, blob, sent, &mut body).await;
                return Err(TryError::Longer(failure));
            }
            while buffer.len() >= PIECE_BYTES {
                writer.write(buffer.split_to(PIECE_BYTES).freeze()).await?;
                self.count(writer, counted);
            }
        };
        if !buffer.is_empty() {
            writer.write(buffer.freeze()).await?;
            self.count(writer, counted);
        }
        ended?;
        if writer.offset() < blob.size {
            let message = format!(
                "registry {} ended layer {} early",
                self.image.registry(),
                blob.digest
            );
            let error = RegistryError::passing(Reason::ImageDownloadInterrupted, message);
            return Err(TryError::Ended(error));
        }
        Ok(body)
    }

    fn count(&self, writer: &BlobWriter, counted: &mut u64) {
        self.progress
            .add_fetched(writer.offset().saturating_sub(*counted));
        self.progress
            .add_total(counted.saturating_sub(writer.offset()));
        *counted = writer.offset();
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
