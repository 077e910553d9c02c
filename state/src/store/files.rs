//! The files that a change is written to: sled's, and the place of the last change.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::defaults;
use super::disk::{ChapterChange, Disk, DiskError};
use super::last::{self, LastChange, LastFile, LastState};
use super::quarantine::quarantine;
use super::recover::{self, QUARANTINE, Recovered};
use super::reserve;
use super::state_dir::{DiskCall, SLED, StateDir};
use super::survey::{Choice, SledState, Survey};
use super::{Store, StoreError, lock};
use crate::desired::Entries;
use crate::desired::set::{Desired, DesiredChange};

/// Time that sled may take to close files that failed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Tries to open files whose opening does not end, of three seconds each, before they count as
/// damaged.
const SLOW_MAX: u32 = 20;

/// State of the files.
#[derive(Debug)]
pub(super) enum FilesState {
    /// The files can be written, as far as is known.
    Open(Box<OpenFiles>),
    /// The state in memory is the last that was acknowledged, and the files are not open: a write
    /// failed, or another copy was current. They are brought to that state when they are opened.
    Failed,
    /// The files could not be opened yet, and may hold more than is known.
    Unread,
}

/// Files that a change is written to.
#[derive(Debug)]
pub(super) struct OpenFiles {
    disk: Disk,
    /// `None`: the disk has no room to make it. Without it no copy is taken for the current one.
    last: Option<LastFile>,
}

/// The files, and whether they can be written.
#[derive(Debug)]
pub(super) struct StoreFiles {
    pub(super) dir: StateDir,
    pub(super) state: FilesState,
    /// The last change, as it was acknowledged.
    last: LastChange,
    /// Openings in a row that did not end.
    slow: u32,
    /// Fault for which a recovery could not open them to the end. It is none of what they hold.
    pub(super) fault: Option<String>,
    /// Whether the files may hold a change that was not acknowledged.
    pub(super) is_unsure: bool,
    /// Whether a closing of the files does not end.
    pub(super) stuck: Arc<AtomicBool>,
    /// The state directory, locked as long as this value lives: no second agent writes here.
    lock: Option<File>,
}

impl StoreFiles {
    /// The files in this directory, not opened yet.
    pub(super) fn new(dir: StateDir) -> Self {
        Self {
            dir,
            state: FilesState::Unread,
            last: LastChange::at(0),
            slow: 0,
            fault: None,
            is_unsure: false,
            stuck: Arc::default(),
            lock: None,
        }
    }

    /// sled's files, if they are open.
    pub(super) fn disk(&self) -> Option<&Disk> {
        match &self.state {
            FilesState::Open(files) => Some(&files.disk),
            FilesState::Failed | FilesState::Unread => None,
        }
    }

