//! Tar streams of directories: everything that a file is goes in, and comes out as it was. It knows no
//! containerd and no HTTP.
//!
//! `pack` writes what GNU tar's `--format=posix --sparse --xattrs` does, and `unpack` reads what GNU
//! tar, bsdtar, Go and Python write. A stream is read with suspicion: nothing of it is written outside
//! of its directory, through a link, or over a mount, and each of its sizes has a limit. A file is put
//! in its place when all of it came: a stream that is cut off leaves it whole, or as it was.

use std::fmt;
use std::io;

pub(crate) use bundle::bundled;
pub(crate) use container::{ContainerRoot, RootEngine};
pub(crate) use pack::{PackedFrom, pack};
pub(crate) use room::{ArchiveDownload, ArchivePlace, ArchiveRefusal, ArchiveRoom, ArchiveUpload};
pub(crate) use stream::ArchiveSender;
pub(crate) use unpack::unpack;

mod acl;
mod bundle;
mod container;
mod header;
mod pack;
mod pax;
mod place;
mod read;
mod room;
mod sparse;
mod stream;
#[cfg(test)]
mod tests;
mod unpack;
mod xattrs;

/// Bytes of a block, of which an archive is made.
const BLOCK: usize = 512;
/// Depth of directories in an archive.
const DEPTH_MAX: usize = 256;
/// Bytes of a path, as the kernel takes it.
const PATH_BYTES_MAX: usize = 4095;
/// Bytes that are read or written at once.
const PART_BYTES: usize = 256 << 10;

/// Amount that was packed or unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ArchivedAmount {
    /// Files and directories.
    pub(crate) files: u64,
    /// Bytes of the files, without their holes.
    pub(crate) bytes: u64,
    /// Sockets, and on the way out devices that may not be made here and attributes that the disk
    /// does not know.
    pub(crate) left_out: u64,
    /// Files that changed while they were packed: zeros stand for what they lost.
    pub(crate) changed: u64,
}

/// Ids of the host that stand for the users and groups of a container from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnerShift {
    /// Id of the host that is 0 in the container.
    pub(crate) first: u32,
    /// Number of ids.
    pub(crate) count: u32,
}

impl OwnerShift {
    /// Id in the container; one of the host's own stays as it is.
    const fn inside(self, id: u32) -> u32 {
        match id.checked_sub(self.first) {
            Some(inside) if inside < self.count => inside,
            _ => id,
        }
    }

    /// Id on the host; `None`: the container has no such id.
    const fn outside(self, id: u32) -> Option<u32> {
        if id < self.count {
            self.first.checked_add(id)
        } else {
            None
        }
    }
}

/// Failure of an archive, by what its sender can do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveFault {
    /// The archive is none, or has something that this reader does not take.
    #[error("{}{fault}", at(.entry))]
    Malformed { entry: EntryName, fault: String },
    /// An entry cannot be where it is to be.
    #[error("{}{fault}", at(.entry))]
    Misplaced { entry: EntryName, fault: String },
    /// The stream broke off, or could not be read.
    #[error("{}the archive broke off: {source}", at(.entry))]
    Cut { entry: EntryName, source: io::Error },
    /// The disk has no room for it.
    #[error("{}no room is left on the disk: {source}", at(.entry))]
    Full { entry: EntryName, source: io::Error },
    /// The disk, or the reader of an archive that is made, failed.
    #[error("{}{source}", at(.entry))]
    Failed { entry: EntryName, source: io::Error },
}

/// Name of the entry at which something failed; `None`: none was read yet.
type EntryName = Option<String>;

impl From<io::Error> for ArchiveFault {
    fn from(source: io::Error) -> Self {
        let entry = None;
        let is_full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        if is_full {
            Self::Full { entry, source }
        } else {
            Self::Failed { entry, source }
        }
    }
}

fn at(entry: &EntryName) -> impl fmt::Display {
    let name = entry.as_deref().map(|name| format!("{name}: "));
    name.unwrap_or_default()
}

/// Name of an entry, for people.
fn told(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    state::text::shown(&text, 300).into_owned()
}

/// Bytes up to the next whole block.
const fn padding(size: u64) -> usize {
    let over = size % BLOCK as u64;
    #[allow(clippy::cast_possible_truncation, reason = "it is below 512")]
    let over = over as usize;
    if over == 0 { 0 } else { BLOCK - over }
}
