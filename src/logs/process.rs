//! Loggers that run on the node, found in `/proc`: those that containerd's shims started, those that
//! took over, and those of version 0.1.0, which bear the agent's name.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use state::id::InstanceName;

use super::call::{CONTAINER_VARIABLE, LoggerCall};
use super::logger::NAME_WHILE_LOSING;

/// Place of the kernel's process table.
const PROC: &str = "/proc";

/// Logger that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LoggerProcess {
    pub(super) pid: u32,
    /// Instance whose output it writes.
    pub(super) instance: InstanceName,
    /// Directory that it writes to.
    pub(super) dir: PathBuf,
    /// Descriptors that are the instance's stdout and stderr.
    pub(super) descriptors: [u32; 2],
}

/// Every logger of the node. Blocks.
pub(super) fn all() -> Vec<LoggerProcess> {
    let entries = std::fs::read_dir(PROC).into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(look).collect()
}

/// Loggers that the shim of the container's first process has started. Blocks. Nothing, too, where
/// the kernel does not list children.
pub(super) fn of_shim(first: u32) -> Vec<LoggerProcess> {
    let children = parent(first).map(children).unwrap_or_default();
    children.into_iter().filter_map(look).collect()
}

/// Parent of a process, from the 4th field of `/proc/<pid>/stat` (proc(5)).
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("{PROC}/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    after_name.nth(1)?.parse().ok()
}

/// Children of a process, of each of its threads.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("{PROC}/{pid}/task"));
    let lists = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::parse);
            pids.filter_map(Result::ok).collect::<Vec<_>>()
        })
        .collect()
}

/// Logger with this process id. `None`: the process is none, or has ended.
fn look(pid: u32) -> Option<LoggerProcess> {
    let words = words(&format!("{PROC}/{pid}/cmdline"))?;
    let call = LoggerCall::read(words)?;
    let environment = self::words(&format!("{PROC}/{pid}/environ"))?;
    let instance = environment.into_iter().find_map(|variable| {
        let (name, value) = variable.to_str()?.split_once('=')?;
        (name == CONTAINER_VARIABLE).then(|| value.parse::<InstanceName>().ok())?
    })?;
    call.is_for(instance).then(|| LoggerProcess {
        pid,
        instance,
        descriptors: call.descriptors(),
        dir: call.dir,
    })
}

fn words(path: &str) -> Option<Vec<OsString>> {
    let mut bytes = std::fs::read(path).ok()?;
    if bytes.pop() != Some(0) {
        return None;
    }
    let words = bytes.split(|byte| *byte == 0);
    Some(
        words
            .map(|word| OsString::from_vec(word.to_vec()))
            .collect(),
    )
}

impl LoggerProcess {
    /// Handle that becomes readable when the process ends. `None`: the process has ended.
    pub(super) fn open(&self) -> io::Result<Option<OwnedFd>> {
        // The number may have been given to another process before it was opened.
        let is_this = |_: &OwnedFd| self.is_there();
        Ok(self.open_child()?.filter(is_this))
    }

    /// Handle as that of [`Self::open`], for a child of this process: its number is its own until
    /// it is waited for, and its words cannot be read yet while it is just starting.
    pub(super) fn open_child(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => Ok(None),
            opened => Ok(Some(opened?)),
        }
    }

    /// Whether the process is there.
    pub(super) fn is_there(&self) -> bool {
        look(self.pid).as_ref() == Some(self)
    }

    /// Kills the process, if it is there.
    pub(super) fn kill(&self) -> io::Result<()> {
        match self.open()? {
            Some(handle) => Ok(pidfd_send_signal(&handle, Signal::KILL)?),
            None => Ok(()),
        }
    }

    /// Whether output is lost now because it cannot be written.
    pub(super) fn is_losing(&self) -> bool {
        let name = std::fs::read(format!("{PROC}/{}/comm", self.pid));
        name.is_ok_and(|name| name.trim_ascii_end() == NAME_WHILE_LOSING.to_bytes())
    }

    /// Whether the directory that it writes to is gone.
    pub(super) fn has_lost_directory(&self) -> bool {
        matches!(self.dir.try_exists(), Ok(false))
    }

    /// Whether the directory is below `logs`, and so the process one of this agent's.
    pub(super) fn is_below(&self, logs: &Path) -> bool {
        self.dir.parent() == Some(logs)
    }
}
