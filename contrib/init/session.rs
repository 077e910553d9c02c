//! First process that waits for its program's caller, and the program's own process: an exec starts it in
//! the same container, with the caller's input and terminal. Between them is a pipe, which the first
//! process has as its input: first comes the number of the process that runs the program, then the
//! program's exit code. The first process ends with that process, whoever else has the pipe open.

use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, IntoRawFd as _};
use std::os::unix::fs::FileTypeExt as _;
use std::process::{self, Command};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::stdio::dup2_stdin;
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

use crate::reaper;

/// Time in which a caller comes, once the container runs.
const CALLED_WITHIN: Duration = Duration::from_secs(60);
/// Looks for the pipe of the first process, and the pause between two.
const LOOKS_MAX: u32 = 1000;
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Input of the first process, as another process of the container finds it.
const PIPE: &str = "/proc/1/fd/0";
/// Exit code where no caller came; that of `timeout`.
const NOT_CALLED: u8 = 124;
/// Exit code of a program that told none: it was killed, with all of its session.
const KILLED: u8 = 137;
/// Signals that end the first process at once. A shell at a terminal would not end for them.
const ENDING: [i32; 7] = [
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGTERM,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGWINCH,
];

/// Whether this is the first process of its container.
pub(crate) fn is_first() -> bool {
    process::id() == 1
}

/// Waits for a caller, and answers the exit code of the program that it runs.
///
/// # Errors
/// There is no room for a pipe or a thread.
pub(crate) fn wait() -> io::Result<u8> {
    let signals = Signals::new(ENDING.iter().chain(&[signal::SIGCHLD]))?;
    thread::Builder::new().spawn(|| end_by(signals))?;
    let (from_caller, to_itself) = io::pipe()?;
    dup2_stdin(&from_caller)?;
    let (is_called, called) = mpsc::channel();
    let ending = thread::Builder::new().spawn(move || ended(from_caller, to_itself, &is_called))?;
    if called.recv_timeout(CALLED_WITHIN) == Err(RecvTimeoutError::Timeout) {
        let seconds = CALLED_WITHIN.as_secs();
        eprintln!("chas init: nobody came within {seconds} s to run the program");
        return Ok(NOT_CALLED);
    }
    let joined = ending.join();
    joined.unwrap_or_else(|_| Err(io::Error::other("the wait for the program broke off")))
}

/// Waits until a caller is there, and then for the end of its program.
fn ended(
    mut from_caller: PipeReader,
    to_itself: PipeWriter,
    is_called: &Sender<()>,
) -> io::Result<u8> {
    let mut number = [0; 4];
    from_caller.read_exact(&mut number)?;
    drop(to_itself);
    let _whoever_waits = is_called.send(());
    match Pid::from_raw(i32::from_ne_bytes(number)).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
    {
        // The program may have the pipe open, too, and be there for ever.
        Some(Ok(runner)) => {
            is_readable(&runner, None)?;
        }
        // It has ended already.
        Some(Err(Errno::SRCH)) | None => {}
        // Before Linux 5.3 the end of the pipe is what shows it.
        Some(Err(_)) => {
            let code = told(&mut from_caller)?;
            io::copy(&mut from_caller, &mut io::sink())?;
            return Ok(code);
        }
    }
    match is_readable(&from_caller, Some(Timespec::default()))? {
        true => told(&mut from_caller),
        false => Ok(killed()),
    }
}

/// Exit code that the program's process told, until its end. It writes nothing else.
fn told(from_caller: &mut PipeReader) -> io::Result<u8> {
    let mut code = [0];
    match from_caller.read(&mut code)? {
        0 => Ok(killed()),
        _ => Ok(code[0]),
    }
}

fn killed() -> u8 {
    eprintln!("chas init: the session was cut, and the program killed with it");
    KILLED
}

/// Whether there is something to read, or the other side has ended; `None`: waits for that.
fn is_readable(file: impl AsFd, timeout: Option<Timespec>) -> io::Result<bool> {
    let mut looked = [PollFd::new(&file, PollFlags::IN)];
    let count = retry_on_intr(|| poll(&mut looked, timeout.as_ref()))?;
    Ok(count > 0)
}

/// Takes away what ends in the container, until it is to end itself.
fn end_by(mut signals: Signals) {
    for signal in signals.forever() {
        if signal == signal::SIGCHLD {
            reaper::reap_all();
        } else {
            process::exit(128 + signal);
        }
    }
}

/// Starts the first of these programs that can be executed, tells the first process that it is there and
/// how it ended, and answers its exit code.
///
/// # Errors
/// None can be executed, with the reason of the last one; `None`: there is none.
pub(crate) fn run(commands: impl Iterator<Item = Command>) -> Result<u8, Option<io::Error>> {
    let mut pipe = open().map_err(Some)?;
    let number = process::id().to_ne_bytes();
    pipe.write_all(&number).map_err(Some)?;
    let ended = reaper::attend(commands);
    let exit_code = match &ended {
        Ok(exit_code) => *exit_code,
        Err(error) => crate::exit_code_of(error.as_ref()),
    };
    // A first process that is gone takes this one along.
    let _it_is_gone = pipe.write_all(&[exit_code]);
    // It is closed by the end of this process: then the kernel has its exit code, and keeps it.
    let _until_then = pipe.into_raw_fd();
    ended
}

/// The pipe to the first process, which may just have been started.
fn open() -> io::Result<File> {
    for _ in 0..LOOKS_MAX {
        // It may be anything before its program, also unreadable.
        if std::fs::metadata(PIPE).is_ok_and(|found| found.file_type().is_fifo()) {
            return OpenOptions::new().write(true).open(PIPE);
        }
        thread::sleep(LOOK_AGAIN);
    }
    Err(io::Error::other("the first process waits for no program"))
}
