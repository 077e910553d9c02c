//! Download of one layer, in as many tries as it takes, by one pull at a time: every registry may
//! serve it, and none may hold it up or spoil it for another.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use state::failure::Failure;
use state::reason::Reason;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::fetch::Fetch;
use super::flight::is_awaited;
use super::other_size;
use super::patience::Patience;
use super::slots::MOVING_BYTES_PER_S;
use crate::oci::descriptor::Descriptor;
use crate::registry::{BlobBody, RegistryError};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::content::{
    self, BlobWriter, ContentError, OpenedBlob, PIECE_BYTES,
};

/// Doublings, at most, of the time for which a turn is kept in vain: two registries that both drip
/// hand it to each other ever more seldom.
const DOUBLINGS_MAX: u32 = 4;

/// End of one try to download a layer.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The answer of `host` was over in good order before all that was promised had come.
    #[error("the answer of {host} ended early")]
    Ended { host: String, error: RegistryError },
    /// More came than was promised.
    #[error(transparent)]
    Longer(Failure),
    #[error(transparent)]
    Store(#[from] ContentError),
    /// Hardly anything came, and another pull wants the turn.
    #[error("another pull takes over")]
    Yielded,
}

/// Download of one layer by one pull, over all its tries.
#[derive(Debug, Default)]
struct LayerDownload {
    /// Bytes of the layer that were reported as fetched.
    counted: u64,
    /// Whether some of the stored part came by another pull, maybe from another registry.
    is_foreign: bool,
    /// Turns given up for another pull.
    yields: u32,
    /// Host whose answer ended in good order, although more was promised, and after which byte.
    ended: Option<(String, u64)>,
}

/// Speed of one try, of which another pull that waits is told.
#[derive(Debug)]
struct LayerPace {
    /// Time waited for the network, and bytes received in it, since the last look at the speed.
    waited: Duration,
    bytes: u64,
    /// Time between two looks.
    window: Duration,
}

impl LayerPace {
    fn new(window: Duration) -> Self {
        let (waited, bytes) = (Duration::ZERO, 0);
        Self {
            waited,
            bytes,
            window,
        }
    }

    /// Whether hardly anything came since the last look. The next one begins here.
    fn look(&mut self) -> bool {
        let least = MOVING_BYTES_PER_S.saturating_mul(self.window.as_secs().max(1));
        let seen = std::mem::replace(self, Self::new(self.window));
        seen.bytes < least
    }
}

