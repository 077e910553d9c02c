//! Counts of a log: a small file beside it, which its logger writes and the agent reads. A logger
//! outlives the agent, and a restart of the container has another logger, so the file is what counts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use state::id::InstanceName;
use tokio::time::Instant;

use super::files::{NO_DETOUR, no_detour, open_to_read};
use crate::lock::lock;

/// Ending of the file's name; the generation comes before it.
const ENDING: &str = ".counts";
/// Most bytes of it that are read: three numbers.
const BYTES_MAX: usize = 64;
/// Least time between two writes of a logger.
const INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of an instance's output, over all of its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogCounts {
    /// Written to the log, with time and stream of each line.
    pub(crate) written: u64,
    /// Printed beyond the rate, and left out.
    pub(crate) left_out: u64,
    /// Lost, since they could not be written.
    pub(crate) lost: u64,
}

impl LogCounts {
    /// Bytes of output that were left out beyond the rate.
    pub(super) fn left_out(bytes: usize) -> Self {
        let left_out = bytes as u64;
        Self {
            left_out,
            ..Self::default()
        }
    }

    /// Bytes of output that are lost beside so many bytes of log that are written.
    pub(super) fn lost(lost: u64, written: usize) -> Self {
        Self {
            written: written as u64,
            lost,
            ..Self::default()
        }
    }

    fn read(path: &Path) -> Option<Self> {
        Self::of(&open_to_read(path).ok()?)
    }

    /// Counts in a file. Blocks.
    fn of(file: impl AsFd) -> Option<Self> {
        let mut bytes = [0; BYTES_MAX];
        let count = rustix::io::pread(file, &mut bytes, 0).ok()?;
        let text = std::str::from_utf8(&bytes[..count]).ok()?;
        let mut numbers = text.split_whitespace().map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            written: next()?,
            left_out: next()?,
            lost: next()?,
        })
    }
}

/// Reader of the counts of many instances, whose logs' directory is opened once for all of them.
#[derive(Debug)]
pub(crate) struct LogCountsReader(OwnedFd);

impl LogCountsReader {
    /// Reader below `logs`. `None`: nothing was logged yet. Blocks.
    pub(crate) fn open(logs: &Path) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Some(Self(rustix::fs::open(logs, flags, Mode::empty()).ok()?))
    }

    /// Counts of an instance, not older than a logger's second. `None`: no logger of it counted. Blocks.
    pub(crate) fn read(&self, instance: InstanceName, kept: Option<&KeptLog>) -> Option<LogCounts> {
        let Some(kept) = kept else {
            return LogCounts::of(self.open_of(instance)?);
        };
        let mut kept = lock(&kept.0);
        // One that was removed has another in its place, if any.
        let is_there =
            |file: &OwnedFd| rustix::fs::fstat(file).is_ok_and(|found| found.st_nlink > 0);
        if !kept.as_ref().is_some_and(is_there) {
            *kept = self.open_of(instance);
        }
        LogCounts::of(kept.as_ref()?)
    }

    fn open_of(&self, InstanceName { id, generation }: InstanceName) -> Option<OwnedFd> {
        let path = path(&super::directory(Path::new(""), id), generation);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | NO_DETOUR;
        rustix::fs::openat(&self.0, path, flags, Mode::empty()).ok()
    }
}

/// File with the counts of an instance that stays open for the next look.
#[derive(Debug, Default)]
pub(crate) struct KeptLog(Mutex<Option<OwnedFd>>);

fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{generation}{ENDING}"))
}

/// Counts that a logger keeps.
#[derive(Debug)]
pub(super) struct KeptCounts {
    path: PathBuf,
    /// `None`: it could not be opened yet.
    file: Option<File>,
    now: LogCounts,
    told: LogCounts,
    told_at: Instant,
}

impl KeptCounts {
    /// Goes on with the counts of a generation in `dir`, and takes those of earlier ones away.
    pub(super) fn go_on(dir: &Path, generation: u64) -> Self {
        remove_before(dir, generation);
        let path = path(dir, generation);
        let now = LogCounts::read(&path).unwrap_or_default();
        let mut kept = Self {
            path,
            file: None,
            now,
            told: now,
            told_at: Instant::now(),
        };
        kept.tell();
        kept
    }

    pub(super) const fn add(&mut self, more: LogCounts) {
        let LogCounts {
            written,
            left_out,
            lost,
        } = more;
        self.now.written = self.now.written.saturating_add(written);
        self.now.left_out = self.now.left_out.saturating_add(left_out);
        self.now.lost = self.now.lost.saturating_add(lost);
    }

