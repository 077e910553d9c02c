//! Shims that containerd lost: whoever asked for a task went away while it was created, and nobody took it over.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use containerd_client::services::v1 as api;
use containerd_client::services::v1::snapshots as snapshots_api;
use state::id::InstanceName;
use state::observed::Task;

use super::Containerd;
use super::client::{CallError, quick};
use super::unpack::SNAPSHOTTER;
use crate::runtime::RuntimeError;

impl Containerd {
    /// Makes containerd know the shim of an instance again, if one runs that it has forgotten, so that it can be ended.
    ///
    /// Creating the task once more finds the shim alive and takes it over.
    pub(super) async fn recover_shim(&self, instance: InstanceName) -> Result<(), RuntimeError> {
        if !matches!(self.task(instance).await?, Task::Absent) {
            return Ok(());
        }
        let namespace = self.config.namespace.clone();
        let runs = tokio::task::spawn_blocking(move || runs(Path::new("/proc"), &namespace, &instance.to_string())).await;
        if !runs.unwrap_or(false) {
            return Ok(());
        }
        tracing::warn!(%instance, "containerd lost its shim; taking it over to end it");
        let mounts = snapshots_api::MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: instance.to_string() };
        let rootfs = match quick(self.client.snapshots().mounts(mounts)).await {
            Ok(reply) => reply.mounts,
            Err(CallError::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let request = api::CreateTaskRequest { container_id: instance.to_string(), rootfs, ..api::CreateTaskRequest::default() };
        match self.request_task(request).await {
            // A refusal ends the shim as well: containerd cleans up after a task that could not be created.
            Ok(()) | Err(CallError::AlreadyExists | CallError::NotFound(_) | CallError::Refused(_)) => Ok(()),
            Err(error @ CallError::Unavailable(_)) => Err(error.into()),
        }
    }
}

/// Whether a process is the shim of `id` in `namespace`, by its arguments.
fn runs(proc: &Path, namespace: &str, id: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(proc) else { return false };
    let processes = entries.flatten().filter(|entry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit));
    processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok()).any(|line| is_shim(&line, namespace, id))
}

fn is_shim(line: &[u8], namespace: &str, id: &str) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = words.first().and_then(|path| Path::new(OsStr::from_bytes(path)).file_name());
    let follows =
        |flag: &str, value: &str| words.windows(2).any(|pair| pair[0] == flag.as_bytes() && pair[1] == value.as_bytes());
    program == Some(OsStr::new("containerd-shim-runc-v2")) && follows("-namespace", namespace) && follows("-id", id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_is_known_by_program_namespace_and_id() {
        let line = b"/usr/bin/containerd-shim-runc-v2\0-namespace\0chas\0-id\0x-1\0-address\0/run/c.sock\0";
        assert!(is_shim(line, "chas", "x-1"));
        assert!(!is_shim(line, "chas", "x-11") && !is_shim(line, "other", "x-1"));
        assert!(!is_shim(b"/usr/bin/vim\0-namespace\0chas\0-id\0x-1\0", "chas", "x-1"));
    }
}
