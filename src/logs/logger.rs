//! Logger: the process that containerd's shim starts to write a container's log; this binary,
//! called as `logger`.
//!
//! The logger lives as long as its container's pipes, not as long as the agent. A logger that
//! blocks would block the container that prints, and one that dies would end it by SIGPIPE. So the
//! logger is one thread with a few fixed buffers, and no error ends it.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use state::id::InstanceName;

pub use super::call::{ARGUMENT, CONTAINER_VARIABLE, NAMESPACE_VARIABLE};
use super::call::{LoggerCall, Takeover};
use super::confine::confine;
use super::counts::LogCounts;
use super::line::Stream;
use super::mark::{RunMark, UnseenEnd, boot_id};
use super::rate;
use super::rotate::LogWriter;
use super::split::LineSplitter;

/// Name of the process: not the agent's, so that whoever ends the agent by its name leaves the
/// loggers alone.
pub(super) const NAME: &CStr = c"chas-logger";

/// Name of the process while output is lost because it cannot be written. A disk that takes no line
/// takes no other message either.
pub(super) const NAME_WHILE_LOSING: &CStr = c"chas-log-losing";

/// Bytes read at once: as much as a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Wait for open pipes after SIGTERM, before lines that have begun are written: the shim kills 12 s
/// after its SIGTERM. A signal of anybody else must not end the container's output.
const FAREWELL: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Wait for output before what was left out is told, if lines pass again.
const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Pause between two attempts of a call that the system refuses.
const RETRY: Duration = Duration::from_millis(10);

/// Exit code for a wrong call (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// Runs the logger to its end. Call this before anything else when the first argument is
/// [`ARGUMENT`]: without runtime, TLS and parser the logger stays small and begins at once.
///
/// `args` are the arguments of this OS process, `container` is the value of [`CONTAINER_VARIABLE`],
/// and `namespace` that of [`NAMESPACE_VARIABLE`].
/// Ends with 64 if either is not what containerd's shim passes; nobody reads more than the code.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    container: Option<OsString>,
    namespace: Option<&OsStr>,
) -> ExitCode {
    let instance = container.and_then(|name| name.to_str()?.parse::<InstanceName>().ok());
    let (Some(call), Some(instance)) = (LoggerCall::read(args), instance) else {
        return ExitCode::from(EXIT_USAGE);
    };
    if !call.is_for(instance) {
        return ExitCode::from(EXIT_USAGE);
    }
    let asked_to_end = outlive_the_caller(&call);
    // Safe code cannot adopt the pipes' numbers; opened again by name they are the same pipes.
    let [stdout, stderr] = call
        .descriptors()
        .map(|number| File::open(format!("/proc/self/fd/{number}")));
    let (Ok(stdout), Ok(stderr)) = (stdout, stderr) else {
        return ExitCode::from(EXIT_USAGE);
    };
    if call.takeover.is_none() {
        // Creating the task waits for this byte. To enter a control group takes the kernel some
        // milliseconds, in which the pipes keep what is printed.
        let mut options = OpenOptions::new();
        let ready = options.write(true).open("/proc/self/fd/5");
        let _ = ready.and_then(|mut ready| ready.write_all(b"1"));
    }
    let dir = confine(&call.dir, instance, namespace, &call.rules);
    let mut writer = LogWriter::open(dir.clone(), call.limits.limits)
        .told_after(call.limits, instance.generation)
        .synced()
        .limited(call.rules.rate)
        .counted(instance.generation);
    let mark = begin(&call, &dir, instance, &mut writer);
    pump_pipes(stdout, stderr, &mut writer, &asked_to_end);
    if writer.finish() {
        mark.into_iter().for_each(RunMark::clear);
    }
    ExitCode::SUCCESS
}

/// Makes this process one that ends with its container only, and answers whether it was asked to
/// end, now or later.
fn outlive_the_caller(call: &LoggerCall) -> Arc<AtomicBool> {
    // After SIGTERM the pipes are still drained: the shim closes them at the same moment.
    let asked_to_end = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ] {
        // Registering fails for forbidden signals only, and these are none.
        let _ = signal_hook::flag::register(signal, Arc::clone(&asked_to_end));
    }
    if call.takeover.is_some() {
        // The agent started this one; a terminal that the agent has is not the logger's. It fails
        // for a leader of a session only.
        let _ = rustix::process::setsid();
    }
    // It has this name already where it was started by it. It fails never.
    let _ = rustix::thread::set_name(NAME);
    // The logger goes last when memory is short: without it the container fails too. Refused unless
    // privileged.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    asked_to_end
}

