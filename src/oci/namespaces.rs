//! Namespaces of the OCI spec, and the parts of the host that a container sees in them.

use serde_json::{Value, json};

use super::Placement;
use crate::cgroup::Cgroup;

/// Paths that tell of the host, its other containers or its power draw (a side channel): not to be
/// seen at all.
pub(super) const MASKED: [&str; 12] = [
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

/// Paths of the host that may be seen, not changed.
pub(super) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The section `linux.namespaces`; the network is the one that the place names.
pub(super) fn namespaces(place: &Placement<'_>, cgroup: Cgroup) -> Vec<Value> {
    let mut namespaces: Vec<_> = ["pid", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    if let Some(netns) = place.netns {
        namespaces.push(json!({"type": "network", "path": netns}));
    }
    if place.ids.is_some() {
        namespaces.push(json!({"type": "user"}));
    }
    // On v1 a cgroup namespace hides nothing that the read-only mount does not.
    if cgroup == Cgroup::V2 {
        namespaces.push(json!({"type": "cgroup"}));
    }
    namespaces
}
