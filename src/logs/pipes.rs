//! Pipes that a container prints into. Whoever holds their reading ends keeps the container from
//! EPIPE and SIGPIPE when its logger dies, and can give them to another logger.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// No wait at all.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// Bytes that are thrown away at once: as much as a pipe holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reading ends of the pipes that are a container's stdout and stderr.
#[derive(Debug)]
pub(super) struct OutputPipes {
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl OutputPipes {
    /// Pipes behind the descriptors `numbers` of a process: a logger that reads them, or a
    /// container's first process before it is started. `None`: neither is a pipe.
    ///
    /// # Errors
    /// The process has ended, or no descriptor is left.
    pub(super) fn of(pid: u32, numbers: [u32; 2]) -> io::Result<Option<Self>> {
        Self::open(pid, numbers, |_| Ok(true))
    }

    /// Pipes that a running container prints into and that nobody reads. `None`: there are none;
    /// its first process has closed or redirected its output.
    ///
    /// # Errors
    /// The process has ended, or no descriptor is left.
    pub(super) fn without_reader(pid: u32) -> io::Result<Option<Self>> {
        Self::open(pid, [1, 2], |path| has_reader(path).map(|reader| !reader))
    }

    fn open(
        pid: u32,
        numbers: [u32; 2],
        is_wanted: impl Fn(&Path) -> io::Result<bool>,
    ) -> io::Result<Option<Self>> {
        let mut found: [Option<(PathBuf, OwnedFd)>; 2] = [None, None];
        for (at, number) in numbers.into_iter().enumerate() {
            let path = PathBuf::from(format!("/proc/{pid}/fd/{number}"));
            let name = match std::fs::read_link(&path) {
                Ok(name) => name,
                // Closed, if the process itself is there.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && Path::new(&format!("/proc/{pid}/fd")).exists() =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is_known = found.iter().flatten().any(|(known, _)| *known == name);
            if name.as_os_str().as_encoded_bytes().starts_with(b"pipe:[")
                && !is_known
                && is_wanted(&path)?
            {
                found[at] = Some((name, open_end(&path, false)?));
            }
        }
        let [stdout, stderr] = found.map(|end| end.map(|(_, end)| end));
        let is_any = stdout.is_some() || stderr.is_some();
        Ok(is_any.then_some(Self { stdout, stderr }))
    }

    /// Whether nothing comes any more: all that was printed is read, and nobody can print.
    pub(super) fn are_ended(&self) -> bool {
        self.ends().all(|end| {
            let mut polled = [PollFd::new(end, PollFlags::IN)];
            let is_told = poll(&mut polled, Some(&AT_ONCE)).is_ok();
            let events = polled[0].revents();
            is_told && events.contains(PollFlags::HUP) && !events.contains(PollFlags::IN)
        })
    }

    /// Reads what fills a pipe more than half and throws it away, so that the container is not
    /// blocked; answers the bytes. Less than that waits for the next logger.
    pub(super) fn drain(&self) -> u64 {
        let mut drained = 0;
        let is_filling = |end: &&OwnedFd| {
            rustix::io::ioctl_fionread(end).is_ok_and(|bytes| bytes > CHUNK_BYTES as u64 / 2)
        };
        for end in self.ends().filter(is_filling) {
            let mut chunk = vec![0; CHUNK_BYTES];
            let Ok(mut end) = end.try_clone().map(std::fs::File::from) else {
                continue;
            };
            // Once round a pipe each time: its writer may be faster than this.
            if let Ok(bytes) = end.read(&mut chunk) {
                drained += bytes as u64;
            }
        }
        drained
    }

    /// The same pipes, as the standard input and output of a logger that takes over.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn for_takeover(&self) -> io::Result<[Stdio; 2]> {
        let given = |end: &Option<OwnedFd>| match end {
            Some(end) => end.try_clone().map(Stdio::from),
            None => Ok(Stdio::null()),
        };
        Ok([given(&self.stdout)?, given(&self.stderr)?])
    }

    fn ends(&self) -> impl Iterator<Item = &OwnedFd> {
        self.stdout.iter().chain(&self.stderr)
    }
}

/// Whether anybody has the pipe open for reading.
fn has_reader(path: &Path) -> io::Result<bool> {
    let writing = open_end(path, true)?;
    let mut polled = [PollFd::from_borrowed_fd(writing.as_fd(), PollFlags::OUT)];
    poll(&mut polled, Some(&AT_ONCE))?;
    // pipe(7): POLLERR at the writing end, when the reading end is closed.
    Ok(!polled[0].revents().contains(PollFlags::ERR))
}

/// Opens a pipe anew by the name of a descriptor in `/proc`. Of a pipe without a name, either end
/// opens at once, whoever has the other.
fn open_end(path: &Path, writing: bool) -> io::Result<OwnedFd> {
    let no_wait = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(!writing).write(writing).custom_flags(no_wait);
    Ok(options.open(path)?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn number(fd: &impl std::os::fd::AsRawFd) -> u32 {
        u32::try_from(fd.as_raw_fd()).unwrap()
    }

    #[test]
    fn pipes_are_kept_and_found_again_and_their_end_is_seen() {
        let own = std::process::id();
        let (out, mut to_out) = io::pipe().unwrap();
        let (err, to_err) = io::pipe().unwrap();
        let kept = OutputPipes::of(own, [number(&to_out), number(&to_err)]);
        let kept = kept.unwrap().unwrap();
        drop((out, err));
        to_out.write_all(&[b'x'; 30_000]).unwrap();
        assert_eq!(kept.drain(), 0, "there is room");
        to_out.write_all(&[b'x'; 30_000]).unwrap();
        assert!(!kept.are_ended());
        drop(to_err);
        assert!(!kept.are_ended(), "stdout is open, and full");
        drop(to_out);
        assert!(!kept.are_ended(), "stdout is closed, and not read");
        assert_eq!(kept.drain(), 60_000);
        assert!(kept.are_ended());
        assert_eq!(kept.drain(), 0);
    }

    #[test]
    fn what_is_no_pipe_or_closed_is_none() {
        let own = std::process::id();
        let null = std::fs::File::open("/dev/null").unwrap();
        let none = OutputPipes::of(own, [number(&null), 1_000_000]).unwrap();
        assert!(none.is_none());
        let (_out, to_out) = io::pipe().unwrap();
        let same = [number(&to_out), number(&to_out)];
        let both = OutputPipes::of(own, same).unwrap().unwrap();
        assert!(both.stdout.is_some() && both.stderr.is_none(), "2>&1");
        assert!(OutputPipes::of(u32::MAX, [1, 2]).is_err());
    }

    #[test]
    fn a_pipe_that_somebody_reads_is_told_from_one_that_nobody_does() {
        let (out, to_out) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", to_out.as_raw_fd()));
        assert!(has_reader(&path).unwrap());
        drop(out);
        assert!(!has_reader(&path).unwrap());
    }
}
