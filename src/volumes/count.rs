//! Content of volumes, counted: how much of their disk they take.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags};
use rustix::io::Errno;
use state::spec::VolumeName;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{VolumeKey, Volumes};
use crate::lock::lock;
use crate::permits::KeyedPermits;
use crate::within;

/// Time that a count takes, at most; then it answers what it has come to.
const COUNT_MAX: Duration = Duration::from_secs(5);
/// Volumes that are counted at once: one on a slow disk holds up none of the others.
const COUNTS_MAX: usize = 4;
/// Age of a count that is answered again.
const FRESH: Duration = Duration::from_secs(10);
/// Files with several names that are remembered, to be counted once.
const LINKED_MAX: usize = 1 << 18;
/// Depth of directories that are counted.
const DEPTH_MAX: usize = 256;
/// Files between two looks at the clock.
const FILES_A_LOOK: u64 = 1024;

/// Content of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeContent {
    /// Bytes that it takes of its disk.
    pub(crate) bytes: u64,
    /// Files and directories, without its own.
    pub(crate) files: u64,
    /// Whether there is more, which would have taken too long to count.
    pub(crate) is_partial: bool,
}

/// Counts of volumes that were made lately. Few are made at a time, and of one volume one: they are for
/// people.
#[derive(Debug)]
pub(super) struct CountedVolumes {
    turns: KeyedPermits,
    places: Semaphore,
    lately: Mutex<BTreeMap<VolumeName, (Instant, VolumeContent)>>,
}

impl Default for CountedVolumes {
    fn default() -> Self {
        Self {
            turns: KeyedPermits::new(1),
            places: Semaphore::new(COUNTS_MAX),
            lately: Mutex::default(),
        }
    }
}

impl CountedVolumes {
    /// The content of a volume that was counted lately.
    fn lately(&self, name: &VolumeName) -> Option<VolumeContent> {
        let mut lately = lock(&self.lately);
        lately.retain(|_, (at, _)| at.elapsed() < FRESH);
        lately.get(name).map(|(_, content)| *content)
    }

    pub(super) fn forget(&self, name: &VolumeName) {
        lock(&self.lately).remove(name);
    }
}

impl Volumes {
    /// Counts the content of a volume that is there.
    pub(crate) async fn count(&self, name: &VolumeName) -> io::Result<VolumeContent> {
        let turns = self.counted.turns.of(name.as_str());
        let waiting = async {
            let turn = turns.acquire().await;
            (turn, self.counted.places.acquire().await)
        };
        let waited = tokio::time::timeout(2 * COUNT_MAX, waiting).await;
        let (_turn, _place) = waited.map_err(|_| {
            io::Error::other("other volumes are being counted, which takes long; try again later")
        })?;
        if let Some(content) = self.counted.lately(name) {
            return Ok(content);
        }
        let data = self.directory(&VolumeKey::Named(name.clone()));
        let counting = tokio::task::spawn_blocking(move || {
            let data = OwnedFd::from(std::fs::File::open(data)?);
            let mut count = Count {
                content: VolumeContent::default(),
                linked: HashSet::new(),
                end: Instant::now() + COUNT_MAX,
            };
            count.directory(data.as_fd(), 0)?;
            Ok(count.content)
        });
        let content = counting
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))?;
        let counted = Arc::clone(&self.counted);
        lock(&counted.lately).insert(name.clone(), (Instant::now(), content));
        Ok(content)
    }
}

/// Count under way.
struct Count {
    content: VolumeContent,
    linked: HashSet<u64>,
    end: Instant,
}

impl Count {
    fn directory(&mut self, directory: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if self.content.files.is_multiple_of(FILES_A_LOOK) && self.end <= Instant::now() {
                self.content.is_partial = true;
            }
            if self.content.is_partial {
                return Ok(());
            }
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            self.content.files += 1;
            let is_first = stat.st_nlink == 1
                || FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                || self.linked.len() >= LINKED_MAX
                || self.linked.insert(stat.st_ino);
            if is_first {
                self.content.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            match within::open_as(directory, name, flags, resolve) {
                Ok(below) if depth < DEPTH_MAX => self.directory(below.as_fd(), depth + 1)?,
                Ok(_) => self.content.is_partial = true,
                // It has gone, or is another disk's.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
