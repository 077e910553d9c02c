//! Limits of a log that change while it is written: a small file beside the log, which the agent
//! writes and the logger looks at.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use state::desired::Record;
use state::quantity::ByteCount;
use state::spec::LogLimits;
use tokio::time::Instant;

use super::files::{no_detour, open_to_read};

/// Name of the file; that of the one that takes its place has an ending.
const NAME: &str = "limits";
const NEXT: &str = "limits.next";
/// Most bytes of it that are read: three numbers.
const BYTES_MAX: u64 = 64;
/// Time between two looks of a logger that writes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Limits of a log, and the generation that they are of: of two, the later counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NumberedLimits {
    /// Generation; 0 is the one that the instance was made as. A call says nothing of that, so that
    /// it is understood by every version.
    pub(super) generation: u64,
    pub(super) limits: LogLimits,
}

impl NumberedLimits {
    /// Limits that the record asks for. Without one, the default, which counts less than any other.
    pub(super) fn of(record: Option<&Record>) -> Self {
        record.map_or_else(Self::default, |record| Self {
            generation: record.made_at.map_or(0, |_| record.generation),
            limits: record.spec.logs,
        })
    }

    /// Writes the file in a log directory, for a logger that runs now: a later one is called with
    /// its limits. Blocks. A directory that is missing has no logger, and is no error.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        let (
            next,
            LogLimits {
                max_size,
                max_files,
            },
        ) = (dir.join(NEXT), self.limits);
        let written = (|| {
            // The directory may be another user's, who can put anything there.
            match fs::remove_file(&next) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.create_new(true).write(true).mode(0o644);
            let mut file = options.custom_flags(no_detour()?).open(&next)?;
            write!(file, "{},{},{max_files}", self.generation, max_size.0)?;
            fs::rename(&next, dir.join(NAME))
        })();
        match written {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Reads the file; `None`: there is none, or it is none.
    fn read(dir: &Path) -> Option<Self> {
        let file = open_to_read(&dir.join(NAME)).ok()?;
        let mut text = String::new();
        file.take(BYTES_MAX).read_to_string(&mut text).ok()?;
        let mut numbers = text.split(',').map(|number| number.parse::<u64>().ok());
        let (generation, max_size) = (numbers.next()??, ByteCount(numbers.next()??));
        let max_files = u32::try_from(numbers.next()??).ok()?;
        let limits = LogLimits {
            max_size,
            max_files,
        };
        Some(Self { generation, limits })
    }
}

/// A logger's look at the limits that it is told while it writes.
#[derive(Debug)]
pub(super) struct ToldLimits {
    generation: u64,
    looked: Instant,
}

impl ToldLimits {
    /// Looks for what is later than these limits of an instance that was made as `made_at`.
    pub(super) fn after(own: NumberedLimits, made_at: u64) -> Self {
        Self {
            generation: own.generation.max(made_at),
            looked: Instant::now(),
        }
    }

    /// Limits that are told in `dir` now. `None`: nothing new, or it was looked for just now.
    pub(super) fn news(&mut self, dir: &Path) -> Option<LogLimits> {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return None;
        }
        self.looked = Instant::now();
        let told = NumberedLimits::read(dir);
        let told = told.filter(|told| told.generation > self.generation)?;
        self.generation = told.generation;
        Some(told.limits)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn numbered(generation: u64, max_files: u32) -> NumberedLimits {
        let limits = LogLimits {
            max_size: ByteCount(65536),
            max_files,
        };
        NumberedLimits { generation, limits }
    }

    #[tokio::test(start_paused = true)]
    async fn a_logger_hears_once_of_limits_that_are_later_than_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let mut told = ToldLimits::after(numbered(0, 5), 2);
        let mut hear = async |wrote: Option<NumberedLimits>| {
            if let Some(limits) = wrote {
                limits.write(dir.path()).unwrap();
            }
            tokio::time::advance(LOOK_INTERVAL).await;
            told.news(dir.path()).map(|limits| limits.max_files)
        };
        assert_eq!(hear(None).await, None);
        assert_eq!(hear(Some(numbered(2, 1))).await, None, "its own");
        assert_eq!(hear(Some(numbered(3, 2))).await, Some(2));
        assert_eq!(hear(None).await, None, "heard already");
        assert_eq!(hear(Some(numbered(2, 9))).await, None, "older");
        assert_eq!(hear(Some(numbered(4, 3))).await, Some(3));
        numbered(5, 4).write(dir.path()).unwrap();
        assert_eq!(told.news(dir.path()), None, "looked at just now");
    }

    #[test]
    fn whatever_lies_there_leads_nobody_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (log, outside) = (dir.path().join("log"), dir.path().join("outside"));
        numbered(1, 1).write(&log).unwrap();
        assert!(!log.exists(), "a directory is made by its logger alone");
        fs::create_dir(&log).unwrap();
        fs::write(&outside, "x").unwrap();
        for name in [NAME, NEXT] {
            symlink(&outside, log.join(name)).unwrap();
        }
        assert_eq!(NumberedLimits::read(&log), None);
        numbered(7, 3).write(&log).unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "x");
        assert_eq!(NumberedLimits::read(&log), Some(numbered(7, 3)));
        fs::write(log.join(NAME), "7,x,3").unwrap();
        assert_eq!(NumberedLimits::read(&log), None);
    }
}
