//! Limits that are changed while a container exists: of its task, and in the OCI spec that it is
//! launched from the next time.

use serde_json::{Value, json};
use state::digest::canonical;
use state::spec::Resources;

use super::resources::{CPU_PERIOD_US, resources};
use crate::cgroup::{Cgroup, ReleasedLimits};

/// Limits of one kind, which are set together. What is not limited is said so: to the OCI runtime a
/// limit that is left out is one that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveLimit {
    /// Field of the deploy body that they come from.
    pub(crate) field: &'static str,
    /// Section `linux.resources` with nothing but them.
    pub(crate) resources: Value,
}

impl LiveLimit {
    /// Bytes of memory that they leave. `None`: they are not about memory, or it is unlimited.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.resources["memory"]["limit"].as_u64()
    }
}

/// Limits of every kind, each to be set by itself: the OCI runtime takes nothing back of what it
/// has set before a refusal.
pub(crate) fn live(
    wanted: &Resources,
    cgroup: Cgroup,
    released: &ReleasedLimits,
) -> Vec<LiveLimit> {
    // Every field is live: a new one needs its section in `resources`, and here the value by which
    // the kernel has no such limit.
    let Resources {
        cpu: _,
        memory: _,
        pids: _,
        cpu_reservation: _,
        memory_reservation: _,
        swap: _,
        cpu_shares: _,
        cpuset: _,
        io: _,
    } = wanted;
    // On version 2 it is what is kept for the group: of -1 a runtime would make all there is.
    let unreserved = if cgroup == Cgroup::V2 { 1 } else { -1 };
    let mut memory = json!({"limit": -1, "reservation": unreserved});
    if cgroup.limits_swap() {
        memory["swap"] = json!(-1);
    }
    let mut cpu = json!({"quota": -1, "period": CPU_PERIOD_US});
    if let Some(shares) = released.cpu_shares {
        cpu["shares"] = json!(shares);
    }
    let unlimited = [
        (
            "resources.cpu",
            "cpu",
            &["quota", "period", "shares"][..],
            cpu,
        ),
        (
            "resources.cpuset",
            "cpu",
            &["cpus"],
            of("cpus", released.cpus.as_ref()),
        ),
        (
            "resources.memory",
            "memory",
            &["limit", "swap", "reservation"],
            memory,
        ),
        ("resources.pids", "pids", &["limit"], json!({"limit": -1})),
        (
            "resources.io",
            "blockIO",
            &["weight"],
            of("weight", released.disk_weight.as_ref()),
        ),
    ];
    let asked = resources(wanted, cgroup);
    let limit = |(field, section, keys, mut limits): (_, &str, &[&str], Value)| {
        let asked = asked[section].as_object().into_iter().flatten();
        for (key, value) in asked.filter(|(key, _)| keys.contains(&key.as_str())) {
            limits[key] = value.clone();
        }
        let is_any = limits.as_object().is_some_and(|limits| !limits.is_empty());
        is_any.then(|| LiveLimit {
            field,
            resources: json!({section: limits}),
        })
    };
    unlimited.into_iter().filter_map(limit).collect()
}

/// Section of one value, or of none.
fn of(key: &str, value: Option<&(impl serde::Serialize + ?Sized)>) -> Value {
    value.map_or_else(|| json!({}), |value| json!({key: value}))
}

/// OCI spec with these limits in place of its own; its devices stay. `None`: it is none.
pub(crate) fn renewed(spec: &[u8], wanted: &Resources, cgroup: Cgroup) -> Option<Vec<u8>> {
    let mut spec: Value = serde_json::from_slice(spec).ok()?;
    let section = spec.pointer_mut("/linux/resources")?;
    let mut renewed = resources(wanted, cgroup);
    renewed["devices"] = section["devices"].take();
    *section = renewed;
    Some(canonical(&spec).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::tests::record;

    const SWAPLESS: Cgroup = Cgroup::V1 { swap: false };

    fn asked(resources: &Value) -> Resources {
        record(&json!({"resources": resources})).spec.resources
    }

    #[test]
    fn what_is_asked_is_set_and_what_is_not_is_released() {
        let sections_of = |resources: &Value, cgroup, released: &ReleasedLimits| {
            let limits = live(&asked(resources), cgroup, released).into_iter();
            limits.map(|limit| limit.resources).collect::<Vec<_>>()
        };
        let plain = ReleasedLimits {
            cpu_shares: Some(1024),
            ..ReleasedLimits::default()
        };
        let sections = |resources: &Value, cgroup| sections_of(resources, cgroup, &plain);
        assert_eq!(
            sections(
                &json!({"cpu": "0.5", "memory": "64m", "pids": 7}),
                Cgroup::V2
            ),
            [
                json!({"cpu": {"quota": 50_000, "period": 100_000, "shares": 512}}),
                json!({"memory": {"limit": 64 << 20, "swap": 64 << 20, "reservation": 1}}),
                json!({"pids": {"limit": 7}}),
            ]
        );
        assert_eq!(
            sections(&json!({}), Cgroup::V1 { swap: true }),
            [
                json!({"cpu": {"quota": -1, "period": 100_000, "shares": 1024}}),
                json!({"memory": {"limit": -1, "swap": -1, "reservation": -1}}),
                json!({"pids": {"limit": 4096}}),
            ]
        );
        let swapless = sections(&json!({"memory": "64m"}), SWAPLESS);
        assert_eq!(
            swapless[1],
            json!({"memory": {"limit": 64 << 20, "reservation": -1}})
        );
        let released = sections(&json!({}), SWAPLESS);
        assert_eq!(
            released[1],
            json!({"memory": {"limit": -1, "reservation": -1}})
        );
        let all = ReleasedLimits {
            cpus: Some("0-7".to_owned()),
            disk_weight: Some(100),
            cpu_shares: None,
        };
        let all = |resources: &Value| sections_of(resources, Cgroup::V2, &all).split_off(1);
        assert_eq!(
            all(&json!({"cpuset": "1", "io": {"weight": 50}, "memory_reservation": "7m"})),
            [
                json!({"cpu": {"cpus": "1"}}),
                json!({"memory": {"limit": -1, "swap": -1, "reservation": 7 << 20}}),
                json!({"pids": {"limit": 4096}}),
                json!({"blockIO": {"weight": 50}}),
            ]
        );
        assert_eq!(
            all(&json!({})),
            [
                json!({"cpu": {"cpus": "0-7"}}),
                json!({"memory": {"limit": -1, "swap": -1, "reservation": 1}}),
                json!({"pids": {"limit": 4096}}),
                json!({"blockIO": {"weight": 100}}),
            ]
        );
    }

    #[test]
    fn a_spec_gets_new_limits_and_keeps_everything_else() {
        let spec = |resources: Value| json!({"hostname": "web", "linux": {"resources": resources, "seccomp": {"a": 1}}});
        let before = spec(json!({
            "devices": [{"allow": true, "type": "c", "major": 1}],
            "memory": {"limit": 5},
            "pids": {"limit": 1},
        }));
        let renewed = renewed(
            before.to_string().as_bytes(),
            &asked(&json!({"cpu": "1"})),
            Cgroup::V2,
        );
        let renewed: Value = serde_json::from_slice(&renewed.unwrap()).unwrap();
        let after = spec(json!({
            "devices": [{"allow": true, "type": "c", "major": 1}],
            "cpu": {"quota": 100_000, "period": 100_000, "shares": 1024},
            "pids": {"limit": 4096},
        }));
        assert_eq!(renewed, after);
        assert_eq!(super::renewed(b"{}", &asked(&json!({})), Cgroup::V2), None);
    }
}
