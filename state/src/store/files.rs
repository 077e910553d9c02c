//! State of sled's files: open, failed, or not opened yet.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::Value;

use super::disk::{Disk, DiskError, LOCK_RETRY, LOCK_TRIES};
use super::quarantine::quarantine;
use super::recover::{self, QUARANTINE, SLED};
use crate::desired::set::Desired;

/// Time that sled may take to close files that failed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// sled's files, and whether they can be written.
#[derive(Debug)]
pub(super) enum StoreFiles {
    /// The files can be written, as far as is known.
    Open(Box<Disk>),
    /// A write failed, and sled fails until the files are opened again. Then they are brought to
    /// the state in memory.
    Failed,
    /// The files could not be opened at the start, and may be newer than the state in memory.
    Unread,
}

impl StoreFiles {
    /// Opens the files if they are not open, and makes them hold the acknowledged state: no less,
    /// and no more. Answers the desired state that they hold, if it turns out to be the newer one.
    pub(super) fn open(
        &mut self,
        directory: &Path,
        desired: &Desired,
    ) -> std::io::Result<Option<Desired>> {
        if matches!(self, Self::Open(_)) {
            return Ok(None);
        }
        create_directory(directory)?;
        let path = directory.join(SLED);
        let (disk, found) = match Disk::open(&path) {
            Ok(opened) => opened,
            Err(DiskError::Io(error)) => return Err(error),
            Err(DiskError::Damaged(why)) => {
                tracing::error!(%why, "stored state damaged while in use; rewriting it from memory");
                quarantine(&directory.join(QUARANTINE), &path, &why)?;
                Disk::open(&path).map_err(io_error)?
            }
        };
        // The state in memory is one change ahead by the mark that it was rebuilt.
        let is_better = matches!(self, Self::Unread)
            && !found.is_empty()
            && Desired::seq_of(&found) + 1 >= desired.seq();
        let better = is_better.then(|| Desired::from_entries(found.clone()));
        let disk = recover::repaired(directory, disk, &found, better.as_ref().unwrap_or(desired))
            .map_err(io_error)?;
        *self = Self::Open(Box::new(disk));
        Ok(better)
    }

    /// Writes and syncs changes, all or none; closes the files if that fails.
    pub(super) fn write(
        &mut self,
        directory: &Path,
        changes: &[(String, Option<Value>)],
    ) -> std::io::Result<()> {
        let Self::Open(disk) = self else {
            return Err(std::io::Error::other("the files are not open"));
        };
        disk.write(&directory.join(SLED), changes).map_err(|error| {
            close(std::mem::replace(self, Self::Failed));
            io_error(error)
        })
    }
}

/// Creates the state directory, for the agent's user alone: environment values may be secrets.
pub(super) fn create_directory(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Locks the state directory, waiting a moment for its lock: if the agent before was killed while
/// it started a program, that program's process holds the lock until it has begun.
pub(super) fn take_lock(directory: &File) -> rustix::io::Result<()> {
    for _ in 1..LOCK_TRIES {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
            taken => return taken,
        }
    }
    rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive)
}

fn io_error(error: DiskError) -> std::io::Error {
    match error {
        DiskError::Io(error) => error,
        DiskError::Damaged(why) => std::io::Error::other(why),
    }
}

/// Closes files that failed, on a thread of its own: sled may panic, or never return.
fn close(files: StoreFiles) {
    let (done, closed) = std::sync::mpsc::sync_channel(1);
    let closing = std::thread::Builder::new()
        .name("sled-close".to_owned())
        .spawn(move || {
            drop(files);
            let _nobody_waits = done.send(());
        });
    if closing.is_ok() {
        let _late = closed.recv_timeout(CLOSE_TIMEOUT);
    }
}
