//! The log in a file: of bounded size, with a bounded number of older ones beside it, and opened again
//! when it was moved away.
//!
//! A file that is full becomes `<name>.1`, that one `<name>.2`, and so on. Where the disk takes no more,
//! or the file was removed and no other one can be made, lines are lost and counted, stderr is told, and
//! the agent goes on.

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
        let (mut size, mut is_nameless) = looked_at(&open.file);
        if is_nameless || size > 0 && size.saturating_add(length) > self.bounds.bytes_max {
            self.rotate(&mut open);
            (size, is_nameless) = looked_at(&open.file);
        }
        // What cannot be rotated grows no further than to twice its size.
        let is_full =
            size > 0 && size.saturating_add(length) > self.bounds.bytes_max.saturating_mul(2);
        let is_closed = is_full || is_nameless;
        let lost = open.lost;
        if lost > 0 && !is_closed {
            let told = format!("lines of this log could not be written here: {lost}");
            let told = match self.bounds.is_json {
                true => format!("{{\"level\":\"WARN\",\"message\":\"{told}\"}}\n"),
                false => format!("({told})\n"),
            };
            if put_all(&open.file, told.as_bytes()) {
                open.lost = 0;
            }
        }
        if is_closed || !put_all(&open.file, line) {
            if open.lost == 0 {
                self.tell_of_loss();
            }
            open.lost = open.lost.saturating_add(1);
        }
    }

    /// Says on stderr, behind which a person or the journal is, that lines are lost from now on. Once for
    /// each time that they are.
    fn tell_of_loss(&self) {
        let path = self.path.display();
        let told = format!(
            "chas-node-agent: the log file {path} cannot be written or made again; lines are lost \
             until it can, and it will say how many\n"
        );
        let _nobody_may_read_it = io::Write::write_all(&mut io::stderr(), told.as_bytes());
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

/// Size of the file, and whether it was removed: what has no name any more is read by nobody.
fn looked_at(file: &File) -> (u64, bool) {
    let data = file.metadata();
    data.map_or((0, false), |data| {
        (data.size(), data.is_file() && data.nlink() == 0)
    })
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
mod tests;
