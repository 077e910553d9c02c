//! First process that stays: it hands signals on to its program, reaps every process that ends, and
//! ends with its program.

use std::io;
use std::process::Command;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use signal_hook::consts::signal;
use signal_hook::iterator::Signals;

/// Signals that are handed on: all but those that cannot be caught, those of a fault of this program
/// itself, and the real-time ones, which no safe call sends.
const HANDED_ON: [i32; 22] = [
    signal::SIGABRT,
    signal::SIGALRM,
    signal::SIGCONT,
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGIO,
    signal::SIGPIPE,
    signal::SIGPROF,
    signal::SIGQUIT,
    signal::SIGSYS,
    signal::SIGTERM,
    signal::SIGTRAP,
    signal::SIGTSTP,
    signal::SIGTTIN,
    signal::SIGTTOU,
    signal::SIGURG,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGVTALRM,
    signal::SIGWINCH,
    signal::SIGXCPU,
    signal::SIGXFSZ,
];

/// Takes away every process that ended.
pub(crate) fn reap_all() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Starts the first of these programs that can be executed, hands no signal on, since a terminal sends
/// it those of its keys itself, and answers the exit code that it ended with, as [`watch`] does.
///
/// # Errors
/// As those of [`watch`].
pub(crate) fn attend(commands: impl Iterator<Item = Command>) -> Result<u8, Option<io::Error>> {
    let mut signals = Signals::new(HANDED_ON.iter().chain(&[signal::SIGCHLD])).map_err(Some)?;
    let program = start(commands)?;
    loop {
        if let Some(exit_code) = reap(program) {
            return Ok(exit_code);
        }
        // The loop is of those that came; none means that more are waited for.
        for _ in signals.wait() {}
    }
}

/// Starts the first of these programs that can be executed, and answers the exit code that it ended
/// with, as a shell tells it: 128 and the signal that ended it.
///
/// # Errors
/// None can be executed, with the reason of the last one; `None`: there is none.
pub(crate) fn watch(commands: impl Iterator<Item = Command>) -> Result<u8, Option<io::Error>> {
    // Before the program starts, so that no signal is lost.
    let mut signals = Signals::new(HANDED_ON.iter().chain(&[signal::SIGCHLD])).map_err(Some)?;
    let program = start(commands)?;
    loop {
        if let Some(exit_code) = reap(program) {
            return Ok(exit_code);
        }
        for signal in signals.wait() {
            let handed_on = Signal::from_named_raw(signal).filter(|_| signal != signal::SIGCHLD);
            if let Some(signal) = handed_on {
                // It may have ended just now, which the next turn sees.
                let _it_is_gone = kill_process(program, signal);
            }
        }
    }
}

fn start(commands: impl Iterator<Item = Command>) -> Result<Pid, Option<io::Error>> {
    let mut refused = None;
    for mut command in commands {
        match command.spawn() {
            Ok(child) => {
                let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                return pid.ok_or_else(|| Some(io::Error::other("the program has no process id")));
            }
            Err(error) => {
                let is_last = crate::ends_search(&error);
                refused = Some(error);
                if is_last {
                    break;
                }
            }
        }
    }
    Err(refused)
}

/// Takes away every process that ended. Answers the exit code of the program, once it is among them.
fn reap(program: Pid) -> Option<u8> {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid != program {
            continue;
        }
        let by_signal = status.terminating_signal().map(|signal| 128 + signal);
        let code = status.exit_status().or(by_signal);
        if let Some(code) = code {
            return Some(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
    None
}
