//! Mounts of the OCI spec: the kernel's file systems, then files and directories of the host.

use std::path::PathBuf;

use serde_json::{Value, json};
use state::spec::ShmSize;

use super::Placement;

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
pub(super) fn mounts(volumes: Vec<Value>, shm: ShmSize, place: &Placement<'_>) -> Vec<Value> {
    let sys = if place.ids.is_some() {
        let mut sys = Mount::read_only(place.sysfs.to_owned(), "/sys");
        sys.options.push("noexec".to_owned());
        sys.to_json()
    } else {
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    let mut mounts = kernel(sys, shm);
    mounts.extend(volumes);
    mounts.extend(place.mounts.iter().map(|bind| {
        let mut bind = bind.clone();
        // The file system of these files has it, and whoever has ids of its own may not lift it.
        let noexec = place.ids.map(|_| "noexec".to_owned());
        bind.options.extend(noexec);
        bind.to_json()
    }));
    let given = place.given.iter().flat_map(|given| given.mounts);
    mounts.extend(
        given.map(|(source, destination)| Mount::read_only(source.clone(), destination).to_json()),
    );
    mounts
}

/// Files of the host that a container with this OCI spec may write to, and whose owners it does not
/// see as its own: those of volumes are mapped.
pub(crate) fn writable_sources(spec: &Value) -> Vec<PathBuf> {
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    let writable = mounts.filter(|mount| {
        let mut options = mount["options"].as_array().into_iter().flatten();
        let is_mapped = mount.get("uidMappings").is_some();
        mount["type"] == "bind" && !is_mapped && options.any(|option| option == "rw")
    });
    let sources = writable.filter_map(|mount| mount["source"].as_str());
    sources.map(PathBuf::from).collect()
}

fn kernel(sys: Value, shm: ShmSize) -> Vec<Value> {
    let shm_size = format!("size={}k", shm.0.0.div_ceil(1024));
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
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        ),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
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