impl Fetch<'_> {
    /// Downloads a layer's blob, which may be large, in as many tries as it takes, each from where
    /// the last one ended.
    pub(crate) async fn layer(&self, blob: &Descriptor) -> Result<(), RuntimeError> {
        let mut patience = Patience::new(self.config);
        let mut download = LayerDownload::default();
        loop {
            let before = download.counted;
            let failed = {
                // Another pull may have a registry that answers: the turn is not kept over a wait.
                let turn = self.turn(blob).await;
                match self.try_layer(blob, &mut download, &turn).await {
                    Ok(()) => break,
                    // What is to be deleted is deleted in the turn: later it is another pull's.
                    Err(error) => self.conclude(blob, &mut download, error).await?,
                }
            };
            let Some(error) = failed else { continue };
            if download.counted > before {
                patience.advanced();
            }
            patience.wait_after(error, self.progress).await?;
        }
        self.progress.set_fault(None);
        self.progress
            .add_fetched(blob.size.saturating_sub(download.counted));
        Ok(())
    }

    /// Makes the next try possible after a failed one, and answers the failure that it waits for;
    /// `None`: it only waits for its turn.
    async fn conclude(
        &self,
        blob: &Descriptor,
        download: &mut LayerDownload,
        error: TryError,
    ) -> Result<Option<RegistryError>, RuntimeError> {
        let error = match error {
            TryError::Yielded => {
                download.yields += 1;
                return Ok(None);
            }
            TryError::Ended { host, error } => {
                let ended = (host, download.counted);
                if download.ended.as_ref() == Some(&ended) {
                    return Err(self.shorter(blob, &ended).await);
                }
                download.ended = Some(ended);
                error
            }
            TryError::Registry(error) => {
                if let Some(ended) = &download.ended
                    && ended.1 == download.counted
                    && says_nothing_is_there(&error)
                {
                    return Err(self.shorter(blob, ended).await);
                }
                error
            }
            TryError::Longer(failure) => {
                content::abort(&self.lease.client, &blob.digest).await?;
                self.forget(download);
                RegistryError::Passing(failure)
            }
            TryError::Store(error) => {
                let error = self.recover(blob, error).await?;
                // The part that was deleted is to be fetched once more.
                self.forget(download);
                error
            }
        };
        Ok(Some(error))
    }

    /// Error for a layer of which the registry has fewer bytes than promised.
    async fn shorter(&self, blob: &Descriptor, (host, bytes): &(String, u64)) -> RuntimeError {
        match content::abort(&self.lease.client, &blob.digest).await {
            Ok(()) => other_size::failure(host, blob, *bytes, "").into(),
            Err(error) => error,
        }
    }

    fn forget(&self, download: &mut LayerDownload) {
        self.progress
            .add_total(std::mem::take(&mut download.counted));
        download.is_foreign = false;
    }

    /// Downloads a layer's blob in one try. Where a part from elsewhere turns out to be wrong, no
    /// registry of this pull is to blame: it starts over at once.
    async fn try_layer(
        &self,
        blob: &Descriptor,
        download: &mut LayerDownload,
        turn: &OwnedMutexGuard<()>,
    ) -> Result<(), TryError> {
        match self.continue_layer(blob, download, turn).await {
            Err(TryError::Store(ContentError::Mismatch(fault))) if download.is_foreign => {
                tracing::info!(digest = blob.digest, fault, "wrong part of a layer deleted");
                content::abort(&self.lease.client, &blob.digest)
                    .await
                    .map_err(ContentError::from)?;
                self.forget(download);
                self.continue_layer(blob, download, turn).await
            }
            tried => tried,
        }
    }

    async fn continue_layer(
        &self,
        blob: &Descriptor,
        download: &mut LayerDownload,
        turn: &OwnedMutexGuard<()>,
    ) -> Result<(), TryError> {
        let mut writer = match content::open(&self.lease.client, blob).await? {
            OpenedBlob::Complete => return Ok(()),
            OpenedBlob::Writer(writer) => writer,
        };
        download.is_foreign =
            writer.offset() > 0 && (download.is_foreign || writer.offset() != download.counted);
        self.count(&writer, &mut download.counted);
        let mut source = None;
        if writer.offset() < blob.size {
            let received = self.receive(blob, &mut writer, download, turn);
            match received.await {
                Ok(body) => source = Some(body),
                Err(error) => {
                    // Until containerd has let go of it, the blob can be neither resumed nor deleted.
                    writer.close().await;
                    return Err(error);
                }
            }
        }
        let is_foreign = download.is_foreign;
        Ok(writer
            .commit(HashMap::new())
            .await
            .map_err(|error| match error {
                ContentError::Mismatch(message) if !is_foreign => {
                    let from =
                        source.map_or_else(|| "an earlier try".to_owned(), |body| body.blame());
                    ContentError::Mismatch(format!("{message}, from {from}"))
                }
                error @ (ContentError::Locked(_)
                | ContentError::Mismatch(_)
                | ContentError::Runtime(_)) => error,
            })?)
    }

    /// Awaits `answer`, but not for long while hardly anything comes and another pull wants the
    /// turn.
    async fn unless_awaited<T>(
        &self,
        turn: &OwnedMutexGuard<()>,
        pace: &mut LayerPace,
        answer: impl Future<Output = T> + Send,
    ) -> Result<T, TryError> {
        let mut answer = std::pin::pin!(answer);
        loop {
            if pace.waited >= pace.window && pace.look() && is_awaited(turn) {
                return Err(TryError::Yielded);
            }
            let began = Instant::now();
            let left = pace.window.saturating_sub(pace.waited);
            let answered = tokio::select! {
                biased;
                answer = &mut answer => Some(answer),
                () = tokio::time::sleep(left) => None,
            };
            pace.waited += began.elapsed();
            if let Some(answer) = answered {
                return Ok(answer);
            }
        }
    }

    /// Receives what a blob's writer lacks, and answers where it came from.
    async fn receive(
        &self,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        download: &mut LayerDownload,
        turn: &OwnedMutexGuard<()>,
    ) -> Result<BlobBody<'_>, TryError> {
        let doublings = download.yields.min(DOUBLINGS_MAX);
        let mut pace = LayerPace::new(self.config.idle_after * (1 << doublings));
        let counted = &mut download.counted;
        let registry = self.registry().map_err(ContentError::from)?;
        let asked = registry.blob(self.image, &blob.digest, writer.offset());
        let mut body = self.unless_awaited(turn, &mut pace, asked).await??;
        let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
        let ended = loop {
            match self.unless_awaited(turn, &mut pace, body.next()).await {
                Ok(Ok(Some(chunk))) => {
                    self.progress.add_received(chunk.len() as u64);
                    self.share.add_fetched(chunk.len() as u64);
                    pace.bytes += chunk.len() as u64;
                    buffer.extend_from_slice(&chunk);
                }
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => break Err(error.into()),
                Err(error) => break Err(error),
            }
            let sent = writer.offset() + buffer.len() as u64;
            if sent > blob.size {
                let failure = other_size::longer(blob, sent, &mut body).await;
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
            return Err(early(blob, &body));
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

/// End of a try whose answer ended too early in good order; another host is asked first next time.
fn early(blob: &Descriptor, body: &BlobBody<'_>) -> TryError {
    let host = body.blame();
    let message = format!("registry {host} ended layer {} early", blob.digest);
    let error = RegistryError::passing(Reason::ImageDownloadInterrupted, message);
    TryError::Ended { host, error }
}

/// Whether a registry refuses as one does that has nothing behind the place that is asked for.
fn says_nothing_is_there(error: &RegistryError) -> bool {
    let RegistryError::Lasting(failure) = error else {
        return false;
    };
    matches!(
        failure.reason,
        Reason::RegistryError | Reason::ImageBlobMissing | Reason::ImageNotFound
    )
}