    /// Reads the state directory: the state to begin with, or to go on with once what could not be
    /// opened can be.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`]: another agent has the directory.
    pub(super) fn recover(&mut self) -> io::Result<(Desired, Vec<String>)> {
        if self.lock.is_none() {
            match self.dir.lock() {
                Ok(lock) => self.lock = Some(lock),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    let why = format!("the directory cannot be opened now: {error}");
                    return Ok((Desired::default().unknown(), vec![why]));
                }
            }
        }
        // Without its mark a new directory would count as one from before with the next start, and
        // the node be open.
        if let Err(error) = defaults::mark_new(&self.dir) {
            let why = format!("the new directory cannot be marked now: {error}");
            return Ok((Desired::default().unknown(), vec![why]));
        }
        let survey = Survey::of(&self.dir, self.slow < SLOW_MAX);
        self.slow = if matches!(survey.sled, SledState::Slow) {
            self.slow + 1
        } else {
            0
        };
        let is_current = matches!(survey.choice(), Choice::Current(_));
        let Recovered {
            disk,
            desired,
            losses,
            last,
        } = recover::recover(&self.dir, survey);
        self.fault = None;
        let Some(disk) = disk else {
            // From now on answers are given by this state, and the files have to follow.
            if is_current {
                (self.state, self.last) = (FilesState::Failed, last);
            }
            return Ok((desired, losses));
        };
        // Only now: files that hold more than the last change are well, not less.
        match self.open_last(last) {
            Ok(last) => self.state = FilesState::Open(Box::new(OpenFiles { disk, last })),
            // They may hold a change that is noted nowhere else. It is in force from now on, and no
            // other copy may take the place of these files.
            Err(error) => {
                self.fault = Some(format!("{} cannot be written now: {error}", last::NAME));
                self.state = FilesState::Failed;
                let files = OpenFiles { disk, last: None };
                close(FilesState::Open(Box::new(files)), &self.stuck);
            }
        }
        Ok((desired, losses))
    }

    /// Reasons for which the files are not open: these losses, and the fault.
    pub(super) fn why(&self, losses: &[String]) -> String {
        let reasons: Vec<_> = losses
            .iter()
            .chain(&self.fault)
            .map(String::as_str)
            .collect();
        reasons.join("; ")
    }

    /// Opens the files after a write failed, and makes them hold the acknowledged state: no less,
    /// and no more.
    pub(super) fn open_again(&mut self, desired: &Desired) -> io::Result<()> {
        if !matches!(self.state, FilesState::Failed) {
            return Ok(());
        }
        let mut opened = self.opened();
        if opened.as_ref().is_err_and(reserve::is_full) && reserve::give_up(&self.dir) {
            opened = self.opened();
        }
        let (disk, found) = opened?;
        // The last change comes first: files that hold more than it says are well, not less.
        let last = self.open_last(self.last.clone());
        let mut files = Box::new(OpenFiles { disk, last: None });
        let repaired = last.and_then(|last| {
            files.last = last;
            let repaired = recover::repaired(&self.dir, &mut files.disk, &found, desired);
            repaired.map_err(io_error)
        });
        let files = FilesState::Open(files);
        if repaired.is_err() {
            close(files, &self.stuck);
            return repaired;
        }
        (self.state, self.is_unsure) = (files, false);
        Ok(())
    }

    /// The refusal of a change for this error. Where an earlier one may be on the disk, it may be this
    /// very one, asked for again.
    pub(super) fn refused(&self, error: io::Error) -> StoreError {
        if self.is_unsure {
            StoreError::Unsure(error)
        } else {
            StoreError::Disk(error)
        }
    }

    fn opened(&self) -> io::Result<(Disk, Entries)> {
        let path = self.dir.join(SLED);
        self.dir.ask(DiskCall::Open)?;
        if self.stuck.load(Ordering::Relaxed) {
            let message = "closing the state's files after a failed write does not end";
            return Err(io::Error::new(ErrorKind::TimedOut, message));
        }
        let opened = Disk::open(&path);
        match opened {
            // Nothing is lost by it.
            Err(why @ (DiskError::Damaged(_) | DiskError::Slow)) => {
                let why = why.to_string();
                tracing::error!(%why, "stored state damaged while in use; rewriting it from memory");
                quarantine(&self.dir, &self.dir.join(QUARANTINE), &path, &why)?;
                Disk::open(&path).map_err(io_error)
            }
            opened => opened.map_err(io_error),
        }
    }

    fn open_last(&mut self, last: LastChange) -> io::Result<Option<LastFile>> {
        self.last = last.clone();
        match LastFile::open(&self.dir, last) {
            Ok(opened) => Ok(Some(opened)),
            // As long as there is none, or a damaged one, it tells nothing wrong.
            Err(error)
                if reserve::is_full(&error)
                    && matches!(
                        last::read(&self.dir),
                        LastState::Missing | LastState::Damaged
                    ) =>
            {
                tracing::warn!(%error, "no room to note the last change, retrying");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes and syncs a change, all or nothing, with the chapters of it; closes the files if that
    /// fails.
    pub(super) fn write(
        &mut self,
        changes: &[DesiredChange],
        next: &Desired,
        chapters: &[ChapterChange],
    ) -> io::Result<()> {
        let FilesState::Open(files) = &mut self.state else {
            return Err(io::Error::other("the files are not open"));
        };
        let mut entries: Vec<_> = changes.iter().map(DesiredChange::entry).collect();
        entries.push(next.seq_entry());
        let written = files.write(&self.dir, (&entries, chapters), next.seq(), changes);
        match &written {
            Ok(()) => self.last = self.last.followed_by(next.seq(), changes),
            // The files are as they were.
            Err(DiskError::NoRoom(_)) => {}
            Err(_) => {
                let failed = std::mem::replace(&mut self.state, FilesState::Failed);
                close(failed, &self.stuck);
            }
        }
        written.map_err(io_error)
    }

    /// Writes a change for which a full disk had no room, now that it has what was in reserve. Without a
    /// reserve all is as it was.
    pub(super) fn write_by_reserve(
        &mut self,
        changes: &[DesiredChange],
        (desired, next): (&Desired, &Desired),
        chapters: &[ChapterChange],
        refused: io::Result<()>,
    ) -> io::Result<()> {
        if !reserve::give_up(&self.dir) {
            return refused;
        }
        self.open_again(desired)?;
        self.write(changes, next, chapters)
    }

    /// Makes what is missing beside the files: the reserve, and the place of the last change.
    pub(super) fn tend(&mut self) -> io::Result<()> {
        let FilesState::Open(files) = &mut self.state else {
            return Ok(());
        };
        reserve::make(&self.dir)?;
        if files.last.is_none() {
            files.last = Some(LastFile::open(&self.dir, self.last.clone())?);
        }
        Ok(())
    }
}

impl OpenFiles {
    fn write(
        &mut self,
        dir: &StateDir,
        (entries, chapters): (&[(String, Option<serde_json::Value>)], &[ChapterChange]),
        seq: u64,
        changes: &[DesiredChange],
    ) -> Result<(), DiskError> {
        self.disk.write(dir, entries, chapters)?;
        match &mut self.last {
            Some(last) => last.write(dir, seq, changes).map_err(DiskError::Io),
            None => Ok(()),
        }
    }
}

impl Store {
    /// Whether the files are to be opened again after a failed write, and may hold more than is in force
    /// until then.
    #[must_use]
    pub fn awaits_opening(&self) -> bool {
        matches!(lock(&self.files).state, FilesState::Failed)
    }
}

pub(super) fn io_error(error: DiskError) -> io::Error {
    match error {
        DiskError::Io(error) | DiskError::NoRoom(error) => error,
        DiskError::Slow => io::Error::new(ErrorKind::TimedOut, error.to_string()),
        DiskError::Damaged(why) => io::Error::other(why),
    }
}

/// Word that a closing has not ended, until it is dropped: by a panic of sled's as well.
struct ClosingWord(Arc<AtomicBool>);

impl Drop for ClosingWord {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Closes files that failed, on a thread of its own: sled may panic, or never return. `stuck` says
/// that it has not returned (yet).
fn close(files: FilesState, stuck: &Arc<AtomicBool>) {
    let (done, closed) = std::sync::mpsc::sync_channel(1);
    stuck.store(true, Ordering::Relaxed);
    let word = ClosingWord(Arc::clone(stuck));
    let closing = std::thread::Builder::new()
        .name("sled-close".to_owned())
        .spawn(move || {
            // Dropped in this order, also by a panic: whoever hears of the end finds no word.
            let (done, word, files) = (done, word, files);
            drop(files);
            drop(word);
            let _nobody_waits = done.send(());
        });
    // Without a thread they were closed here instead.
    if closing.is_ok() {
        let _late = closed.recv_timeout(CLOSE_TIMEOUT);
    }
}
