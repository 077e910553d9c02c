//! Stamp of a file: facts that change when it is written or replaced.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Modification time, inode and size of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    modified: (i64, i64),
    inode: u64,
    /// Size of the file.
    pub(super) bytes: u64,
}

impl FileStamp {
    /// Stamp of the file at `path` now; a symbolic link is followed.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            inode: meta.ino(),
            bytes: meta.len(),
        })
    }
}
