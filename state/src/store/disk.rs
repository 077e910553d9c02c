//! sled, behind this one file, because 0.34 is no longer maintained. It may refuse to open, panic,
//! or never return; each of these is a [`DiskError`] here.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::desired::Entries;

/// Size of sled's page cache. The desired state of a thousand containers is some 2 MB.
const CACHE_BYTES: u64 = 4 << 20;
/// Interval of sled's own flusher, which also does the true fsync of the files beside the log.
const FLUSH_EVERY_MS: u64 = 500;
/// Time that opening may take. It takes 5 to 30 ms, 300 where a large log is replayed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Key of the checksum over all entries, which shows when sled returns less than was written.
const SUM: &[u8] = b"sum";
/// Tries for a lock that another holds, and the pause between them: a second in all.
pub(super) const LOCK_TRIES: u32 = 50;
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Failure of sled's files.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// The disk or its permissions do not allow it now. The files may be intact.
    #[error(transparent)]
    Io(std::io::Error),
    /// The files cannot be used (any more).
    #[error("{0}")]
    Damaged(String),
}

impl From<sled::Error> for DiskError {
    fn from(error: sled::Error) -> Self {
        use std::io::ErrorKind::{
            NotFound, Other, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
            WouldBlock,
        };
        match error {
            // sled passes on a copy of the error, whose text is a dump.
            sled::Error::Io(source)
                if matches!(
                    source.kind(),
                    NotFound
                        | PermissionDenied
                        | QuotaExceeded
                        | ReadOnlyFilesystem
                        | StorageFull
                        | WouldBlock
                ) =>
            {
                Self::Io(source.kind().into())
            }
            // In these words sled says that another holds its files still.
            sled::Error::Io(source)
                if source.kind() == Other && source.to_string().contains("lock") =>
            {
                Self::Io(source)
            }
            other @ (sled::Error::Io(_)
            | sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. }) => Self::Damaged(short(&other.to_string())),
        }
    }
}

