//! sled, behind this one file, because 0.34 is no longer maintained. It may refuse to open, panic,
//! or never return; each of these is a [`DiskError`] here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Advice, FlockOperation, flock};
use rustix::io::Errno;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

pub(super) use chronicle::ChapterChange;

use super::state_dir::{DiskCall, LOCK_RETRY, LOCK_TRIES, SLED, StateDir};
use crate::desired::Entries;

mod chronicle;

/// Size of sled's page cache. The desired state of a thousand containers is some 2 MB.
const CACHE_BYTES: u64 = 4 << 20;
/// Interval of sled's own flusher, which also does the true fsync of the files beside the log.
const FLUSH_EVERY_MS: u64 = 500;
/// Time that opening may take. It takes 5 to 30 ms, 300 where a large log is replayed.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries of one node of sled's tree, with one that is about to split it.
const NODE_ENTRIES_MAX: usize = 17;
/// Nodes that one change may have rewritten: those of its entry and of [`SUM`], and one that is split.
const NODES_MAX: u64 = 3;
/// Bytes of a node from which sled may write it as a file of its own: a quarter of a segment (512 KiB)
/// less its header.
const FILE_BYTES_MIN: u64 = 120 << 10;
/// Key of the checksum over all entries, which shows when sled returns less than was written.
const SUM: &[u8] = b"sum";

/// Failure of sled's files.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    /// The disk or its permissions do not allow it now. The files may be intact.
    #[error(transparent)]
    Io(io::Error),
    /// The disk has no room for a change, of which nothing was written.
    #[error(transparent)]
    NoRoom(io::Error),
    /// Opening the files takes too long: a slow disk, or damage that sled does not get over.
    #[error("opening the files timed out after {} s", OPEN_TIMEOUT.as_secs())]
    Slow,
    /// The files cannot be used (any more).
    #[error("{0}")]
    Damaged(String),
}

impl From<sled::Error> for DiskError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(source) if is_damage(&source) => Self::Damaged(short(&source)),
            sled::Error::Io(source) => Self::Io(plain(source)),
            other @ (sled::Error::CollectionNotFound(_)
            | sled::Error::Unsupported(_)
            | sled::Error::ReportableBug(_)
            | sled::Error::Corruption { .. }) => Self::Damaged(short(&other)),
        }
    }
}

/// Whether the content of the files is at fault. Whatever else the system says (no space, no
/// permission, no memory, a failing device) may be otherwise the next time, and the files intact.
fn is_damage(error: &io::Error) -> bool {
    // The file ends too early, a part of it is missing, or it leads to a place that none is.
    let is_content = matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
    );
    // sled's own words, but for those in which it says that another holds its files still.
    is_content || (error.kind() == ErrorKind::Other && !is_lock(error))
}

/// The error without the dump that sled's copies of errors have for a text.
fn plain(error: io::Error) -> io::Error {
    let text = error.to_string();
    let message = text.split("message: \"").nth(1);
    let kind = if is_lock(&error) {
        ErrorKind::WouldBlock
    } else {
        error.kind()
    };
    match message.and_then(|rest| rest.split('"').next()) {
        Some(message) => io::Error::new(kind, message.to_owned()),
        None => error,
    }
}

