//! The OCI runtime spec of a container, from its image, its record and facts about the host. Pure.
//!
//! Source: opencontainers/runtime-spec 1.0.2. JSON is written directly: the spec is hashed and compared by nobody, and a
//! builder's defaults (a shell as command, a host name) are not ours.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};
use state::desired::Record;
use state::reason::Reason;
use state::spec::{Resources, Signal};

use super::seccomp;
use super::user::User;
use crate::network::Attached;
use crate::runtime::RuntimeError;
use host::{Cgroup, Host};

pub(crate) mod host;

/// Where programs are looked for when the image does not say; docker's.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The period of a CPU quota: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel's bounds of `cpu.shares`, of which a core has 1024: runc refuses more, so above 256 cores all weigh the same.
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;
/// Files a process may open unless it asks for more: beyond it `select` breaks.
const OPEN_FILES_SOFT: u64 = 1024;

/// What tells of the host, its other containers or its power draw (a side channel): not to be seen at all.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What may be seen, not changed: it is the host's.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The user that is to run it, as asked or as the image says; to be resolved by [`super::user`].
pub(crate) fn wanted_user(image: &ImageConfiguration, record: &Record) -> String {
    let own = image
        .config()
        .as_ref()
        .and_then(|config| config.user().clone());
    record.spec.user.clone().or(own).unwrap_or_default()
}

/// The signal the image wants to be stopped with.
pub(crate) fn stop_signal(image: &ImageConfiguration) -> Option<Signal> {
    image
        .config()
        .as_ref()
        .and_then(|config| config.stop_signal().as_ref())
        .and_then(|signal| signal.parse().ok())
}

/// The runtime spec as JSON.
///
/// # Errors
/// [`Reason::NoCommand`]: neither the image nor the record says what to run.
pub(crate) fn spec(
    image: &ImageConfiguration,
    record: &Record,
    user: &User,
    attached: &Attached,
    host: &Host,
    cgroups_path: &str,
) -> Result<Vec<u8>, RuntimeError> {
    let capabilities = &record.spec.security.capabilities.0;
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": record.spec.security.read_only_rootfs},
        "hostname": record.name.as_str(),
        "process": {
            "terminal": false,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
            "args": args(image, record)?,
            "env": environment(image, record, user),
            "cwd": working_dir(image, record),
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": OPEN_FILES_SOFT.min(host.open_files_max), "hard": host.open_files_max}],
            "oomScoreAdj": host.oom_score_min,
        },
        "mounts": mounts(attached),
        "linux": {
            "namespaces": namespaces(&attached.netns, host.cgroup),
            "cgroupsPath": cgroups_path,
            "resources": resources(&record.spec.resources, host.cgroup),
            "seccomp": seccomp::profile(host.machine, capabilities),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            // A user that is not root may bind port 80, and ping, in a network that is all its own.
            "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
        },
    });
    serde_json::to_vec(&spec)
        .map_err(|error| RuntimeError::failed(Reason::CreateFailed, error.to_string()))
}

/// As in Kubernetes: `command` replaces the image's entrypoint and drops its command; `args` replaces its command.
fn args(image: &ImageConfiguration, record: &Record) -> Result<Vec<String>, RuntimeError> {
    let config = image.config().as_ref();
    let entrypoint = config
        .and_then(|config| config.entrypoint().clone())
        .unwrap_or_default();
    let cmd = config
        .and_then(|config| config.cmd().clone())
        .unwrap_or_default();
    let (first, rest) = match (&record.spec.command, &record.spec.args) {
        (Some(command), args) => (command.clone(), args.clone().unwrap_or_default()),
        (None, Some(args)) => (entrypoint, args.clone()),
        (None, None) => (entrypoint, cmd),
    };
    let args: Vec<_> = first.into_iter().chain(rest).collect();
    if args.first().is_none_or(String::is_empty) {
        let message = format!(
            "the image {} has neither an entrypoint nor a command; say what to run under \"command\"",
            record.spec.image
        );
        return Err(RuntimeError::failed(Reason::NoCommand, message));
    }
    Ok(args)
}

/// The image's, then what it lacks, then what was asked for; sorted. An image's entry without a name or without `=` is
/// dropped: newer runc refuse the whole container for it.
fn environment(image: &ImageConfiguration, record: &Record, user: &User) -> Vec<String> {
    let own = image
        .config()
        .as_ref()
        .and_then(|config| config.env().clone())
        .unwrap_or_default();
    let mut all: BTreeMap<String, String> =
        BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
    if let Some(home) = &user.home {
        all.insert("HOME".to_owned(), home.clone());
    }
    let named = own
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .filter(|(key, _)| !key.is_empty());
    all.extend(named.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all.insert("HOSTNAME".to_owned(), record.name.to_string());
    all.extend(record.spec.environment.clone());
    all.into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn working_dir(image: &ImageConfiguration, record: &Record) -> String {
    let own = image
        .config()
        .as_ref()
        .and_then(|config| config.working_dir().clone());
    let wanted = record.spec.working_dir.clone().or(own).unwrap_or_default();
    if wanted.starts_with('/') {
        wanted
    } else {
        format!("/{wanted}")
    }
}

fn namespaces(netns: &Path, cgroup: Cgroup) -> Vec<Value> {
    let mut namespaces: Vec<_> = ["pid", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    namespaces.push(json!({"type": "network", "path": netns}));
    // On v1 a cgroup namespace hides nothing that the read-only mount does not.
    if cgroup == Cgroup::V2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces
}

fn mounts(attached: &Attached) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let bind = |destination: &str, source: &Path| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "ro", "nosuid", "nodev"]});
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
        bind("/etc/resolv.conf", &attached.resolv_conf),
        bind("/etc/hosts", &attached.hosts),
        bind("/etc/hostname", &attached.hostname),
    ]
}

fn resources(wanted: &Resources, cgroup: Cgroup) -> Value {
    // Without this first rule every device of the host would be open on v1.
    let mut resources =
        json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": wanted.pids}});
    if let Some(cpu) = wanted.cpu {
        let shares = (cpu.0 * 1024 / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX);
        resources["cpu"] = json!({"period": CPU_PERIOD_US, "quota": cpu.0 * CPU_PERIOD_US / 1000, "shares": shares});
    }
    if let Some(memory) = wanted.memory {
        resources["memory"] = json!({"limit": memory.0});
        // The sum of memory and swap: equal means no swap. Where swap is not accounted, asking for it is an error.
        if cgroup != (Cgroup::V1 { swap: false }) {
            resources["memory"]["swap"] = json!(memory.0);
        }
    }
    resources
}

#[cfg(test)]
pub(crate) mod tests;
