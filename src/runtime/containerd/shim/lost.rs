//! Shims that containerd has lost: the caller that asked for a task went away while it was created,
//! and no other took it over, or while it was deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use state::failure::Failure;
use state::id::InstanceName;
use state::reason::Reason;
use state::time::BootTime;
use tokio::time::Instant;

use super::process;

/// A shim of this age is not starting any more: a task's creation takes a tenth of a second,
/// seconds on a busy node.
const LOST_AFTER: Duration = Duration::from_secs(120);

/// A shim that was without a task for so long is asked by nobody for one, nor to end.
const EMPTY_FOR: Duration = Duration::from_secs(20);

/// Time for a shim to end by SIGTERM.
const SHIM_GRACE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Shims of one containerd namespace.
#[derive(Clone, Debug)]
pub(crate) struct Shims {
    /// Namespace of their containers.
    pub(crate) namespace: String,
    /// Socket of their containerd, which stands among their arguments.
    pub(crate) socket: PathBuf,
    /// File names of their programs, one for each kind of runtime.
    pub(crate) programs: BTreeSet<String>,
}

impl Shims {
    /// Ends the shim of an instance: one that containerd has lost or that does not answer. Answers
    /// whether there was one.
    ///
    /// # Errors
    /// [`Reason::ProcessStuck`].
    pub(crate) async fn end(&self, instance: InstanceName) -> Result<bool, Failure> {
        let running = self.running().await;
        let Some(shim) = running
            .into_iter()
            .find(|shim| shim.is_own && shim.id == instance.to_string())
        else {
            return Ok(false);
        };
        self.end_shim(instance, shim).await?;
        Ok(true)
    }

    /// Ends this shim of an instance, and no other.
    ///
    /// # Errors
    /// [`Reason::ProcessStuck`].
    pub(crate) async fn end_shim(&self, instance: InstanceName, shim: Shim) -> Result<(), Failure> {
        tracing::warn!(%instance, pid = shim.pid, "ending shim that is lost or does not answer");
        let this = self.clone();
        let ended =
            tokio::task::spawn_blocking(move || this.end_process(&shim, Path::new("/proc"))).await;
        if let Ok(Err(error)) = ended {
            let message = format!("the shim of {instance} does not end: {error}");
            return Err(Failure::new(Reason::ProcessStuck, message));
        }
        Ok(())
    }

    /// Shims that run now, also those of another containerd with a namespace of this name.
    pub(crate) async fn running(&self) -> Vec<Shim> {
        let this = self.clone();
        let found = tokio::task::spawn_blocking(move || this.find(Path::new("/proc"))).await;
        found.unwrap_or_default()
    }

    fn find(&self, proc: &Path) -> Vec<Shim> {
        let Ok(entries) = std::fs::read_dir(proc) else {
            return Vec::new();
        };
        let now = Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
            .ok()
            .map(BootTime);
        let pids = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let found = pids.filter_map(|pid| {
            let line = std::fs::read(proc.join(pid.to_string()).join("cmdline")).ok()?;
            let (id, is_own) = self.container_of(&line)?;
            let age = now
                .zip(process::began(pid))
                .map(|(now, began)| now.since(began));
            Some(Shim {
                pid,
                id,
                is_own,
                age,
            })
        });
        found.collect()
    }

    /// Container that a process is the shim of, by its arguments, and whether it is this containerd's;
    /// `None`: it is no shim of this namespace.
    fn container_of(&self, line: &[u8]) -> Option<(String, bool)> {
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let program = words
            .first()
            .and_then(|path| Path::new(OsStr::from_bytes(path)).file_name());
        let after = |flag: &str| {
            words
                .windows(2)
                .find(|pair| pair[0] == flag.as_bytes())
                .map(|pair| pair[1])
        };
        let address = after("-address").map(|bytes| Path::new(OsStr::from_bytes(bytes)));
        let is_program = |known: &String| program == Some(OsStr::new(known));
        let is_one = self.programs.iter().any(is_program)
            && after("-namespace") == Some(self.namespace.as_bytes());
        let is_own = address.is_some_and(|address| is_same_file(address, &self.socket));
        let id = after("-id").filter(|_| is_one)?;
        Some((String::from_utf8_lossy(id).into_owned(), is_own))
    }

