//! Resource limits of the OCI spec, in the terms of the kernel's control groups.

use serde_json::{Map, Value, json};
use state::spec::{Resources, SwapLimit};

use crate::cgroup::Cgroup;

/// Period of a CPU quota: the kernel's default.
pub(super) const CPU_PERIOD_US: u64 = 100_000;
/// Bounds of `cpu.shares` in the kernel; a core has 1024. runc refuses more, so above 256 cores all
/// weigh the same.
const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;

/// The section `linux.resources`.
pub(crate) fn resources(wanted: &Resources, cgroup: Cgroup) -> Value {
    // Without this first rule every device of the host would be open on v1.
    let mut resources =
        json!({"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": wanted.pids}});
    let of_cpu = cpu(wanted);
    if !of_cpu.is_empty() {
        resources["cpu"] = of_cpu.into();
    }
    let of_memory = memory(wanted, cgroup);
    if !of_memory.is_empty() {
        resources["memory"] = of_memory.into();
    }
    if let Some(weight) = wanted.io.weight {
        resources["blockIO"] = json!({"weight": weight});
    }
    resources
}

fn cpu(wanted: &Resources) -> Map<String, Value> {
    let mut cpu = Map::new();
    if let Some(limit) = wanted.cpu {
        cpu.insert("period".to_owned(), json!(CPU_PERIOD_US));
        cpu.insert("quota".to_owned(), json!(limit.0 * CPU_PERIOD_US / 1000));
    }
    let time = wanted.cpu_reservation.or(wanted.cpu);
    let by_time = || time.map(|time| time.shares().clamp(CPU_SHARES_MIN, CPU_SHARES_MAX));
    if let Some(shares) = wanted.cpu_shares.map(u64::from).or_else(by_time) {
        cpu.insert("shares".to_owned(), json!(shares));
    }
    if let Some(list) = &wanted.cpuset {
        cpu.insert("cpus".to_owned(), json!(list.to_string()));
    }
    cpu
}

fn memory(wanted: &Resources, cgroup: Cgroup) -> Map<String, Value> {
    let mut memory = Map::new();
    if let Some(limit) = wanted.memory {
        memory.insert("limit".to_owned(), json!(limit.0));
        // The sum of memory and swap: equal means no swap. Where swap is not accounted, asking for
        // it is an error.
        if cgroup.limits_swap() {
            let sum = match wanted.swap {
                None => json!(limit.0),
                Some(SwapLimit::Bytes(swap)) => json!(limit.0.saturating_add(swap.0)),
                Some(SwapLimit::Unlimited) => json!(-1),
            };
            memory.insert("swap".to_owned(), sum);
        }
    }
    if let Some(reserved) = wanted.memory_reservation {
        memory.insert("reservation".to_owned(), json!(reserved.0));
    }
    memory
}
