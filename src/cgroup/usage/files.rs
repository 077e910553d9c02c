//! Files of a control group, each read with as few calls of the kernel as can be: opening one costs
//! several times what reading it does.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::lock::lock;

/// A limit of version 1 from which on it is none: the largest number of whole pages is a little below
/// `i64::MAX`.
const NO_LIMIT: u64 = 1 << 62;

/// Bytes that are read at once: more than all but the longest have.
const PIECE_BYTES: usize = 4 << 10;
/// Bytes of a file, above which it is none of the kernel's.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Room for a path and for the text of a file, used again for each.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    path: String,
    bytes: Vec<u8>,
}

/// Files of a group that stay open for the next look, by name; `None`: there is none. Each has a page of
/// the kernel's.
#[derive(Debug, Default)]
pub(crate) struct KeptFiles(Mutex<Vec<(&'static str, Option<OwnedFd>)>>);

impl KeptFiles {
    /// Most files of one group: those of its CPU time, memory, processes and disks.
    pub(crate) const MOST: usize = 11;

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// Control group, by its name in the directory of the one above.
pub(super) struct Group<'a> {
    pub(super) directory: Option<&'a OwnedFd>,
    pub(super) name: &'a str,
    /// `None`: files are opened for this look alone.
    pub(super) kept: Option<&'a KeptFiles>,
    pub(super) scratch: &'a mut Scratch,
}

impl Group<'_> {
    /// Text of a file, until the next is read.
    pub(super) fn text(&mut self, file: &'static str) -> Option<&str> {
        let Scratch { path, bytes } = &mut *self.scratch;
        path.clear();
        path.extend([self.name, "/", file]);
        let directory = self.directory?;
        let open = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(directory, &**path, flags, Mode::empty())
        };
        let Some(kept) = self.kept else {
            read(open().ok()?, bytes)?;
            return std::str::from_utf8(bytes).ok();
        };
        let mut kept = lock(&kept.0);
        if let Some((_, known)) = kept.iter().find(|(name, _)| *name == file) {
            let is_read = known.as_ref().map(|known| read(known, bytes));
            match is_read {
                None => return None,
                Some(Some(())) => return std::str::from_utf8(bytes).ok(),
                // The group was removed. One of the same name may be there.
                Some(None) => kept.clear(),
            }
        }
        let opened = match open() {
            Ok(opened) => Some(opened),
            Err(Errno::NOENT) => None,
            // No descriptor is left, say: that tells nothing of the group.
            Err(_) => return None,
        };
        let is_read = opened.as_ref().and_then(|opened| read(opened, bytes));
        if kept.len() < KeptFiles::MOST {
            kept.push((file, opened));
        }
        is_read?;
        std::str::from_utf8(bytes).ok()
    }

    pub(super) fn number(&mut self, file: &'static str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// Limit; inner `None`: there is none, for which stand words and numbers such as `max` and -1.
    pub(super) fn limit(&mut self, file: &'static str) -> Option<Option<u64>> {
        let written = self.text(file)?.trim().parse().ok();
        Some(written.filter(|limit| *limit < NO_LIMIT))
    }
}

/// Reads a file from its begin. `None`: it cannot be read, or is too long.
fn read(file: impl AsFd, bytes: &mut Vec<u8>) -> Option<()> {
    bytes.clear();
    loop {
        bytes.reserve(PIECE_BYTES);
        let (room, at) = (bytes.capacity() - bytes.len(), bytes.len() as u64);
        let count = rustix::io::pread(&file, spare_capacity(bytes), at).ok()?;
        // The kernel gives as much of such a file as there is room for.
        if count < room {
            return Some(());
        }
        if bytes.len() > FILE_BYTES_MAX {
            return None;
        }
    }
}
