//! Mounts of the OCI spec: the kernel's file systems, then files and directories of the host.

use std::path::PathBuf;

use serde_json::{Value, json};

/// File or directory of the host that a container sees (a bind mount).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Path on the host.
    pub(crate) source: PathBuf,
    /// Absolute path in the container.
    pub(crate) destination: String,
    /// Options as of mount(8).
    pub(crate) options: Vec<String>,
}

impl Mount {
    /// Mount that the container can only read.
    pub(crate) fn read_only(source: PathBuf, destination: &str) -> Self {
        Self::bind(source, destination, "ro")
    }

    /// Mount that the container can write to.
    pub(crate) fn writable(source: PathBuf, destination: &str) -> Self {
        Self::bind(source, destination, "rw")
    }

    fn bind(source: PathBuf, destination: &str, access: &str) -> Self {
        Self {
            source,
            destination: destination.to_owned(),
            options: ["rbind", access, "nosuid", "nodev"]
                .map(str::to_owned)
                .into(),
        }
    }

    fn to_json(&self) -> Value {
        json!({"destination": self.destination, "type": "bind", "source": self.source, "options": self.options})
    }
}

/// The section `mounts`; `volumes` lie below what the host shows.
pub(super) fn mounts(volumes: Vec<Value>, binds: &[Mount]) -> Vec<Value> {
    let mut mounts = kernel();
    mounts.extend(volumes);
    mounts.extend(binds.iter().map(Mount::to_json));
    mounts
}

fn kernel() -> Vec<Value> {
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        // Of this type on version 2 as well: runc looks itself which it is.
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": kind, "source": kind, "options": options})
}
