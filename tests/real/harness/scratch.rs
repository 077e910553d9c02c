//! The directory that everything of a test run lives in, and the shell that outlives the tests to prove it clean.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

static CURRENT: Mutex<Weak<Scratch>> = Mutex::new(Weak::new());

/// One directory under `/var/tmp` (a real disk: containerd's layers behave differently on a tmpfs), and its [`Sweeper`]: at
/// an orderly end it must find nothing; what it finds then is a leak, and the last test fails for it.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    sweeper: Mutex<Sweeper>,
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
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests run real containers: run them as root"
        );
        let dir = tempfile::Builder::new()
            .prefix("chas-")
            .tempdir_in("/var/tmp")
            .expect("a directory")
            .keep();
        let sweeper = Mutex::new(Sweeper::start(&dir));
        Self { dir, sweeper }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Has this taken away too when the tests are over, however they end; see [`Sweeper::add`].
    pub(crate) fn at_end(&self, what: &str) {
        lock(&self.sweeper).add(what);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        lock(&self.sweeper).sweep();
    }
}

/// `contrib/sweep`, waiting in a process group of its own for the end of a pipe. However the test binary ends (success,
/// panic, `kill -9`, Ctrl-C), the pipe ends with it, and processes, mounts, cgroups and the directory are taken away.
#[derive(Debug)]
pub(crate) struct Sweeper(Child);

impl Sweeper {
    pub(crate) fn start(dir: &Path) -> Self {
        let mut command = Command::new("sh");
        command
            .args(["-c", include_str!("../../../contrib/sweep"), "sweep"])
            .arg(dir)
            .current_dir("/")
            .process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self(command.spawn().expect("sh starts"))
    }

    /// Adds a line: `namespace NAME`, `bridge NAME` or `link NAME`.
    pub(crate) fn add(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().expect("it is piped"), "{line}").expect("the sweeper reads");
    }

    /// Sweeps now. Panics if anything was found, unless a test is failing already: then something is always left, and that
    /// failure is the one to read.
    pub(crate) fn sweep(&mut self) {
        drop(self.0.stdin.take());
        let mut found = String::new();
        self.0
            .stdout
            .take()
            .expect("it is swept once")
            .read_to_string(&mut found)
            .expect("the sweeper speaks");
        self.0.wait().expect("the sweeper ends");
        assert!(
            found.is_empty() || std::thread::panicking(),
            "the tests left something behind:\n{found}"
        );
    }
}

/// A poisoned lock is one that a failed test held: the data is good enough for cleaning up.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
