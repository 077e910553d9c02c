//! Shims that containerd lost: whoever asked for a task went away while it was created, and nobody took it over.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshots_api;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use state::desired::Record;
use state::id::InstanceName;
use state::observed::Task;
use state::reason::Reason;
use state::time::BootTime;

use super::client::{CallError, quick};
use super::unpack::SNAPSHOTTER;
use super::{Containerd, observe};
use crate::runtime::{RuntimeError, StopOrder};

/// A shim this old is not on its way any more: a task's creation takes a tenth of a second, seconds on a busy node.
const LOST_AFTER: Duration = Duration::from_secs(120);

/// How long a shim may take to end by SIGTERM.
const SHIM_GRACE: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

impl Containerd {
    /// Ends the shim of an instance that containerd has forgotten, if one runs, and what it started.
    pub(super) async fn end_lost_shim(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        if !matches!(self.task(instance).await?, Task::Absent) {
            return Ok(());
        }
        let Some(shim) = self
            .running_shims()
            .await
            .into_iter()
            .find(|shim| shim.id == instance.to_string())
        else {
            return Ok(());
        };
        tracing::warn!(%instance, pid = shim.pid, "containerd lost its shim; ending it");
        let (namespace, socket) = (self.config.namespace.clone(), self.config.socket.clone());
        let ended = tokio::task::spawn_blocking(move || {
            end(&shim, Path::new("/proc"), &namespace, &socket)
        })
        .await;
        if let Ok(Err(error)) = ended {
            return Err(RuntimeError::failed(
                Reason::ProcessStuck,
                format!("the shim of {instance} does not end: {error}"),
            ));
        }
        // What it started lives on without it. A new shim finds it in runc's records and is refused, and containerd cleans
        // up after a task that could not be created: all of its processes, the bundle, and the new shim.
        let mounts = snapshots_api::MountsRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: instance.to_string(),
        };
        let rootfs = match quick(self.client.snapshots().mounts(mounts)).await {
            Ok(reply) => reply.mounts,
            Err(CallError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let request = api::CreateTaskRequest {
            container_id: instance.to_string(),
            rootfs,
            ..api::CreateTaskRequest::default()
        };
        match self.request_task(request).await {
            Ok(()) => {
                self.end_task(
                    instance,
                    &StopOrder {
                        signal: None,
                        grace: Duration::ZERO,
                    },
                )
                .await
            }
            Err(CallError::AlreadyExists | CallError::NotFound(_) | CallError::Refused(_)) => {
                Ok(())
            }
            Err(error @ CallError::Unavailable(_)) => Err(error.into()),
        }
    }

    /// The instances that nobody wants, of which containerd has neither record nor task, and of which a shim runs still.
    pub(super) async fn lost_shims(
        &self,
        wanted: &[Record],
    ) -> Result<Vec<InstanceName>, RuntimeError> {
        // Before the lists: what is created meanwhile is in them.
        let shims = self.running_shims().await;
        let containers = quick(
            self.client
                .containers()
                .list(api::ListContainersRequest::default()),
        )
        .await?
        .containers;
        let tasks = quick(self.client.tasks().list(api::ListTasksRequest::default()))
            .await?
            .tasks;
        let known = containers
            .into_iter()
            .map(|container| container.id)
            .chain(tasks.into_iter().map(|task| task.id))
            .collect();
        Ok(forgotten(
            &shims,
            &known,
            &wanted.iter().map(Record::instance).collect(),
        ))
    }

    async fn running_shims(&self) -> Vec<Shim> {
        let (namespace, socket) = (self.config.namespace.clone(), self.config.socket.clone());
        let found =
            tokio::task::spawn_blocking(move || shims(Path::new("/proc"), &namespace, &socket))
                .await;
        found.unwrap_or_default()
    }
}

/// A shim of our containerd and namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shim {
    pid: u32,
    /// The container that it was started for.
    id: String,
    /// How long it has run; `None` if that cannot be told.
    age: Option<Duration>,
}

