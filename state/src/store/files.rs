//! sled's files over their ups and downs: open, failed, or not to be had yet.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::Value;

use super::disk::{Disk, Fault};
use super::quarantine::quarantine;
use super::recover::{self, QUARANTINE, SLED};
use crate::desired::set::Desired;

/// How long sled may take to let go of files that failed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often, and how far apart, a state directory that another agent has is tried: a second in all.
pub(super) const LOCK_TRIES: u32 = 50;
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

/// sled's files.
#[derive(Debug)]
pub(super) enum Files {
    /// They can be written, as far as is known.
    Open(Box<Disk>),
    /// A write failed: sled then fails for ever, until it is opened anew. They are to say what is in memory.
    Failed,
    /// They could not be opened at the start, and may be newer than what is in memory.
    Unread,
}

impl Files {
    /// Opens them if they are not, and makes them say what was acknowledged: no less, and no more. Answers what is desired, if
    /// they turn out to know it better.
    pub(super) fn open(
        &mut self,
        directory: &Path,
        desired: &Desired,
    ) -> std::io::Result<Option<Desired>> {
        if matches!(self, Self::Open(_)) {
            return Ok(None);
        }
        make(directory)?;
        let path = directory.join(SLED);
        let (disk, found) = match Disk::open(&path) {
            Ok(opened) => opened,
            Err(Fault::Io(error)) => return Err(error),
            Err(Fault::Broken(why)) => {
                tracing::error!(%why, "the stored state was damaged while in use; it is written anew from memory");
                quarantine(&directory.join(QUARANTINE), &path, &why)?;
                Disk::open(&path).map_err(io_error)?
            }
        };
        // One more counts the note, in history, that it was rebuilt.
        let is_better = matches!(self, Self::Unread)
            && !found.is_empty()
            && Desired::seq_of(&found) + 1 >= desired.seq();
        let better = is_better.then(|| Desired::from_entries(found.clone()));
        let disk = recover::mended(directory, disk, &found, better.as_ref().unwrap_or(desired))
            .map_err(io_error)?;
        *self = Self::Open(Box::new(disk));
        Ok(better)
    }

    /// Writes and syncs changes, all or none; lets go of the files if that fails.
    pub(super) fn write(
        &mut self,
        directory: &Path,
        changes: &[(String, Option<Value>)],
    ) -> std::io::Result<()> {
        let Self::Open(disk) = self else {
            return Err(std::io::Error::other("the files are not open"));
        };
        disk.write(&directory.join(SLED), changes).map_err(|fault| {
            close(std::mem::replace(self, Self::Failed));
            io_error(fault)
        })
    }
}

/// Makes the state directory. Environment values in it may be secrets.
pub(super) fn make(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// An agent that was killed while it started a program left its files, for a moment, to what was to become that program.
pub(super) fn take_lock(directory: &File) -> rustix::io::Result<()> {
    for _ in 1..LOCK_TRIES {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
            taken => return taken,
        }
    }
    rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive)
}

fn io_error(fault: Fault) -> std::io::Error {
    match fault {
        Fault::Io(error) => error,
        Fault::Broken(why) => std::io::Error::other(why),
    }
}

/// sled may panic on the way, or not come back.
fn close(files: Files) {
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
