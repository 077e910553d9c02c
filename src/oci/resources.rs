//! Resource limits of the OCI spec, in the terms of the kernel's control groups.

use serde_json::{Value, json};
use state::spec::Resources;

use super::host::Cgroup;

/// Period of a CPU quota: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// Bounds of `cpu.shares` in the kernel; a core has 1024. runc refuses more, so above 256 cores all
/// weigh the same.
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;

/// The section `linux.resources`.
pub(super) fn resources(wanted: &Resources, cgroup: Cgroup) -> Value {
    // Without this first rule every device of the host would be open on v1.
    let mut resources =
        json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": wanted.pids}});
    if let Some(cpu) = wanted.cpu {
        let shares = (cpu.0 * 1024 / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX);
        resources["cpu"] = json!({"period": CPU_PERIOD_US, "quota": cpu.0 * CPU_PERIOD_US / 1000, "shares": shares});
    }
    if let Some(memory) = wanted.memory {
        resources["memory"] = json!({"limit": memory.0});
        // The sum of memory and swap: equal means no swap. Where swap is not accounted, asking for
        // it is an error.
        if cgroup != (Cgroup::V1 { swap: false }) {
            resources["memory"]["swap"] = json!(memory.0);
        }
    }
    resources
}
