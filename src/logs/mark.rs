//! Mark of a run: a small file beside the log that says that it is being written, and in which boot
//! of the node. One that is left behind says that the end of the log may be missing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::files::{no_detour, open_to_read};

/// Ending of a mark's name; the generation comes before it.
const ENDING: &str = ".open";

/// Most bytes of a mark that are read.
const BOOT_BYTES_MAX: u64 = 64;

/// Mark of the run that this logger writes. It is locked for as long as the logger lives.
#[derive(Debug)]
pub(super) struct RunMark {
    path: PathBuf,
    _locked: File,
}

/// End of an earlier run that no logger saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UnseenEnd {
    /// The logger ended before its container did, in this boot.
    LoggerEnded,
    /// The node went down: power cut, crash or reset.
    NodeWentDown,
}

impl RunMark {
    /// Sets the mark of a generation's run in `dir`, and takes away those that are left of earlier
    /// ones. Where no mark can be set there is none; a log is written all the same.
    pub(super) fn set(
        dir: &Path,
        generation: u64,
        boot: &str,
    ) -> (Option<Self>, Option<UnseenEnd>) {
        let unseen = left_behind(dir)
            .into_iter()
            .map(|of_boot| {
                if of_boot == boot {
                    UnseenEnd::LoggerEnded
                } else {
                    UnseenEnd::NodeWentDown
                }
            })
            .max();
        (Self::create(dir, generation, boot), unseen)
    }

    fn create(dir: &Path, generation: u64, boot: &str) -> Option<Self> {
        let path = dir.join(format!("{generation}{ENDING}"));
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o640);
        let mut file = options.custom_flags(no_detour().ok()?).open(&path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        file.set_len(0).ok()?;
        file.write_all(boot.as_bytes()).ok()?;
        Some(Self {
            path,
            _locked: file,
        })
    }

    /// Takes the mark away: the run is over, and all of it is on the disk.
    pub(super) fn clear(self) {
        // A mark that cannot be removed says that lines may be missing, no more.
        let _ = fs::remove_file(self.path);
    }
}

/// Takes away the marks in `dir` whose loggers live no more, and answers the boot of each.
fn left_behind(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let marks = entries.filter(|entry| {
        let is_mark = |name: &str| name.ends_with(ENDING);
        entry.file_name().to_str().is_some_and(is_mark)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
    });
    let mut boots = Vec::new();
    for path in marks.map(|entry| entry.path()) {
        let Ok(file) = open_to_read(&path) else {
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        let mut boot = String::new();
        // What cannot be read is of another boot than this.
        let _ = (&file).take(BOOT_BYTES_MAX).read_to_string(&mut boot);
        if fs::remove_file(&path).is_ok() {
            boots.push(boot);
        }
    }
    boots
}

/// Boot of the node; empty if the kernel does not tell.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_ended_unseen_is_told_once_and_with_its_cause() {
        let dir = tempfile::tempdir().unwrap();
        let set = |generation, boot: &str| RunMark::set(dir.path(), generation, boot);
        let (mark, unseen) = set(1, "a");
        assert_eq!((mark.is_some(), unseen), (true, None));
        mark.unwrap().clear();
        let (mark, unseen) = set(1, "a");
        assert_eq!(unseen, None, "the last run was closed");
        drop(mark);
        let (mark, unseen) = set(1, "a");
        assert_eq!(unseen, Some(UnseenEnd::LoggerEnded));
        drop(mark);
        let (mark, unseen) = set(2, "b");
        assert_eq!(unseen, Some(UnseenEnd::NodeWentDown), "of any generation");
        mark.unwrap().clear();
        assert_eq!(set(2, "b").1, None);
    }

    #[test]
    fn the_mark_of_a_logger_that_lives_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let (old, _) = RunMark::set(dir.path(), 1, "a");
        let (new, unseen) = RunMark::set(dir.path(), 2, "a");
        assert_eq!(unseen, None);
        assert!(dir.path().join("1.open").exists());
        assert!(RunMark::set(dir.path(), 1, "a").0.is_none());
        drop((old, new));
    }

    #[test]
    fn a_directory_that_is_not_there_and_a_strange_mark_stop_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mark, unseen) = RunMark::set(&dir.path().join("none"), 1, "a");
        assert!(mark.is_none() && unseen.is_none());
        fs::create_dir(dir.path().join("9.open")).unwrap();
        fs::write(dir.path().join("8.open"), [0xff; 4096]).unwrap();
        let (mark, unseen) = RunMark::set(dir.path(), 1, "a");
        assert_eq!(
            (mark.is_some(), unseen),
            (true, Some(UnseenEnd::NodeWentDown))
        );
    }
}
