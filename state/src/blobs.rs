//! Contents beside the records: each in a file of its own, sealed, and named by a fingerprint that
//! only the node's key makes. Which of them count is left to the store.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};
use serde::{Deserialize, Serialize};

use crate::seal::{SealError, Sealed, Sealer};

/// Place for which contents are sealed.
const PLACE: &str = "blob";
pub(crate) const TAG_DIGITS: usize = 32;

/// Fingerprint of a content under the node's key: equal ones are one blob.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobTag(String);

impl FromStr for BlobTag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == TAG_DIGITS && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("must be {TAG_DIGITS} hex digits"))
        }
    }
}

stored_as_text!(BlobTag);

impl fmt::Display for BlobTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Fault for which a content cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No file has it.
    #[error("it is lost; deploy it again")]
    Lost,
    /// The file cannot be read now.
    #[error("it cannot be read: {0}")]
    Unread(io::Error),
    /// The content cannot be opened with the node's key.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

/// Directory of contents.
#[derive(Clone, Debug)]
pub struct Blobs {
    directory: PathBuf,
    /// Held by whoever keeps or removes contents: equal ones have one name, and what is about to be
    /// used again is not removed.
    turn: Arc<Mutex<()>>,
}

impl Blobs {
    /// The contents of the store in this directory.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("blobs"),
            turn: Arc::default(),
        }
    }

    /// Keeps a content, synced to the disk, and answers its fingerprint. One that is there already
    /// counts as new for [`sweep`](Self::sweep).
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, sealer: &Sealer, content: &[u8]) -> io::Result<BlobTag> {
        let tag = BlobTag(sealer.tag(PLACE, content));
        let path = self.directory.join(&tag.0);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.read(sealer, &tag).is_ok() {
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            };
            let times = Timestamps {
                last_access: now,
                last_modification: now,
            };
            futimens(File::open(&path)?, &times)?;
        } else {
            let mut builder = DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(&self.directory)?;
            let new = path.with_extension("new");
            let text = sealer.seal(PLACE, content);
            if let Err(error) = write(&new, text.as_text()).and_then(|()| fs::rename(&new, &path)) {
                let _not_there = remove(&new);
                return Err(error);
            }
        }
        // Whoever gave it its name may have been killed before this.
        File::open(&self.directory)?.sync_all()?;
        // The first one needs the directory's own name on the disk as well.
        if let Some(parent) = self.directory.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(tag)
    }

    /// Content of this fingerprint.
    ///
    /// # Errors
    /// It is lost, damaged, or sealed with another key.
    pub fn read(&self, sealer: &Sealer, tag: &BlobTag) -> Result<Vec<u8>, BlobError> {
        let text = fs::read_to_string(self.directory.join(&tag.0));
        let text = text.map_err(|error| {
            if error.kind() == ErrorKind::NotFound {
                BlobError::Lost
            } else if error.kind() == ErrorKind::InvalidData {
                BlobError::Sealed(SealError::Damaged)
            } else {
                BlobError::Unread(error)
            }
        })?;
        let content = sealer.open(PLACE, &Sealed::from_text(text))?;
        if sealer.tag(PLACE, &content) == tag.0 {
            Ok(content)
        } else {
            Err(SealError::Damaged.into())
        }
    }

    /// Removes contents that are not `used` and were kept longer than `grace` before `now`. Answers
    /// how many.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep(
        &self,
        used: &BTreeSet<BlobTag>,
        now: SystemTime,
        grace: Duration,
    ) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_used = name.parse().is_ok_and(|tag: BlobTag| used.contains(&tag));
            let kept = entry.metadata().and_then(|found| found.modified());
            let age = kept.ok().and_then(|kept| now.duration_since(kept).ok());
            if !is_used && age.is_some_and(|age| age > grace) && remove(&entry.path()).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Writes a file that was not there, synced to the disk.
fn write(new: &Path, text: &str) -> io::Result<()> {
    remove(new)?;
    let mut options = File::options();
    let mut file = options.write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_is_kept_once_read_by_its_key_alone_and_removed_when_nobody_uses_it() {
        let directory = tempfile::tempdir().unwrap();
        let (blobs, sealer) = (Blobs::of(directory.path()), Sealer::new(&[1; 32]));
        let tag = blobs.keep(&sealer, b"content").unwrap();
        assert_eq!(blobs.keep(&sealer, b"content").unwrap(), tag);
        assert_eq!(blobs.read(&sealer, &tag).unwrap(), b"content");
        let other = Sealer::new(&[2; 32]);
        let refused = blobs.read(&other, &tag).unwrap_err();
        assert!(matches!(
            refused,
            BlobError::Sealed(SealError::OtherKey { .. })
        ));
        let path = directory.path().join("blobs").join(tag.to_string());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace('.', "!")).unwrap();
        assert!(blobs.read(&sealer, &tag).is_err());
        blobs.keep(&sealer, b"content").unwrap();
        assert_eq!(blobs.read(&sealer, &tag).unwrap(), b"content", "mended");
        let (now, hour) = (SystemTime::now(), Duration::from_hours(1));
        let used = BTreeSet::from([tag.clone()]);
        let later = now + 2 * hour;
        assert_eq!(blobs.sweep(&used, later, hour).unwrap(), 0);
        assert_eq!(blobs.sweep(&BTreeSet::new(), now, hour).unwrap(), 0);
        assert_eq!(blobs.sweep(&BTreeSet::new(), later, hour).unwrap(), 1);
        assert!(matches!(blobs.read(&sealer, &tag), Err(BlobError::Lost)));
    }

    #[test]
    fn equal_contents_that_are_kept_at_once_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (blobs, sealer) = (Blobs::of(directory.path()), Sealer::new(&[1; 32]));
        let content = vec![7; 200_000];
        for _ in 0..5 {
            let keep = || {
                let tag = blobs.clone().keep(&sealer, &content).unwrap();
                assert_eq!(blobs.read(&sealer, &tag).unwrap(), content);
            };
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(keep);
                }
            });
            let later = SystemTime::now() + Duration::from_hours(2);
            let swept = blobs.sweep(&BTreeSet::new(), later, Duration::from_hours(1));
            assert_eq!(swept.unwrap(), 1, "no file is left beside it");
        }
    }
}
