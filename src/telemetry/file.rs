//! The log in a file: of bounded size, with a bounded number of older ones beside it, and opened again
//! when it was moved away.
//!
//! A file that is full becomes `<name>.1`, that one `<name>.2`, and so on. Where the disk takes no more,
//! lines are lost and counted, and the agent goes on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::TelemetryError;

/// Wait before a rotation that failed is tried again.
const ROTATE_RETRY: Duration = Duration::from_secs(10);

/// Bounds of a log in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileBounds {
    /// Bytes of one file, beyond which the next line begins another one.
    pub(super) bytes_max: u64,
    /// Files, with the one that is written.
    pub(super) files_max: u32,
    /// Whether each line is an object of JSON.
    pub(super) is_json: bool,
}

/// Log in a file. Clones write into the same.
#[derive(Clone, Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    bounds: FileBounds,
    open: Arc<Mutex<WrittenFile>>,
}

#[derive(Debug)]
struct WrittenFile {
    file: File,
    /// Lines that were not written since one was.
    lost: u64,
    /// Time of the last rotation that failed.
    failed: Option<SystemTime>,
}

impl LogFile {
    pub(super) fn open(path: &Path, bounds: FileBounds) -> Result<Self, TelemetryError> {
        let open = WrittenFile {
            file: open(path)?,
            lost: 0,
            failed: None,
        };
        Ok(Self {
            path: path.to_owned(),
            bounds,
            open: Arc::new(Mutex::new(open)),
        })
    }

