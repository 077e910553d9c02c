//! Sysctls of a container's IPC namespace, set once that is there and before the program runs.
//!
//! The agent sets them itself: of a value that the kernel refuses it knows the cause, and the root
//! of a user namespace may set none on most kernels.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::Uid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_res_uid};
use state::failure::Failure;
use state::id::InstanceName;
use state::reason::Reason;
use state::spec::{Signal, Spec, sysctls};

use super::Instances;
use crate::oci::host_ids::HostIds;
use crate::runtime::RuntimeError;

/// IPC namespace of the agent, which is the host's.
const OWN: &str = "/proc/thread-self/ns/ipc";

/// Sysctls that one container has in its IPC namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IpcSysctls {
    values: Vec<(String, String)>,
    /// Ids of the container's own: newer kernels let only its root set them.
    ids: Option<HostIds>,
}

impl IpcSysctls {
    /// Sysctls that a spec asks for.
    pub(super) fn of(spec: &Spec, ids: Option<HostIds>) -> Self {
        let asked = spec.sysctls.iter();
        let of_ipc = asked.filter(|(name, _)| !sysctls::is_of_network(name));
        Self {
            values: of_ipc
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            ids,
        }
    }

    /// Sets them in the namespace of the process `pid`. Blocks.
    fn set(&self, pid: u32) -> Result<(), Failure> {
        let lost = |error: io::Error| {
            let message = format!("the container's IPC namespace cannot be entered: {error}");
            Failure::new(Reason::CreateFailed, message)
        };
        let namespace = other_namespace(pid).map_err(lost)?;
        std::thread::scope(|threads| {
            let work = || {
                let kind = Some(LinkNameSpaceType::InterProcessCommunication);
                move_into_link_name_space(namespace.as_fd(), kind).map_err(|e| lost(e.into()))?;
                self.write()
            };
            let thread = std::thread::Builder::new().name("sysctls".to_owned());
            let ended = thread.spawn_scoped(threads, work).map_err(lost)?.join();
            ended.unwrap_or_else(|_| Err(lost(io::Error::other("its thread ended early"))))
        })
    }

    /// Writes all on a thread of its own, which ends after it.
    fn write(&self) -> Result<(), Failure> {
        for (name, value) in &self.values {
            let path = Path::new("/proc/sys").join(name.replace('.', "/"));
            let mut written = fs::write(&path, value);
            let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            if let (true, Some(ids)) = (written.as_ref().is_err_and(is_denied), self.ids) {
                let root = Uid::from_raw(ids.first);
                let became = set_thread_res_uid(root, root, root).map_err(io::Error::from);
                written = became.and_then(|()| fs::write(&path, value));
            }
            written.map_err(|error| {
                let message = format!("sysctls.{name} cannot be set to {value:?}: {error}");
                Failure::new(Reason::SysctlRefused, message)
            })?;
        }
        Ok(())
    }
}

/// IPC namespace of a process, which must not be the host's: another process may have got the
/// number of one that ended.
fn other_namespace(pid: u32) -> io::Result<File> {
    let namespace = File::open(format!("/proc/{pid}/ns/ipc"))?;
    let (found, own) = (namespace.metadata()?, fs::metadata(OWN)?);
    if (found.dev(), found.ino()) == (own.dev(), own.ino()) {
        return Err(io::Error::other("its process has ended"));
    }
    Ok(namespace)
}

impl Instances {
    /// Gives a created task its sysctls, or takes it back.
    pub(super) async fn set_sysctls(
        &self,
        instance: InstanceName,
        sysctls: IpcSysctls,
        pid: u32,
    ) -> Result<(), RuntimeError> {
        if sysctls.values.is_empty() {
            return Ok(());
        }
        let setting = tokio::task::spawn_blocking(move || sysctls.set(pid));
        let set = setting
            .await
            .unwrap_or_else(|error| Err(Failure::new(Reason::CreateFailed, error.to_string())));
        let Err(failure) = set else {
            return Ok(());
        };
        self.kill(instance, Signal::KILL, true).await?;
        self.delete_task(instance).await?;
        Err(failure.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_ever_set_in_the_namespace_of_the_host() {
        let body = json!({"name": "a", "image": "b", "sysctls": {"kernel.shmmni": "4096", "net.core.somaxconn": "1"}});
        let spec = state::spec::parse::deploy(&body).unwrap().spec;
        let sysctls = IpcSysctls::of(&spec, None);
        assert_eq!(sysctls.values.len(), 1);
        let failure = sysctls.set(std::process::id()).unwrap_err();
        assert_eq!(failure.reason, Reason::CreateFailed);
        assert!(failure.message.contains("has ended"), "{failure}");
    }
}