/// The beginning of one of sled's texts, which may hold a dump of the bytes that it could not read.
fn short(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

/// sled's files, opened.
#[derive(Debug)]
pub(super) struct Disk {
    db: sled::Db,
    tree: sled::Tree,
    histories: sled::Tree,
    /// Share of each entry in the checksum.
    sums: BTreeMap<String, u128>,
}

impl Disk {
    /// Opens the directory `path`, which is created if it is missing, and reads everything.
    pub(super) fn open(path: &Path) -> Result<(Self, Entries), DiskError> {
        let (path, (answer, opened)) = (path.to_owned(), mpsc::sync_channel(1));
        // On a thread of its own, for sled may never return; then that thread is lost, and the
        // files go into quarantine.
        let opener = std::thread::Builder::new().name("sled-open".to_owned());
        let open = move || {
            let result = catch_unwind(AssertUnwindSafe(|| Self::open_unlocked(&path)));
            let _nobody_waits = answer.send(result.unwrap_or_else(|panic| Err(panicked(&*panic))));
        };
        opener.spawn(open).map_err(DiskError::Io)?;
        opened.recv_timeout(OPEN_TIMEOUT).map_err(|_| {
            let seconds = OPEN_TIMEOUT.as_secs();
            DiskError::Damaged(format!("opening the files timed out after {seconds} s"))
        })?
    }

    /// Opens the files, waiting a moment for their lock: a program that this process was starting
    /// when they were closed holds it until it has begun.
    fn open_unlocked(path: &Path) -> Result<(Self, Entries), DiskError> {
        for _ in 1..LOCK_TRIES {
            match Self::open_unguarded(path) {
                Err(DiskError::Io(error)) if error.to_string().contains("lock") => {
                    std::thread::sleep(LOCK_RETRY);
                }
                opened => return opened,
            }
        }
        Self::open_unguarded(path)
    }

    fn open_unguarded(path: &Path) -> Result<(Self, Entries), DiskError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open()?;
        let (tree, histories) = (db.open_tree("desired")?, db.open_tree("memory")?);
        let mut disk = Self {
            db,
            tree,
            histories,
            sums: BTreeMap::new(),
        };
        let (mut entries, mut stored) = (Entries::new(), None);
        for entry in &disk.tree {
            let (key, value) = entry?;
            if key.as_ref() == SUM {
                stored = value.as_ref().try_into().ok().map(u128::from_be_bytes);
                continue;
            }
            let text = String::from_utf8_lossy(&key).into_owned();
            disk.sums.insert(text.clone(), sum(&text, &value));
            let value: Value = serde_json::from_slice(&value)
                .map_err(|error| DiskError::Damaged(format!("entry {text} is no JSON: {error}")))?;
            entries.insert(text, value);
        }
        if stored.unwrap_or_default() != disk.sum() {
            let why = "the entries do not match their checksum".to_owned();
            return Err(DiskError::Damaged(why));
        }
        Ok((disk, entries))
    }

    fn sum(&self) -> u128 {
        self.sums.values().fold(0, |all, one| all ^ one)
    }

    /// Writes and syncs changes, all or none. After an error the files have to be opened again, for
    /// sled fails from then on.
    pub(super) fn write(
        &mut self,
        path: &Path,
        changes: &[(String, Option<Value>)],
    ) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => {
                    let bytes = value.to_string().into_bytes();
                    self.sums.insert(key.clone(), sum(key, &bytes));
                    batch.insert(key.as_bytes(), bytes);
                }
                None => {
                    self.sums.remove(key);
                    batch.remove(key.as_bytes());
                }
            }
        }
        batch.insert(SUM, &self.sum().to_be_bytes());
        let written = catch_unwind(AssertUnwindSafe(|| {
            self.tree.apply_batch(batch)?;
            self.sync(path)
        }));
        written.unwrap_or_else(|panic| Err(panicked(&*panic)))
    }

    /// Syncs the files. sled's `flush` is only `sync_file_range` on Linux, which outlives a kill
    /// but not a power cut.
    fn sync(&self, path: &Path) -> Result<(), DiskError> {
        self.db.flush()?;
        File::open(path.join("db"))
            .and_then(|file| file.sync_data())
            .map_err(DiskError::Io)?;
        // Values too large for the log are files of their own.
        let blobs = path.join("blobs");
        let large = std::fs::read_dir(&blobs).is_ok_and(|mut entries| entries.next().is_some());
        if large {
            let directory = File::open(&blobs).map_err(DiskError::Io)?;
            rustix::fs::syncfs(&directory).map_err(|error| DiskError::Io(error.into()))?;
        }
        Ok(())
    }

    /// Gives the log to the kernel. A failure is no matter, for only histories are lost by it.
    pub(super) fn flush(&self) {
        let _lost = catch_unwind(AssertUnwindSafe(|| self.db.flush()));
    }

    /// Saves the history under `key`; `None` deletes it. The disk has it within [`FLUSH_EVERY_MS`].
    pub(super) fn save_history(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), DiskError> {
        let saved = catch_unwind(AssertUnwindSafe(|| match value {
            Some(value) => self.histories.insert(key, value).map(drop),
            None => self.histories.remove(key).map(drop),
        }));
        saved.map_or_else(|panic| Err(panicked(&*panic)), |saved| Ok(saved?))
    }

    /// All saved histories by their keys, without those that cannot be read: no start may fail for
    /// a history.
    pub(super) fn histories(&self) -> Vec<(String, Vec<u8>)> {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let entries = self.histories.iter().map_while(Result::ok);
            entries
                .map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value.to_vec()))
                .collect()
        }));
        read.unwrap_or_default()
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> DiskError {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    let text = short(text.unwrap_or("without a message"));
    DiskError::Damaged(format!("sled panicked: {text}"))
}

fn sum(key: &str, value: &[u8]) -> u128 {
    let digest = Sha256::new()
        .chain_update(key.len().to_be_bytes())
        .chain_update(key)
        .chain_update(value)
        .finalize();
    digest
        .iter()
        .take(16)
        .fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}