    /// Whether something was counted that is not told.
    pub(super) fn is_untold(&self) -> bool {
        self.now != self.told
    }

    /// Writes the file, where that was not done just now.
    pub(super) fn tell_now_and_then(&mut self) {
        if self.is_untold() && self.told_at.elapsed() >= INTERVAL {
            self.tell();
        }
    }

    /// Writes the file. Where that fails the next time may do.
    pub(super) fn tell(&mut self) {
        self.told_at = Instant::now();
        self.told = self.now;
        // One whose directory an operator removed is read by nobody.
        let is_gone = |file: &File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if self.file.as_ref().is_none_or(is_gone) {
            self.file = create(&self.path).ok();
        }
        let Some(file) = &self.file else { return };
        let LogCounts {
            written,
            left_out,
            lost,
        } = self.now;
        // As long as it ever was: a reader meets old numbers or new ones, and no end of others.
        let text = format!("{written:020} {left_out:020} {lost:020}\n");
        let _ = file.write_all_at(text.as_bytes(), 0);
    }
}

/// Opens the file to write. One that another user left is no use, and no loss: its numbers were read.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o640);
    options.custom_flags(no_detour()?);
    options.open(path).or_else(|_| {
        fs::remove_file(path)?;
        options.open(path)
    })
}

fn remove_before(dir: &Path, generation: u64) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_suffix(ENDING));
        let of = of.and_then(|number| number.parse::<u64>().ok());
        if of.is_some_and(|of| of < generation) {
            // What cannot be removed is read by nobody.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn counts(written: u64, left_out: u64, lost: u64) -> LogCounts {
        LogCounts {
            written,
            left_out,
            lost,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn counts_go_on_over_the_loggers_of_a_generation_and_begin_with_0() {
        let dir = tempfile::tempdir().unwrap();
        let read = |generation| LogCounts::read(&path(dir.path(), generation));
        assert_eq!(read(1), None);
        let mut kept = KeptCounts::go_on(dir.path(), 1);
        assert_eq!(read(1), Some(counts(0, 0, 0)), "before anything is printed");
        kept.add(counts(1, 0, 2));
        kept.tell_now_and_then();
        assert_eq!((read(1), kept.is_untold()), (Some(counts(0, 0, 0)), true));
        tokio::time::advance(INTERVAL).await;
        kept.tell_now_and_then();
        assert_eq!((read(1), kept.is_untold()), (Some(counts(1, 0, 2)), false));
        drop(kept);
        let mut kept = KeptCounts::go_on(dir.path(), 1);
        kept.add(counts(4, u64::MAX, 1));
        kept.add(counts(0, 1, 0));
        kept.tell();
        let all = counts(5, u64::MAX, 3);
        assert_eq!(read(1), Some(all));
        assert_eq!(KeptCounts::go_on(dir.path(), 1).now, all);
        drop(KeptCounts::go_on(dir.path(), 2));
        assert_eq!((read(1), read(2)), (None, Some(counts(0, 0, 0))));
        kept = KeptCounts::go_on(dir.path(), 2);
        fs::remove_file(path(dir.path(), 2)).unwrap();
        kept.add(counts(1, 0, 0));
        kept.tell();
        assert_eq!(read(2), Some(counts(1, 0, 0)), "made again");
    }

    #[test]
    fn whatever_lies_there_leads_nobody_elsewhere_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "7 7 7").unwrap();
        symlink(&outside, path(dir.path(), 3)).unwrap();
        assert_eq!(LogCounts::read(&path(dir.path(), 3)), None);
        let mut kept = KeptCounts::go_on(dir.path(), 3);
        kept.add(counts(9, 0, 0));
        kept.tell();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "7 7 7");
        let read = LogCounts::read(&path(dir.path(), 3));
        assert_eq!(read, Some(counts(9, 0, 0)), "a link in the way is replaced");
        fs::write(path(dir.path(), 4), "1 x 3").unwrap();
        fs::create_dir(path(dir.path(), 5)).unwrap();
        for generation in [4, 5, 6] {
            assert_eq!(LogCounts::read(&path(dir.path(), generation)), None);
        }
        KeptCounts::go_on(dir.path(), 5).tell();
        KeptCounts::go_on(&dir.path().join("none"), 1).tell();
    }
}