/// The shims in `proc` that a containerd listening on `socket` started for containers of `namespace`.
fn shims(proc: &Path, namespace: &str, socket: &Path) -> Vec<Shim> {
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
        let id = shim_of(&line, namespace, socket)?;
        let age = now
            .zip(observe::began(pid))
            .map(|(now, began)| now.since(began));
        Some(Shim { pid, id, age })
    });
    found.collect()
}

/// The container that a process is the shim of, by its arguments; `None` if it is none of ours.
fn shim_of(line: &[u8], namespace: &str, socket: &Path) -> Option<String> {
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
    let ours = program == Some(OsStr::new("containerd-shim-runc-v2"))
        && after("-namespace") == Some(namespace.as_bytes())
        && address.is_some_and(|address| is_same_file(address, socket));
    after("-id")
        .filter(|_| ours)
        .map(|id| String::from_utf8_lossy(id).into_owned())
}

/// Ends a shim and waits until it has. The process is looked at again once it is held: its number may be another's by now.
fn end(shim: &Shim, proc: &Path, namespace: &str, socket: &Path) -> std::io::Result<()> {
    let Some(pid) = i32::try_from(shim.pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    let line = std::fs::read(proc.join(shim.pid.to_string()).join("cmdline")).unwrap_or_default();
    if shim_of(&line, namespace, socket).as_deref() != Some(&shim.id) {
        return Ok(());
    }
    for signal in [Signal::TERM, Signal::KILL] {
        match pidfd_send_signal(&process, signal) {
            Err(Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        if poll(
            &mut [PollFd::new(&process, PollFlags::IN)],
            Some(&SHIM_GRACE),
        )? > 0
        {
            return Ok(());
        }
    }
    Err(std::io::Error::other(
        "it hangs in the kernel, SIGKILL does not end it",
    ))
}

/// `/var/run` is a link to `/run`, and either may stand in the configuration.
fn is_same_file(one: &Path, other: &Path) -> bool {
    one == other
        || one
            .canonicalize()
            .ok()
            .is_some_and(|one| other.canonicalize().ok() == Some(one))
}

/// Which of the shims nobody knows: `known` are the ids that containerd has a record or a task of, `wanted` those that a
/// launch may be about to take over.
fn forgotten(
    shims: &[Shim],
    known: &BTreeSet<String>,
    wanted: &BTreeSet<InstanceName>,
) -> Vec<InstanceName> {
    let old = shims
        .iter()
        .filter(|shim| shim.age.is_some_and(|age| age >= LOST_AFTER) && !known.contains(&shim.id));
    let names: BTreeSet<InstanceName> = old.filter_map(|shim| shim.id.parse().ok()).collect();
    names.difference(wanted).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0chas\0-id\0x-1\0-address\0/nowhere/c.sock\0";

    #[test]
    fn a_shim_is_known_by_program_namespace_and_socket() {
        let socket = Path::new("/nowhere/c.sock");
        assert_eq!(shim_of(LINE, "chas", socket).as_deref(), Some("x-1"));
        assert_eq!(shim_of(LINE, "other", socket), None);
        assert_eq!(
            shim_of(LINE, "chas", Path::new("/nowhere/other.sock")),
            None,
            "another containerd's"
        );
        assert_eq!(
            shim_of(&LINE[b"/usr/bin/containerd-".len()..], "chas", socket),
            None
        );
        assert_eq!(shim_of(b"", "chas", socket), None);
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
            "what is not there is not the same"
        );
    }

    #[test]
    fn only_an_old_shim_that_nobody_knows_or_wants_is_forgotten() {
        let id = "000000000abc-1";
        let shim = |id: &str, age: Option<Duration>| Shim {
            pid: 1,
            id: id.to_owned(),
            age,
        };
        let check = |shim: Shim, known: &[&str], wanted: &[&str]| {
            let known = known.iter().map(|id| (*id).to_owned()).collect();
            let wanted = wanted.iter().map(|id| id.parse().unwrap()).collect();
            !forgotten(&[shim], &known, &wanted).is_empty()
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
            "it may be on its way"
        );
        assert!(!check(shim(id, None), &[], &[]));
        assert!(!check(shim("stranger", Some(LOST_AFTER)), &[], &[]));
    }
}
