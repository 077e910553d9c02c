//! Archives under way on the node: how many at once, their threads, and how they end.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use state::event::{Event, EventKind, EventSubject};
use state::policy::Denial;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stream::{self, ArchivePiece, ArchiveSender};
use super::{ArchiveFault, ArchivedAmount};
use crate::journal::Journal;
use crate::permits::KeyedPermits;

/// Archives at once on the node: each keeps a disk and a processor busy.
const ARCHIVES_MAX: usize = 4;
/// Archives at once of one client, which may be slow: the operator finds a place.
const OF_CLIENT_MAX: usize = 2;
/// Level of compression at which zstd keeps up with a disk.
const ZSTD_LEVEL: i32 = 1;
/// Window of a compressed stream: more need not be understood (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Room of all archives of the node. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveRoom {
    places: Arc<Semaphore>,
    /// Places of each client.
    of_clients: Arc<KeyedPermits>,
    stop: CancellationToken,
    journal: Journal,
}

/// Place of one archive in the room, and what it is told by.
#[derive(Debug)]
pub(crate) struct ArchivePlace {
    room: ArchiveRoom,
    /// Thing that is packed or unpacked, in words.
    thing: String,
    /// Container whose files they are. `None`: they are a volume's.
    subject: Option<EventSubject>,
    /// Whether the stream is compressed.
    is_zstd: bool,
    /// Name of the caller.
    by: String,
    _permits: [OwnedSemaphorePermit; 2],
}

/// Cause for which there is no archive.
#[derive(Debug)]
pub(crate) enum ArchiveRefusal {
    /// Nothing is there.
    Absent(String),
    /// Too many are under way, of the node or of this thing.
    Busy(String),
    /// The request asks for what cannot be.
    Wrong(String),
    /// The policy denies it.
    Denied(Denial),
    /// The thing is in no state for it.
    Conflict(String),
    /// Nothing of it can be done now, or be written down.
    Unavailable(String),
    /// Failure of an archive that was begun.
    Broken(ArchiveFault),
}

/// Archive that is being read from the node. One that ends without `None` as its last piece broke
/// off.
pub(crate) type ArchiveDownload = mpsc::Receiver<Option<ArchivePiece>>;

/// Archive that is being written to the node.
pub(crate) struct ArchiveUpload {
    /// Takes its bytes.
    pub(crate) sender: ArchiveSender,
    /// End of the work.
    pub(crate) done: BoxFuture<'static, Result<ArchivedAmount, ArchiveRefusal>>,
}

impl fmt::Debug for ArchiveUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveUpload").finish_non_exhaustive()
    }
}

impl ArchiveRoom {
    pub(crate) fn new(journal: Journal, stop: CancellationToken) -> Self {
        Self {
            places: Arc::new(Semaphore::new(ARCHIVES_MAX)),
            of_clients: Arc::new(KeyedPermits::new(OF_CLIENT_MAX)),
            stop,
            journal,
        }
    }

    /// A room that tells nobody.
    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        let journal = Journal::new(crate::metrics::Metrics::new());
        Self::new(journal, CancellationToken::new())
    }

    /// A place for an archive of `thing`, which is a container's if there is a `subject`.
    pub(crate) fn place(
        &self,
        (thing, subject): (String, Option<EventSubject>),
        is_zstd: bool,
        by: String,
    ) -> Result<ArchivePlace, ArchiveRefusal> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let fault = format!("{ARCHIVES_MAX} archives are under way on the node already");
            ArchiveRefusal::Busy(fault)
        })?;
        let of_client = Arc::clone(&self.of_clients.of(&by)).try_acquire_owned();
        let of_client = of_client.map_err(|_| {
            let fault = format!("{OF_CLIENT_MAX} archives of {by} are under way already");
            ArchiveRefusal::Busy(fault)
        })?;
        Ok(ArchivePlace {
            room: self.clone(),
            thing,
            subject,
            is_zstd,
            by,
            _permits: [permit, of_client],
        })
    }
}

impl ArchivePlace {
    /// Sends the archive that `pack` writes, on a thread of its own.
    pub(crate) fn send(
        self,
        pack: impl FnOnce(&mut dyn Write) -> Result<ArchivedAmount, ArchiveFault> + Send + 'static,
    ) -> ArchiveDownload {
        let (mut writer, pieces) = stream::channel(self.room.stop.clone());
        drop(tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let packed = if self.is_zstd {
                compressed(&mut writer, pack)
            } else {
                pack(&mut writer)
            };
            self.told("read", begun, &packed);
            writer.end(
                packed
                    .err()
                    .map(|fault| io::Error::other(fault.to_string())),
            );
        }));
        pieces
    }

    /// Takes an archive, of which `unpack` makes files on a thread of its own.
    pub(crate) fn take(
        self,
        unpack: impl FnOnce(&mut dyn Read) -> Result<ArchivedAmount, ArchiveFault> + Send + 'static,
    ) -> ArchiveUpload {
        let (sender, mut reader) = stream::receive(self.room.stop.clone());
        let working = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let unpacked = if self.is_zstd {
                decompressed(&mut reader, unpack)
            } else {
                unpack(&mut reader)
            };
            self.told("written", begun, &unpacked);
            unpacked
        });
        let done = Box::pin(async move {
            match working.await {
                Ok(unpacked) => unpacked.map_err(ArchiveRefusal::Broken),
                Err(error) => Err(ArchiveRefusal::Unavailable(error.to_string())),
            }
        });
        ArchiveUpload { sender, done }
    }

    /// Tells the journal how an archive ended.
    fn told(
        &self,
        direction: &'static str,
        begun: Instant,
        ended: &Result<ArchivedAmount, ArchiveFault>,
    ) {
        let what = format!("{} ({direction} by {})", self.thing, self.by);
        let said = match ended {
            Ok(amount) => {
                let ArchivedAmount {
                    files,
                    bytes: _,
                    left_out,
                    changed,
                } = *amount;
                format!("{what}: {files} files, {left_out} left out, {changed} changed meanwhile")
            }
            Err(fault) => format!("{what}: {fault}"),
        };
        let event = Event::from(EventKind::ArchiveEnded {
            direction,
            complete: ended.is_ok(),
            bytes: ended.as_ref().map_or(0, |amount| amount.bytes),
            took: begun.elapsed(),
        });
        let event = match &self.subject {
            Some(subject) => event.about(subject.clone()),
            None => event,
        };
        self.room.journal.record(event.saying(said));
    }
}

fn compressed(
    writer: &mut stream::ArchiveWriter,
    pack: impl FnOnce(&mut dyn Write) -> Result<ArchivedAmount, ArchiveFault>,
) -> Result<ArchivedAmount, ArchiveFault> {
    let mut encoder = zstd::stream::write::Encoder::new(writer, ZSTD_LEVEL)?;
    let amount = pack(&mut encoder)?;
    encoder.finish()?.flush()?;
    Ok(amount)
}

fn decompressed(
    reader: &mut stream::ArchiveReader,
    unpack: impl FnOnce(&mut dyn Read) -> Result<ArchivedAmount, ArchiveFault>,
) -> Result<ArchivedAmount, ArchiveFault> {
    let mut decoder = zstd::stream::read::Decoder::new(reader)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    unpack(&mut decoder)
}
