//! Ends a run in which a test hangs, and tells which one and what it waits for: a run that is cut off from outside tells nothing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

use tokio::time::Instant;

use super::scratch::lock;

/// Three times what the longest test takes beside others on a slow machine.
const TEST_MAX: Duration = Duration::from_secs(20 * 60);
const LOOK_EVERY: Duration = Duration::from_secs(5);

static RUNNING: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static NUMBER: AtomicU64 = AtomicU64::new(0);
static WATCHDOG: Once = Once::new();

#[derive(Debug)]
struct Entry {
    number: u64,
    test: String,
    begun: Instant,
}

/// A test that runs; over once this is dropped.
#[derive(Debug)]
pub(crate) struct Watched(u64);

impl Watched {
    /// Watches the test of this thread.
    pub(crate) fn new() -> Self {
        WATCHDOG.call_once(|| {
            std::thread::spawn(watch);
        });
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let begun = Instant::now();
        lock(&RUNNING).push(Entry {
            number,
            test,
            begun,
        });
        Self(number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&RUNNING).retain(|entry| entry.number != self.0);
    }
}

fn watch() {
    loop {
        std::thread::sleep(LOOK_EVERY);
        let running = lock(&RUNNING);
        if running.iter().any(|entry| entry.begun.elapsed() > TEST_MAX) {
            // Not by a macro: the test harness would keep what is printed for the end of a test.
            let _ = std::io::stderr().write_all(report(&running).as_bytes());
            // The sweeper notices, and takes away what the tests have made.
            std::process::exit(1);
        }
    }
}

/// The tests that run, the threads of this process and all processes, with what each waits for in the kernel.
fn report(running: &[Entry]) -> String {
    let mut text = format!("\na test runs for more than {TEST_MAX:?}; the run ends here\n");
    for entry in running {
        let _ = writeln!(
            text,
            "test {} runs for {:?}",
            entry.test,
            entry.begun.elapsed()
        );
    }
    for thread in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let (name, place) = (read("comm"), read("wchan"));
        let _ = writeln!(text, "thread {} waits in {place}", name.trim());
    }
    let columns = "pid,ppid,stat,wchan:20,etimes,args";
    let processes = Command::new("ps")
        .args([
            "-ww",
            "--forest",
            "--ppid",
            "2",
            "--deselect",
            "-o",
            columns,
        ])
        .output();
    if let Ok(processes) = processes {
        text.push_str(&String::from_utf8_lossy(&processes.stdout));
    }
    text
}
