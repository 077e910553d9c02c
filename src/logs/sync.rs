//! Brings a log to the disk in a thread of its own, so that a power cut takes a few seconds of it
//! and a slow disk never holds up the container.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Longest time that written lines stay off the disk, apart from what the disk itself takes. All
/// loggers of a node sync at the same moments, so that the file system's journal takes them
/// together.
const INTERVAL: Duration = Duration::from_millis(1500);

/// Longest wait for a slow disk at the end of a run.
const FAREWELL: Duration = Duration::from_secs(2);

/// Most files that wait to be synced; of more, the oldest are left to the kernel.
const FILES_MAX: usize = 4;

/// Memory of the thread, which needs next to none.
const STACK_BYTES: usize = 64 * 1024;

/// Syncing side of a log. Nothing is synced while nothing is written.
#[derive(Debug)]
pub(crate) struct LogSyncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Files with lines that are not on the disk, by number.
    files: Vec<(u64, Arc<File>)>,
    /// Whether files are being synced at this moment.
    busy: bool,
    /// Whether the run is over.
    ended: bool,
}

impl LogSyncer {
    /// Syncer of the log in `dir`. Its thread begins with the first line.
    pub(crate) fn new(dir: &Path) -> Self {
        let shared = Shared {
            dir: dir.to_owned(),
            waiting: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            thread: None,
        }
    }

    /// Notes that lines were written to file `number`.
    pub(crate) fn wrote(&mut self, number: u64, file: &Arc<File>) {
        let mut waiting = self.shared.lock();
        if waiting.files.iter().any(|(waits, _)| *waits == number) {
            return;
        }
        if waiting.files.len() == FILES_MAX {
            waiting.files.remove(0);
        }
        waiting.files.push((number, Arc::clone(file)));
        drop(waiting);
        self.shared.changed.notify_one();
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            // Without a thread the kernel syncs, later; the next file tries again.
            self.thread = thread.spawn(move || shared.sync_for_ever()).ok();
        }
    }

    /// Lets go of the files before number `first`, which are removed.
    pub(crate) fn forget_before(&self, first: u64) {
        self.shared
            .lock()
            .files
            .retain(|(number, _)| *number >= first);
    }

    /// Brings everything to the disk, for the end of the run. `false`: the disk takes too long.
    pub(crate) fn finish(self) -> bool {
        let mut waiting = self.shared.lock();
        waiting.ended = true;
        self.shared.changed.notify_one();
        if self.thread.is_none() {
            return waiting.files.is_empty();
        }
        let unsynced = |waiting: &mut Waiting| waiting.busy || !waiting.files.is_empty();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(waiting, FAREWELL, unsynced)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_for_ever(&self) {
        let mut newest = 0;
        while let Some(files) = self.next() {
            for (number, file) in files {
                // An error shows in the next write.
                let _ = file.sync_data();
                if number > newest
                    && let Ok(dir) = File::open(&self.dir)
                {
                    let _ = dir.sync_all();
                    newest = number;
                }
            }
            self.lock().busy = false;
            self.changed.notify_all();
        }
    }

    /// Files to sync, once it is time. `None`: the run is over, and all of it synced.
    fn next(&self) -> Option<Vec<(u64, Arc<File>)>> {
        let idle = |waiting: &mut Waiting| waiting.files.is_empty() && !waiting.ended;
        let waiting = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, until_the_next_moment(), |waiting| !waiting.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.files.is_empty() && waiting.ended {
            return None;
        }
        waiting.busy = true;
        Some(std::mem::take(&mut waiting.files))
    }
}

/// Time until the moment at which all loggers of the node sync.
fn until_the_next_moment() -> Duration {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    let past = now.as_nanos() % INTERVAL.as_nanos();
    INTERVAL - Duration::from_nanos(u64::try_from(past).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn written_files_are_synced_within_the_interval_and_nothing_is_while_nothing_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut syncer = LogSyncer::new(dir.path());
        let mut file = Arc::new(tempfile::tempfile_in(dir.path()).unwrap());
        assert!(syncer.thread.is_none());
        for number in 0..10 {
            file.write_all(b"line\n").unwrap();
            syncer.wrote(number, &file);
            assert!(syncer.shared.lock().files.len() <= FILES_MAX);
        }
        let shared = Arc::clone(&syncer.shared);
        std::thread::sleep(INTERVAL + Duration::from_millis(500));
        assert!(shared.lock().files.is_empty());
        assert!(!shared.lock().busy);
        assert!(syncer.finish());
    }

    #[test]
    fn the_end_of_a_run_does_not_wait_for_the_interval() {
        let dir = tempfile::tempdir().unwrap();
        let file = Arc::new(tempfile::tempfile_in(dir.path()).unwrap());
        assert!(LogSyncer::new(dir.path()).finish(), "nothing was written");
        let mut syncer = LogSyncer::new(dir.path());
        syncer.wrote(1, &file);
        syncer.wrote(2, &file);
        syncer.forget_before(2);
        let shared = Arc::clone(&syncer.shared);
        assert!(syncer.finish());
        assert!(shared.lock().files.is_empty());
    }

    #[test]
    fn the_moments_are_the_same_for_all() {
        let wait = until_the_next_moment();
        assert!(wait > Duration::ZERO && wait <= INTERVAL, "{wait:?}");
    }
}
