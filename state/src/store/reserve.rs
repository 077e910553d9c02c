//! The reserve: space and a file of the disk, kept so that a full one can still take a stop, a
//! removal, or the opening of sled's files, which writes too.

use std::fs;
use std::io::{self, ErrorKind, Write as _};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::state_dir::{self, DiskCall, StateDir};

/// Name of the file.
pub(super) const NAME: &str = "reserve";
/// Size of the file: a segment of sled's log (512 KiB), and as much for its snapshot and a copy.
const BYTES: u64 = 1 << 20;
/// Room that there must be before the reserve is made again, for others of the disk need it more.
const ROOM_BYTES: u64 = 4 * BYTES;
const ROOM_INODES: u64 = 16;

/// Whether the disk has no space or no inode left, or the quota none.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// Gives the reserve up. Answers whether there was one.
pub(super) fn give_up(dir: &StateDir) -> bool {
    if fs::remove_file(dir.join(NAME)).is_err() {
        return false;
    }
    // A file system may give the space away only once the removal is on the disk.
    let _no_matter = dir.sync();
    tracing::warn!(dir = %dir.path().display(), "disk full; reserve given up for stops and removals");
    true
}

/// Makes the reserve where there is none and the disk has room for it.
///
/// # Errors
/// The disk's.
pub(super) fn make(dir: &StateDir) -> io::Result<()> {
    let path = dir.join(NAME);
    if path.try_exists()? || !has_room(dir)? {
        return Ok(());
    }
    dir.ask(DiskCall::Create)?;
    let new = dir.join("reserve.new");
    let made = allocate(&new).and_then(|()| fs::rename(&new, &path));
    if made.is_err() {
        let _never_made = fs::remove_file(&new);
    }
    made
}

/// Expects the reserve, or the room for it: what was given up is not for something new.
///
/// # Errors
/// [`ErrorKind::StorageFull`]: there is neither. Others of the disk.
pub(super) fn check(dir: &StateDir) -> io::Result<()> {
    if dir.join(NAME).try_exists()? || has_room(dir)? {
        return Ok(());
    }
    Err(Errno::NOSPC.into())
}

fn has_room(dir: &StateDir) -> io::Result<bool> {
    let disk = rustix::fs::statvfs(dir.path())?;
    // Where a file system counts no inodes it has none in all.
    let has_inodes = disk.f_files == 0 || disk.f_favail >= ROOM_INODES;
    Ok(has_inodes && disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM_BYTES)
}

fn allocate(path: &std::path::Path) -> io::Result<()> {
    let mut file = state_dir::create_private(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
        Err(Errno::OPNOTSUPP) => file.write_all(&vec![1; usize::try_from(BYTES).unwrap_or(0)])?,
        allocated => allocated?,
    }
    file.sync_all()
}
