//! Logger: the process that containerd's shim starts to write a container's log; this binary,
//! called as `logger`.
//!
//! The logger lives as long as its container's pipes, not as long as the agent. A logger that
//! blocks would block the container that prints, and one that dies would end it by SIGPIPE. So the
//! logger is one thread with a few fixed buffers, and no error ends it.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use state::id::InstanceName;
use state::quantity::ByteCount;
use state::spec::LogLimits;

use super::line::Stream;
use super::rotate::LogWriter;
use super::split::LineSplitter;

/// First argument that makes this binary the logger.
pub const ARGUMENT: &str = "logger";

/// Environment variable in which the shim names the container.
pub const CONTAINER_VARIABLE: &str = "CONTAINER_ID";

/// Bytes read at once: as much as a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Wait for open pipes after SIGTERM, before lines that have begun are written: the shim kills 12 s
/// after its SIGTERM. A signal of anybody else must not end the container's output.
const FAREWELL: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Pause between two attempts of a call that the system refuses.
const RETRY: Duration = Duration::from_millis(10);

/// Exit code for a wrong call (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// URI for a task's stdout and stderr that makes containerd's shim start this binary as the logger.
///
/// `exe` is the binary's absolute path (present at every start of the task), `dir` the container's
/// log directory. There is exactly one key: the shim hands the keys on in random order (containerd
/// 1.6, `runtime/v2/runc`, `NewBinaryCmd`).
#[must_use]
pub fn uri(exe: &Path, dir: &Path, limits: LogLimits) -> String {
    let value = [
        format!("{},{},", limits.max_size.0, limits.max_files).as_bytes(),
        dir.as_os_str().as_bytes(),
    ]
    .concat();
    format!(
        "binary://{}?{ARGUMENT}={}",
        percent_encoded(exe.as_os_str().as_bytes()),
        percent_encoded(&value)
    )
}

fn percent_encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b',' => {
                text.push(char::from(*byte));
            }
            _ => write!(text, "%{byte:02X}").expect("writing to a string cannot fail"),
        }
    }
    text
}

/// Runs the logger to its end. Call this before anything else when the first argument is
/// [`ARGUMENT`]: without runtime, TLS and parser the logger stays small and begins at once.
///
/// `args` are the arguments of this OS process, `container` is the value of [`CONTAINER_VARIABLE`].
/// Ends with 64 if either is not what containerd's shim passes; nobody reads more than the code.
pub fn run(args: impl IntoIterator<Item = OsString>, container: Option<OsString>) -> ExitCode {
    let Some((dir, limits)) = args.into_iter().nth(2).and_then(parse_value) else {
        return ExitCode::from(EXIT_USAGE);
    };
    if !container.is_some_and(|name| owns(&dir, &name)) {
        return ExitCode::from(EXIT_USAGE);
    }
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
    // The logger goes last when memory is short: without it the container fails too. Refused unless
    // privileged.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    // Safe code cannot adopt the pipes' numbers; opened again by name they are the same pipes.
    let open = |number| File::open(format!("/proc/self/fd/{number}"));
    let (Ok(stdout), Ok(stderr)) = (open(3), open(4)) else {
        return ExitCode::from(EXIT_USAGE);
    };
    let mut writer = LogWriter::open(dir, limits);
    // Creating the task waits for this byte.
    let _ = OpenOptions::new()
        .write(true)
        .open("/proc/self/fd/5")
        .and_then(|mut ready| ready.write_all(b"1"));
    pump_pipes(stdout, stderr, &mut writer, &asked_to_end);
    ExitCode::SUCCESS
}

/// Parses the value of the key in [`uri`]: `<max_size>,<max_files>,<absolute directory>`.
fn parse_value(value: OsString) -> Option<(PathBuf, LogLimits)> {
    let bytes = value.into_vec();
    let mut parts = bytes.splitn(3, |byte| *byte == b',');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let limits = LogLimits {
        max_size: ByteCount(number()?),
        max_files: u32::try_from(number()?).ok()?,
    };
    let dir = PathBuf::from(OsStr::from_bytes(parts.next()?));
    dir.is_absolute().then_some((dir, limits))
}

/// Whether the directory is that of the container named by the shim: the logger never writes into
/// another's.
fn owns(dir: &Path, container: &OsStr) -> bool {
    let instance = container
        .to_str()
        .and_then(|name| name.parse::<InstanceName>().ok());
    instance.is_some_and(|instance| dir.file_name() == Some(OsStr::new(&instance.id.to_string())))
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
    while !pipes.is_empty() {
        let farewell = asked_to_end.load(Ordering::Relaxed).then_some(&FAREWELL);
        let mut polled: Vec<PollFd<'_>> = pipes
            .iter()
            .map(|pipe| PollFd::new(&pipe.file, PollFlags::IN))
            .collect();
        match poll(&mut polled, farewell) {
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
    }
}

#[cfg(test)]
mod tests {
    use state::id::ContainerId;

    use super::*;

    const LIMITS: LogLimits = LogLimits {
        max_size: ByteCount(10 << 20),
        max_files: 5,
    };

    #[test]
    fn the_uri_has_one_key_and_its_value_comes_back() {
        let dir = Path::new("/var/lib/a b&c=d?e#f%g+ü/000000000007");
        let text = uri(Path::new("/usr/local/bin/chas-node-agent"), dir, LIMITS);
        assert_eq!(
            text,
            "binary:///usr/local/bin/chas-node-agent?logger=10485760,5,/var/lib/a%20b%26c%3Dd%3Fe%23f%25g%2B%C3%BC/000000000007"
        );
        let value = text.split_once("logger=").unwrap().1;
        let decoded = percent_decoded(value);
        assert_eq!(
            parse_value(OsString::from_vec(decoded)),
            Some((dir.to_owned(), LIMITS))
        );
    }

    fn percent_decoded(text: &str) -> Vec<u8> {
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    }

    #[test]
    fn what_the_shim_would_not_pass_is_refused() {
        for value in [
            "",
            "1,2",
            "1,2,relative",
            "x,2,/d",
            "1,99999999999,/d",
            "-1,2,/d",
            "/d",
        ] {
            assert_eq!(parse_value(value.into()), None, "{value}");
        }
        let dir = Path::new("/logs").join(ContainerId::from_bits(7).to_string());
        assert!(owns(&dir, OsStr::new("000000000007-12")));
        for name in [
            "000000000008-1",
            "000000000007",
            "../000000000007-1",
            "",
            "000000000007-1/..",
        ] {
            assert!(!owns(&dir, OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn called_by_hand_it_ends_at_once() {
        let failed = format!("{:?}", ExitCode::from(EXIT_USAGE));
        for args in [&["agent", ARGUMENT][..], &["agent", ARGUMENT, "1,2,/d"]] {
            assert_eq!(
                format!("{:?}", run(args.iter().map(OsString::from), None)),
                failed
            );
        }
    }
}