    /// Ends a shim and waits until it has. The process is looked at again once it is open: its
    /// number may be another's by now.
    fn end_process(&self, shim: &Shim, proc: &Path) -> io::Result<()> {
        let Some(pid) = i32::try_from(shim.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        let process = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(()),
            opened => opened?,
        };
        let line =
            std::fs::read(proc.join(shim.pid.to_string()).join("cmdline")).unwrap_or_default();
        if self.container_of(&line) != Some((shim.id.clone(), true)) {
            return Ok(());
        }
        for signal in [Signal::TERM, Signal::KILL] {
            match pidfd_send_signal(&process, signal) {
                Err(Errno::SRCH) => return Ok(()),
                sent => sent?,
            }
            let mut events = [PollFd::new(&process, PollFlags::IN)];
            if poll(&mut events, Some(&SHIM_GRACE))? > 0 {
                return Ok(());
            }
        }
        Err(io::Error::other(
            "it hangs in the kernel, SIGKILL does not end it",
        ))
    }
}

/// Shim of the namespace that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shim {
    pid: u32,
    /// Container that it was started for.
    id: String,
    /// Whether it belongs to this containerd, and not to another one with a namespace of this name.
    is_own: bool,
    /// Time that it has run; `None` if that cannot be told.
    age: Option<Duration>,
}

/// Whether two paths lead to one file: `/var/run` is a link to `/run`, and either may stand in the
/// configuration.
fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other
        || one
            .canonicalize()
            .ok()
            .is_some_and(|one| other.canonicalize().ok() == Some(one))
}

/// Instances that a shim runs for, whichever containerd's it is.
pub(crate) fn served(shims: &[Shim]) -> BTreeSet<InstanceName> {
    let ids = shims.iter().map(|shim| &shim.id);
    ids.filter_map(|id| id.parse().ok()).collect()
}

/// Shims of instances that rest, by the process that each was when it was first seen without a task.
#[derive(Debug, Default)]
pub(crate) struct EmptyShims(BTreeMap<InstanceName, (u32, Instant)>);

impl EmptyShims {
    /// Takes in a look at the `resting` instances that have no task, and answers the shims that have
    /// been without one for so long that they do not end by themselves, nor wait for a task that is
    /// being created.
    pub(crate) fn look(
        &mut self,
        shims: &[Shim],
        resting: &BTreeSet<InstanceName>,
        now: Instant,
    ) -> Vec<(InstanceName, Shim)> {
        let named = shims.iter().filter(|shim| shim.is_own);
        let named = named.filter_map(|shim| Some((shim.id.parse().ok()?, shim)));
        let seen: Vec<(InstanceName, &Shim)> =
            named.filter(|(name, _)| resting.contains(name)).collect();
        let before = std::mem::take(&mut self.0);
        for (name, shim) in &seen {
            let known = before.get(name).filter(|(pid, _)| *pid == shim.pid);
            let since = known.map_or(now, |(_, since)| *since);
            self.0.insert(*name, (shim.pid, since));
        }
        let is_empty = |name: &InstanceName| {
            let since = self.0.get(name).map(|(_, since)| *since);
            since.is_some_and(|since| now.duration_since(since) >= EMPTY_FOR)
        };
        let empty = seen.into_iter().filter(|(name, _)| is_empty(name));
        empty.map(|(name, shim)| (name, shim.clone())).collect()
    }
}

