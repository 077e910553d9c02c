//! sled, behind this one file, because 0.34 is no longer kept up. It may say anything and do anything: refuse to open,
//! panic, or never come back; each of them is an answer here.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::files::{LOCK_RETRY, LOCK_TRIES};
use crate::desired::Entries;

/// sled's page cache. The desired state of a thousand containers is some 2 MB.
const CACHE_BYTES: u64 = 4 << 20;
/// sled's own flusher, which also does the true fsync of what lies beside the log.
const FLUSH_EVERY_MS: u64 = 500;
/// Opening takes 5 to 30 ms, 300 where a large log is replayed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// The checksum over all entries, which shows when sled gives back less than it was given.
const SUM: &[u8] = b"sum";

/// Why the files do not serve.
#[derive(Debug)]
pub(super) enum Fault {
    /// The disk or its rights do not allow it now. Nothing is wrong with what is written.
    Io(std::io::Error),
    /// What is written cannot be used (any more).
    Broken(String),
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        use std::io::ErrorKind::{
            NotFound, Other, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
            WouldBlock,
        };
        match error {
            // sled passes on a copy, whose text is a dump.
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
            // So it says that the one before has not let go yet.
            sled::Error::Io(source)
                if source.kind() == Other && source.to_string().contains("lock") =>
            {
                Self::Io(source)
            }
            other @ (sled::Error::Io(_)
            | sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. }) => Self::Broken(short(&other.to_string())),
        }
    }
}

/// sled's texts may hold a dump of what it could not read.
fn short(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

/// The open files.
#[derive(Debug)]
pub(super) struct Disk {
    db: sled::Db,
    tree: sled::Tree,
    memory: sled::Tree,
    /// What each entry adds to the checksum.
    sums: BTreeMap<String, u128>,
}

impl Disk {
    /// Opens the directory `path`, making it if it is not there, and reads everything.
    pub(super) fn open(path: &Path) -> Result<(Self, Entries), Fault> {
        let (path, (answer, opened)) = (path.to_owned(), mpsc::sync_channel(1));
        // On a thread of its own, for it may not come back; then that thread is lost, and its files are moved aside.
        let opener = std::thread::Builder::new().name("sled-open".to_owned());
        let open = move || {
            let result = catch_unwind(AssertUnwindSafe(|| Self::open_unlocked(&path)));
            let _nobody_waits = answer.send(result.unwrap_or_else(|panic| Err(panicked(&*panic))));
        };
        opener.spawn(open).map_err(Fault::Io)?;
        let late = || {
            Fault::Broken(format!(
                "opening it did not end within {} s",
                OPEN_TIMEOUT.as_secs()
            ))
        };
        opened.recv_timeout(OPEN_TIMEOUT).map_err(|_| late())?
    }

    /// A program that this process was starting when the files were closed has them, and their lock, for a moment.
    fn open_unlocked(path: &Path) -> Result<(Self, Entries), Fault> {
        for _ in 1..LOCK_TRIES {
            match Self::open_unguarded(path) {
                Err(Fault::Io(error)) if error.to_string().contains("lock") => {
                    std::thread::sleep(LOCK_RETRY);
                }
                opened => return opened,
            }
        }
        Self::open_unguarded(path)
    }

    fn open_unguarded(path: &Path) -> Result<(Self, Entries), Fault> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open()?;
        let (tree, memory) = (db.open_tree("desired")?, db.open_tree("memory")?);
        let mut disk = Self {
            db,
            tree,
            memory,
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
                .map_err(|error| Fault::Broken(format!("entry {text}: {error}")))?;
            entries.insert(text, value);
        }
        if stored.unwrap_or_default() != disk.sum() {
            return Err(Fault::Broken(
                "its entries do not add up to their checksum".to_owned(),
            ));
        }
        Ok((disk, entries))
    }

    fn sum(&self) -> u128 {
        self.sums.values().fold(0, |all, one| all ^ one)
    }

    /// Writes and syncs changes, all or none. After an error the files have to be opened anew: sled then fails for ever.
    pub(super) fn write(
        &mut self,
        path: &Path,
        changes: &[(String, Option<Value>)],
    ) -> Result<(), Fault> {
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

    /// sled's `flush` is only `sync_file_range` on Linux, which outlives a kill but not a power cut.
    fn sync(&self, path: &Path) -> Result<(), Fault> {
        self.db.flush()?;
        File::open(path.join("db"))
            .and_then(|file| file.sync_data())
            .map_err(Fault::Io)?;
        // Values too large for the log are files of their own.
        let blobs = path.join("blobs");
        let large = std::fs::read_dir(&blobs).is_ok_and(|mut entries| entries.next().is_some());
        if large {
            let directory = File::open(&blobs).map_err(Fault::Io)?;
            rustix::fs::syncfs(&directory).map_err(|error| Fault::Io(error.into()))?;
        }
        Ok(())
    }

    /// Gives the log to the kernel. What is lost by a failure here is only memory.
    pub(super) fn flush(&self) {
        let _lost = catch_unwind(AssertUnwindSafe(|| self.db.flush()));
    }

    /// Notes what is remembered under `key`, `None`: nothing more. It reaches the disk within [`FLUSH_EVERY_MS`].
    pub(super) fn remember(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), Fault> {
        let noted = catch_unwind(AssertUnwindSafe(|| match value {
            Some(value) => self.memory.insert(key, value).map(drop),
            None => self.memory.remove(key).map(drop),
        }));
        noted.map_or_else(|panic| Err(panicked(&*panic)), |noted| Ok(noted?))
    }

    /// Everything that is remembered. What cannot be read is left out: it is only memory.
    pub(super) fn remembered(&self) -> Vec<(String, Vec<u8>)> {
        let read = catch_unwind(AssertUnwindSafe(|| {
            let entries = self.memory.iter().map_while(Result::ok);
            entries
                .map(|(key, value)| (String::from_utf8_lossy(&key).into_owned(), value.to_vec()))
                .collect()
        }));
        read.unwrap_or_default()
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Fault {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    Fault::Broken(format!(
        "sled panicked: {}",
        short(text.unwrap_or("without a word"))
    ))
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