    /// Opens the file again, which may have been moved away.
    pub(super) fn reopen(&self) -> Result<(), TelemetryError> {
        let file = open(&self.path)?;
        self.lock().file = file;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WrittenFile> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line.
    fn write(&self, line: &[u8]) {
        let mut open = self.lock();
        let length = line.len() as u64;
        let (size, links) = open
            .file
            .metadata()
            .map_or((0, 1), |data| (data.size(), data.nlink()));
        // What has no name any more is read by nobody.
        if links == 0 || size > 0 && size.saturating_add(length) > self.bounds.bytes_max {
            self.rotate(&mut open);
        }
        let size = open.file.metadata().map_or(0, |data| data.size());
        // What cannot be rotated grows no further than to twice its size.
        let is_full = size.saturating_add(length) > self.bounds.bytes_max.saturating_mul(2);
        let lost = open.lost;
        if lost > 0 && !is_full {
            let told = format!("lines of this log could not be written here: {lost}");
            let told = match self.bounds.is_json {
                true => format!("{{\"level\":\"WARN\",\"message\":\"{told}\"}}\n"),
                false => format!("({told})\n"),
            };
            if put_all(&open.file, told.as_bytes()) {
                open.lost = 0;
            }
        }
        if is_full && size > 0 || !put_all(&open.file, line) {
            open.lost = open.lost.saturating_add(1);
        }
    }

    /// Begins a new file, and moves the others on. What is no plain file is never moved.
    fn rotate(&self, open: &mut WrittenFile) {
        let now = SystemTime::now();
        let is_waiting = open.failed.is_some_and(|failed| {
            let since = now.duration_since(failed);
            since.is_ok_and(|since| since < ROTATE_RETRY)
        });
        if is_waiting {
            return;
        }
        match self.begin(open) {
            Ok(Some(file)) => {
                open.file = file;
                open.failed = None;
            }
            Ok(None) => open.failed = Some(now),
            Err(_told_by_the_size_of_the_file) => open.failed = Some(now),
        }
    }

    fn begin(&self, open: &WrittenFile) -> io::Result<Option<File>> {
        let data = open.file.metadata()?;
        // What the path stands for, where it is a link.
        let path = match fs::canonicalize(&self.path) {
            // It was removed, or moved away, and nothing put in its place.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return append_or_create(&self.path).map(Some);
            }
            path => path?,
        };
        let there = fs::metadata(&path)?;
        if !data.is_file() {
            return Ok(None);
        }
        if (data.dev(), data.ino()) != (there.dev(), there.ino()) {
            // It was moved away, and another one is in its place.
            return append_or_create(&path).map(Some);
        }
        // Made first: a disk without room for it keeps all that is there.
        let new = beside(&path, "new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600);
        let file = file.open(&new)?;
        // The owner first: another's file would lose bits of its mode by it.
        let _as_far_as_it_goes = fchown(&file, Some(data.uid()), Some(data.gid()));
        file.set_permissions(Permissions::from_mode(data.mode() & 0o777))?;
        // Up to the first number that is free: where the log itself cannot be moved, the others are moved
        // once, and not lost one after the other.
        let last = self.bounds.files_max.saturating_sub(1);
        let is_free = |number: &u32| !beside(&path, &number.to_string()).exists();
        let free = (1..last).find(is_free).unwrap_or(last);
        for number in (1..free).rev() {
            let (from, to) = (number.to_string(), (number + 1).to_string());
            moved(&beside(&path, &from), &beside(&path, &to))?;
        }
        if self.bounds.files_max > 1 {
            moved(&path, &beside(&path, "1"))?;
        }
        fs::rename(&new, &path)?;
        Ok(Some(file))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// Moves a file, if it is there.
fn moved(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes all of it, or takes back what was written. True if it is there.
fn put_all(file: &File, bytes: &[u8]) -> bool {
    let before = file.metadata().map(|data| (data.is_file(), data.size()));
    let written = io::Write::write_all(&mut &*file, bytes).is_ok();
    if let (false, Ok((true, size))) = (written, before) {
        // Half a line would be taken for the beginning of the next one.
        let _best_effort = file.set_len(size);
    }
    written
}

/// Write access to a log file, for one line.
#[derive(Debug)]
pub(super) struct LogWrite<'a>(pub(super) &'a LogFile);

impl io::Write for LogWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> tracing_subscriber::fmt::MakeWriter<'w> for LogFile {
    type Writer = LogWrite<'w>;

    fn make_writer(&'w self) -> LogWrite<'w> {
        LogWrite(self)
    }
}

fn open(path: &Path) -> Result<File, TelemetryError> {
    append_or_create(path).map_err(|source| TelemetryError::File {
        path: path.to_owned(),
        source,
    })
}

/// Opens a log file at its end. A new one is also for its group, whatever the agent's umask: log
/// collectors are in it. The mode of one that is there is its owner's choice.
fn append_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match options.create_new(true).mode(0o640).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o640))?;
            Ok(file)
        }
        // Another has created it meanwhile.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            OpenOptions::new().append(true).open(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: FileBounds = FileBounds {
        bytes_max: 10,
        files_max: 3,
        is_json: false,
    };

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_bounded_in_size_and_number_and_the_newest_lines_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let log = LogFile::open(&path, SMALL).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        for number in 0..20 {
            log.write(format!("{number:04}\n").as_bytes());
        }
        assert_eq!(names(directory.path()), ["a.log", "a.log.1", "a.log.2"]);
        assert_eq!(text(&path), "0018\n0019\n");
        assert_eq!(text(&beside(&path, "2")), "0014\n0015\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&beside(&path, "1"))), (0o604, 0o604));
        // A line that is larger than a file is a file of its own.
        log.write(b"a line of more than ten\n");
        assert_eq!(text(&path), "a line of more than ten\n");
        // With fewer files than before, the rest is not touched.
        let one = FileBounds {
            files_max: 1,
            ..SMALL
        };
        let log = LogFile::open(&path, one).unwrap();
        log.write(b"1\n");
        assert_eq!(text(&path), "1\n");
        assert_eq!(text(&beside(&path, "1")), "0018\n0019\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (
            directory.path().join("a.log"),
            directory.path().join("b.log"),
        );
        let log = LogFile::open(&path, SMALL).unwrap();
        log.write(b"one");
        fs::rename(&path, &moved).unwrap();
        log.write(b"two");
        log.reopen().unwrap();
        log.write(b"three");
        assert_eq!(
            (text(&moved), text(&path)),
            ("onetwo".to_owned(), "three".to_owned())
        );
    }

    #[test]
    fn a_link_stays_a_link_and_what_is_no_plain_file_is_not_moved() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (
            directory.path().join("a.log"),
            directory.path().join("l.log"),
        );
        fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let log = LogFile::open(&link, SMALL).unwrap();
        for _ in 0..3 {
            log.write(b"12345678\n");
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            names(directory.path()),
            ["a.log", "a.log.1", "a.log.2", "l.log"]
        );
        // Nothing of another's making is followed or written through.
        let new = beside(&path, "new");
        std::os::unix::fs::symlink("/nonexistent/elsewhere", &new).unwrap();
        log.write(b"12345678\n");
        assert_eq!(text(&path), "12345678\n");
        let null = LogFile::open(Path::new("/dev/null"), SMALL).unwrap();
        for _ in 0..3 {
            null.write(b"12345678\n");
        }
        assert!(!Path::new("/dev/null.1").exists());
    }

    #[test]
    fn where_no_file_can_be_made_the_log_ends_at_twice_its_size_and_says_what_was_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let bounds = FileBounds {
            bytes_max: 100,
            files_max: 2,
            is_json: false,
        };
        let log = LogFile::open(&path, bounds).unwrap();
        // A directory is in the way of the file that comes next.
        let new = beside(&path, "new");
        fs::create_dir_all(new.join("x")).unwrap();
        for _ in 0..100 {
            log.write(b"123456789\n");
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 200);
        fs::remove_dir_all(&new).unwrap();
        log.lock().failed = None;
        log.write(b"123456789\n");
        let told = "(lines of this log could not be written here: 80)\n";
        assert_eq!(text(&path), format!("{told}123456789\n"));
        assert_eq!(fs::metadata(beside(&path, "1")).unwrap().len(), 200);
    }

    #[test]
    fn a_disk_without_room_costs_lines_and_nothing_else() {
        // It says that it has no room at every write.
        let log = LogFile::open(Path::new("/dev/full"), SMALL).unwrap();
        log.write(b"1\n");
        log.write(b"2\n");
        assert_eq!(log.lock().lost, 2);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = open(Path::new("/nonexistent/x.log")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open the log file /nonexistent/x.log"
        );
    }
}