/// Begins the run in the log: ends what an earlier one left, and says what may be missing of it.
fn begin(
    call: &LoggerCall,
    dir: &Path,
    instance: InstanceName,
    writer: &mut LogWriter,
) -> Option<RunMark> {
    let (mark, unseen) = RunMark::set(dir, instance.generation, &boot_id());
    let now = SystemTime::now();
    let last = match writer.last_time() {
        SystemTime::UNIX_EPOCH => "its beginning".to_owned(),
        time => humantime::format_rfc3339_millis(time).to_string(),
    };
    let until = humantime::format_rfc3339_millis(now);
    match (call.takeover, unseen) {
        (Some(Takeover { lost_bytes: 0 }), _) | (None, Some(UnseenEnd::LoggerEnded)) => writer
            .remark(
                now,
                &format!(
                    "the process that writes this log was killed and another one took over; output \
                     between {last} and {until} may be missing"
                ),
            ),
        (Some(Takeover { lost_bytes }), _) => writer.remark(
            now,
            &format!(
                "the process that writes this log was killed and none could be started for a \
                 while; output between {last} and {until} is missing, {lost_bytes} bytes at least"
            ),
        ),
        (None, Some(UnseenEnd::NodeWentDown)) => writer.remark(
            now,
            &format!(
                "the node went down while this log was written; up to 3 s of output after {last} \
                 may be missing"
            ),
        ),
        (None, None) => {}
    }
    let lost = call.takeover.map_or(0, |takeover| takeover.lost_bytes);
    writer.count(LogCounts::lost(lost, 0));
    writer.flush();
    mark
}

/// Pipe of the container, for one of its streams.
#[derive(Debug)]
struct OutputPipe {
    file: File,
    stream: Stream,
    splitter: LineSplitter,
}

impl OutputPipe {
    fn new(pipe: OwnedFd, stream: Stream) -> Self {
        Self {
            file: pipe.into(),
            stream,
            splitter: LineSplitter::default(),
        }
    }

    /// Reads the bytes that are there. `false`: the pipe is closed at its other end.
    fn take(&mut self, chunk: &mut [u8], writer: &mut LogWriter) -> bool {
        let stream = self.stream;
        match self.file.read(chunk) {
            Ok(0) => {}
            Ok(bytes) => {
                let now = SystemTime::now();
                self.splitter.push(&chunk[..bytes], |line, partial| {
                    writer.push(now, stream, partial, line);
                });
                return true;
            }
            Err(error) => return error.kind() == io::ErrorKind::Interrupted,
        }
        false
    }

    /// Writes the line that has begun. `closed`: no more of it comes.
    fn finish(&mut self, closed: bool, writer: &mut LogWriter) {
        let (stream, now) = (self.stream, SystemTime::now());
        let emit = |line: &[u8], partial| writer.push(now, stream, partial, line);
        if closed {
            self.splitter.finish(emit);
        } else {
            self.splitter.give_up_begun(emit);
        }
    }
}

/// Carries the bytes of both pipes to the writer until both are closed.
pub(super) fn pump_pipes(
    stdout: impl Into<OwnedFd>,
    stderr: impl Into<OwnedFd>,
    writer: &mut LogWriter,
    asked_to_end: &AtomicBool,
) {
    let mut pipes = vec![
        OutputPipe::new(stdout.into(), Stream::Stdout),
        OutputPipe::new(stderr.into(), Stream::Stderr),
    ];
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut shows_losing = false;
    while !pipes.is_empty() {
        let asked = asked_to_end.load(Ordering::Relaxed);
        let untold = writer.has_more_to_tell();
        let wait = if asked {
            Some(&FAREWELL)
        } else {
            untold.then_some(&LOOK_AGAIN)
        };
        let mut polled: Vec<PollFd<'_>> = pipes
            .iter()
            .map(|pipe| PollFd::new(&pipe.file, PollFlags::IN))
            .collect();
        match poll(&mut polled, wait) {
            Ok(0) if !asked => {
                writer.tell_left_out(false);
                writer.flush();
                continue;
            }
            Ok(0) => {
                pipes.iter_mut().for_each(|pipe| pipe.finish(false, writer));
                writer.flush();
                asked_to_end.store(false, Ordering::Relaxed);
                continue;
            }
            Ok(_) => {}
            // A signal: perhaps the one that asks to end.
            Err(Errno::INTR) => continue,
            Err(_) => {
                // The system has no memory for the call: it may have later.
                std::thread::sleep(RETRY);
                continue;
            }
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        pipes.retain_mut(|pipe| {
            let open = !ready.next().unwrap_or(false) || pipe.take(&mut chunk, writer);
            if !open {
                pipe.finish(true, writer);
            }
            open
        });
        writer.flush();
        if writer.is_leaving_out() {
            std::thread::sleep(rate::PAUSE);
        }
        if writer.is_losing() != shows_losing {
            shows_losing = !shows_losing;
            let name = if shows_losing {
                NAME_WHILE_LOSING
            } else {
                NAME
            };
            // It fails never.
            let _ = rustix::thread::set_name(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn called_by_hand_it_ends_at_once() {
        let failed = format!("{:?}", ExitCode::from(EXIT_USAGE));
        for (args, container) in [
            (&["agent", ARGUMENT][..], None),
            (&["agent", ARGUMENT, "1,2,/d"], None),
            (
                &["agent", ARGUMENT, "1,2,/000000000007"],
                Some("000000000007"),
            ),
            (
                &["agent", ARGUMENT, "1,2,/000000000007"],
                Some("../000000000007-1"),
            ),
            (
                &["agent", ARGUMENT, "1,2,/000000000007"],
                Some("000000000008-1"),
            ),
        ] {
            let code = run(
                args.iter().map(OsString::from),
                container.map(OsString::from),
                None,
            );
            assert_eq!(format!("{code:?}"), failed, "{args:?} {container:?}");
        }
    }
}