/// Instances of old shims that containerd does not know: `known` are the ids that it has a
/// container or a task of, `wanted` those that a launch may be about to take over.
pub(crate) fn lost(
    shims: &[Shim],
    known: &BTreeSet<String>,
    wanted: &BTreeSet<InstanceName>,
) -> Vec<InstanceName> {
    let old = shims
        .iter()
        .filter(|shim| shim.is_own && shim.age.is_some_and(|age| age >= LOST_AFTER))
        .filter(|shim| !known.contains(&shim.id));
    let names: BTreeSet<InstanceName> = old.filter_map(|shim| shim.id.parse().ok()).collect();
    names.difference(wanted).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0chas\0-id\0x-1\0-address\0/nowhere/c.sock\0";

    #[test]
    fn a_shim_is_known_by_program_namespace_and_socket() {
        let shims = |namespace: &str, socket: &str, program: &str| Shims {
            namespace: namespace.to_owned(),
            socket: socket.into(),
            programs: [program.to_owned()].into(),
        };
        let (socket, runc) = ("/nowhere/c.sock", "containerd-shim-runc-v2");
        let own = shims("chas", socket, runc);
        assert_eq!(own.container_of(LINE), Some(("x-1".to_owned(), true)));
        let elsewhere = shims("chas", "/nowhere/other.sock", runc);
        assert_eq!(
            elsewhere.container_of(LINE),
            Some(("x-1".to_owned(), false))
        );
        for other in [
            shims("other", socket, runc),
            shims("chas", socket, "containerd-shim-kata-v2"),
        ] {
            assert_eq!(other.container_of(LINE), None, "{other:?}");
        }
        let cut = &LINE[b"/usr/bin/containerd-".len()..];
        assert_eq!(own.container_of(cut), None);
        assert_eq!(own.container_of(b""), None);
    }

    #[test]
    fn a_socket_is_the_same_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::write(dir.path().join("run/c.sock"), "").unwrap();
        std::os::unix::fs::symlink("run", dir.path().join("link")).unwrap();
        assert!(is_same_file(
            &dir.path().join("link/c.sock"),
            &dir.path().join("run/c.sock")
        ));
        assert!(
            !is_same_file(&dir.path().join("none"), &dir.path().join("other")),
            "an absent file is the same as none"
        );
    }

    #[test]
    fn a_shim_is_empty_once_the_same_process_was_seen_without_a_task_for_a_while() {
        let id = "000000000abc-1";
        let (name, begin) = (id.parse().unwrap(), Instant::now());
        let shim = |pid: u32, is_own: bool| Shim {
            pid,
            id: id.to_owned(),
            is_own,
            age: None,
        };
        let resting = BTreeSet::from([name]);
        let mut empty = EmptyShims::default();
        let mut look = |shim: Shim, resting: &BTreeSet<_>, after: u64| {
            let now = begin + Duration::from_secs(after);
            empty.look(&[shim], resting, now).len()
        };
        assert_eq!(look(shim(1, true), &resting, 0), 0);
        assert_eq!(look(shim(1, true), &resting, 19), 0);
        assert_eq!(look(shim(2, true), &resting, 30), 0, "another process");
        assert_eq!(look(shim(2, true), &resting, 50), 1);
        assert_eq!(
            look(shim(2, true), &BTreeSet::new(), 51),
            0,
            "it has a task"
        );
        assert_eq!(look(shim(2, true), &resting, 52), 0);
        assert_eq!(look(shim(2, false), &resting, 99), 0);
    }

    #[test]
    fn only_an_old_shim_that_is_neither_known_nor_wanted_is_lost() {
        let id = "000000000abc-1";
        let shim = |id: &str, age: Option<Duration>| Shim {
            pid: 1,
            id: id.to_owned(),
            is_own: true,
            age,
        };
        let check = |shim: Shim, known: &[&str], wanted: &[&str]| {
            let known = known.iter().map(|id| (*id).to_owned()).collect();
            let wanted = wanted.iter().map(|id| id.parse().unwrap()).collect();
            !lost(&[shim], &known, &wanted).is_empty()
        };
        assert!(check(shim(id, Some(LOST_AFTER)), &[], &[]));
        assert!(
            check(shim(id, Some(LOST_AFTER)), &[], &["000000000abc-2"]),
            "a generation before"
        );
        assert!(!check(shim(id, Some(LOST_AFTER)), &[id], &[]));
        assert!(!check(shim(id, Some(LOST_AFTER)), &[], &[id]));
        assert!(
            !check(shim(id, Some(LOST_AFTER / 2)), &[], &[]),
            "a shim that may still be starting"
        );
        let strangers = Shim {
            is_own: false,
            ..shim(id, Some(LOST_AFTER))
        };
        assert!(!check(strangers, &[], &[]));
        assert!(!check(shim(id, None), &[], &[]));
        assert!(!check(shim("unmanaged", Some(LOST_AFTER)), &[], &[]));
    }
}
