//! The state directory: where it is, and what of the disk below it a simulation lets fail.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::private;

/// sled's directory in the state directory.
pub(super) const SLED: &str = "state";
/// Tries for a lock that another holds, and the pause between them: a second in all.
pub(super) const LOCK_TRIES: u32 = 50;
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Call of the store to the disk. Before each of them the store asks [`Limits::disk`].
///
/// [`Limits::disk`]: super::Limits::disk
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCall {
    /// The directory is created where it is missing, and locked.
    Lock,
    /// A copy is read.
    ReadCopy,
    /// The place of the last change is read.
    ReadLast,
    /// sled's files are opened.
    Open,
    /// A change is given to sled.
    Write,
    /// A change that sled has is synced.
    Sync,
    /// The place of the last change is written.
    WriteLast,
    /// A copy is written.
    WriteCopy,
    /// A file is created beside these: the reserve, one in quarantine, the place of the last
    /// change.
    Create,
}

/// A disk that does all that is asked of it.
///
/// # Errors
/// None.
pub const fn sound_disk(_: DiskCall) -> io::Result<()> {
    Ok(())
}

/// The state directory.
#[derive(Clone, Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    disk: fn(DiskCall) -> io::Result<()>,
}

impl StateDir {
    pub(super) fn new(path: &Path, disk: fn(DiskCall) -> io::Result<()>) -> Self {
        Self {
            path: path.to_owned(),
            disk,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Asks whether the disk does this now.
    pub(super) fn ask(&self, call: DiskCall) -> io::Result<()> {
        (self.disk)(call)
    }

    /// Creates the directory if it is missing, locks it, and closes it to other users.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another agent has it. [`io::ErrorKind::PermissionDenied`]:
    /// another user has it.
    pub(super) fn lock(&self) -> io::Result<File> {
        self.ask(DiskCall::Lock)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)?;
        let directory = File::open(&self.path)?;
        take_lock(&directory)?;
        private::close(&directory, &self.path, &self.join(SLED))?;
        Ok(directory)
    }

    /// Syncs the names in the directory.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Creates or empties a file for the agent's user alone: environment values may be secrets.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Locks the state directory, waiting a moment for its lock: if the agent before was killed while
/// it started a program, that program's process holds the lock until it has begun.
fn take_lock(directory: &File) -> rustix::io::Result<()> {
    for _ in 1..LOCK_TRIES {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
            taken => return taken,
        }
    }
    rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive)
}
