//! Stamp of a file: facts that change when it is written, replaced, or made readable.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Times of the last writing and of the last change, inode and size of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp {
    modified: (i64, i64),
    /// Changes with the owner, the mode and the labels as well.
    changed: (i64, i64),
    inode: u64,
    /// Size of the file.
    pub(super) bytes: u64,
}

impl FileStamp {
    /// Stamp of the file at `path` now; a symbolic link is followed.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
            bytes: meta.len(),
        })
    }
}

/// Fault of a file, or of what is made of it, as a phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileFault {
    pub(super) phrase: String,
    /// Whether the reading itself failed. The file's stamp then says nothing of when that works again,
    /// so that it is read anew at each look.
    pub(super) is_unread: bool,
}

impl FileFault {
    /// Fault of a file that could not be read.
    pub(super) fn unread(error: &std::io::Error) -> Self {
        Self {
            phrase: error.to_string(),
            is_unread: true,
        }
    }

    /// Fault of the file at `path`, with its name.
    pub(super) fn of(self, path: &Path) -> Self {
        Self {
            phrase: format!("{} cannot be used: {}", path.display(), self.phrase),
            ..self
        }
    }
}

impl From<String> for FileFault {
    /// Fault of what was read.
    fn from(phrase: String) -> Self {
        Self {
            phrase,
            is_unread: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_is_only_made_readable_has_another_stamp() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = FileStamp::of(file.path()).unwrap();
        assert!(before == FileStamp::of(file.path()).unwrap());
        // The clock of files may stand still for some milliseconds.
        for mode in [0o600, 0o640].into_iter().cycle().take(1000) {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file.path(), mode).unwrap();
            if FileStamp::of(file.path()).unwrap() != before {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the stamp stays {before:?}");
    }
}
