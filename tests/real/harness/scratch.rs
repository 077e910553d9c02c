//! The directory that everything of a test run lives in, and the shell that outlives the tests to prove it clean.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

static CURRENT: Mutex<Weak<Scratch>> = Mutex::new(Weak::new());

/// One directory under `/var/tmp` (a real disk: containerd's layers behave differently on a tmpfs).
///
/// A shell of its own process group holds the other end of a pipe. However the test binary ends (success, panic, `kill
/// -9`, Ctrl-C), the pipe ends with it, and the shell takes away processes, mounts, cgroups and the directory. At an
/// orderly end it must find nothing; what it finds then is a leak, and the last test fails for it.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    sweeper: Mutex<Child>,
}

impl Scratch {
    /// The one of this process: made by the first test that asks, removed with the last one that holds it.
    pub(crate) fn shared() -> Arc<Self> {
        let mut current = lock(&CURRENT);
        current.upgrade().unwrap_or_else(|| {
            let scratch = Arc::new(Self::new());
            *current = Arc::downgrade(&scratch);
            scratch
        })
    }

    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests run real containers: run them as root");
        let dir = tempfile::Builder::new().prefix("chas-").tempdir_in("/var/tmp").expect("a directory").keep();
        let sweeper = Command::new("sh")
            .args(["-c", include_str!("../../../contrib/sweep"), "sweep"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self { dir, sweeper: Mutex::new(sweeper) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a line of shell to what runs when the tests are over, however they end. The last one added runs first.
    pub(crate) fn at_end(&self, command: &str) {
        let mut sweeper = lock(&self.sweeper);
        writeln!(sweeper.stdin.as_mut().expect("it is piped"), "{command}").expect("the sweeper reads");
    }

    fn sweep(&self) -> String {
        let mut sweeper = lock(&self.sweeper);
        drop(sweeper.stdin.take());
        let mut found = String::new();
        sweeper.stdout.take().expect("it is piped").read_to_string(&mut found).expect("the sweeper speaks");
        sweeper.wait().expect("the sweeper ends");
        found
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let found = self.sweep();
        if found.is_empty() {
            return;
        }
        eprintln!("the tests left behind:\n{found}");
        // After a failed test something is always left; that failure is the one to read.
        assert!(std::thread::panicking() || super::any_failed(), "the tests left something behind");
    }
}

/// A poisoned lock is one that a failed test held: the data is good enough for cleaning up.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