/// Whether somebody holds the files still: sled says so in words, [`plain`] by the kind.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// The beginning of one of sled's texts, which may hold a dump of the bytes that it could not read.
fn short(text: &impl std::fmt::Display) -> String {
    text.to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

/// Removes the snapshots that an opening began and did not finish, for the disk was full or the
/// agent was killed. sled renames a finished one, but takes these for finished ones too, and then
/// calls its files corrupted.
fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    let locked = match File::open(path.join("db")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    // An opening that was given up may go on, and finish its snapshot yet: it holds this lock.
    if flock(&locked, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|ext| ext == "generating") {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// sled's files, opened.
#[derive(Debug)]
pub(super) struct Disk {
    db: sled::Db,
    tree: sled::Tree,
    histories: sled::Tree,
    chronicle: sled::Tree,
    /// Share of each entry in the checksum, and its size in bytes.
    sums: BTreeMap<String, (u128, u64)>,
}

/// Has the kernel read the files from the disk: of a write or a sync that failed it keeps pages, takes
/// them for written, and answers from them until the machine is off.
fn forget_pages(path: &Path) {
    for directory in [path.to_owned(), path.join("blobs")] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(file) = File::open(entry.path()) {
                let _only_advice = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
    }
}

impl Disk {
    /// Opens the directory `path`, which is created if it is missing, and reads everything.
    pub(super) fn open(path: &Path) -> Result<(Self, Entries), DiskError> {
        let (path, (answer, opened)) = (path.to_owned(), mpsc::sync_channel(1));
        // On a thread of its own, for sled may never return; then that thread is lost.
        let opener = std::thread::Builder::new().name("sled-open".to_owned());
        let open = move || {
            forget_pages(&path);
            let result = catch_unwind(AssertUnwindSafe(|| Self::open_unlocked(&path)));
            let _nobody_waits = answer.send(result.unwrap_or_else(|panic| Err(panicked(&*panic))));
        };
        opener.spawn(open).map_err(DiskError::Io)?;
        opened
            .recv_timeout(OPEN_TIMEOUT)
            .map_err(|_| DiskError::Slow)?
    }

    /// Opens the files, waiting a moment for their lock: a program that this process was starting
    /// when they were closed holds it until it has begun.
    fn open_unlocked(path: &Path) -> Result<(Self, Entries), DiskError> {
        for _ in 1..LOCK_TRIES {
            match Self::open_unguarded(path) {
                Err(DiskError::Io(error)) if is_lock(&error) => {
                    std::thread::sleep(LOCK_RETRY);
                }
                opened => return opened,
            }
        }
        Self::open_unguarded(path)
    }

    fn open_unguarded(path: &Path) -> Result<(Self, Entries), DiskError> {
        remove_unfinished_snapshots(path).map_err(DiskError::Io)?;
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open()?;
        let (tree, histories) = (db.open_tree("desired")?, db.open_tree("memory")?);
        let chronicle = db.open_tree("chronicle")?;
        let mut disk = Self {
            db,
            tree,
            histories,
            chronicle,
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
            let measured = (sum(&text, &value), size(&text, &value));
            disk.sums.insert(text.clone(), measured);
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
        self.sums.values().fold(0, |all, (one, _)| all ^ one)
    }

    /// Checks that the disk has room for what sled writes beside its log for these changes. Where it has
    /// none, sled forgets that it was writing: it waits for itself for ever, and so does whoever uses
    /// sled in this process (0.34.7, `reserve_inner`: an error leaves the buffer's writers counted).
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`]: there is none; nothing was written. Others of the disk.
    fn check_room(&self, dir: &StateDir, changes: &[(&String, Option<Vec<u8>>)]) -> io::Result<()> {
        let changed = changes
            .iter()
            .filter_map(|(key, value)| Some(size(key, value.as_ref()?)));
        let changed: Vec<_> = changed.collect();
        let sizes = self.sums.values().map(|(_, size)| *size);
        let mut sizes: Vec<_> = sizes.chain(changed.iter().copied()).collect();
        sizes.sort_unstable();
        let largest: u64 = sizes.iter().rev().take(NODE_ENTRIES_MAX).sum();
        if largest < FILE_BYTES_MIN {
            return Ok(());
        }
        let room = rustix::fs::statvfs(dir.path())?;
        let room = room.f_bavail.saturating_mul(room.f_frsize);
        let needed = NODES_MAX * largest + changed.iter().sum::<u64>();
        if room < needed {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// Writes and syncs changes, all or none. After an error other than [`DiskError::NoRoom`] the files
    /// have to be opened again, for sled fails from then on.
    pub(super) fn write(
        &mut self,
        dir: &StateDir,
        changes: &[(String, Option<Value>)],
        chapters: &[ChapterChange],
    ) -> Result<(), DiskError> {
        let bytes = |value: &Value| value.to_string().into_bytes();
        let changes = changes.iter();
        let changes: Vec<_> = changes
            .map(|(key, value)| (key, value.as_ref().map(bytes)))
            .collect();
        self.check_room(dir, &changes).map_err(DiskError::NoRoom)?;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(bytes) => {
                    let measured = (sum(key, &bytes), size(key, &bytes));
                    self.sums.insert(key.clone(), measured);
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
            dir.ask(DiskCall::Write).map_err(DiskError::Io)?;
            // One of a change that is then refused is passed over, and overwritten by the next.
            self.write_chapters(dir, chapters)?;
            self.tree.apply_batch(batch)?;
            self.sync(&dir.join(SLED))?;
            dir.ask(DiskCall::Sync).map_err(DiskError::Io)
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
        let large = fs::read_dir(&blobs).is_ok_and(|mut entries| entries.next().is_some());
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

    /// Saved history under `key`.
    pub(super) fn history(&self, key: &str) -> Option<Vec<u8>> {
        let read = catch_unwind(AssertUnwindSafe(|| self.histories.get(key).ok().flatten()));
        read.ok().flatten().map(|value| value.to_vec())
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

/// Bytes of an entry in a node of sled's tree.
fn size(key: &str, value: &[u8]) -> u64 {
    u64::try_from(key.len() + value.len() + 16).unwrap_or(u64::MAX)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> DiskError {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    let text = short(&format_args!(
        "sled panicked: {}",
        text.unwrap_or("without a message")
    ));
    // sled panics also where the system refused something: then the text has the system's error.
    if text.contains("Os { code") {
        DiskError::Io(io::Error::other(text))
    } else {
        DiskError::Damaged(text)
    }
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
