//! The deploy body, parsed and checked completely: every fault at once, each with the field it is about.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::desired::RunState;
use crate::id::ContainerName;
use crate::quantity::{ByteCount, CpuMillis};
use crate::spec::fields::{
    Fields, boolean, duration, integer, list, parsed, text, text_map, words,
};
use crate::spec::parse::checks::{absolute, check_environment, check_labels, user};
use crate::spec::{
    Capabilities, DEFAULT_CAPABILITIES, ImagePull, LogLimits, PortSpec, Protocol, Resources,
    Restart, RestartPolicy, Security, Spec, Stop,
};

mod checks;
mod set;

pub use set::set;

/// Ports a container may publish. More than any service needs; it bounds the rule set and the check for listeners.
const PORTS_MAX: usize = 128;
/// The memory below which runc itself does not start (2.5 to 3 MiB measured), doubled as docker does.
const MEMORY_BYTES_MIN: ByteCount = ByteCount(6 << 20);
/// The kernel's smallest CFS quota is 1 ms in a period of 100 ms.
const CPU_MILLIS_MIN: CpuMillis = CpuMillis(10);
const STOP_TIMEOUT_MAX: Duration = Duration::from_hours(1);

/// A deploy body that was found valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    /// The container's name.
    pub name: ContainerName,
    /// What it is asked to be.
    pub spec: Spec,
    /// Whether it should run.
    pub run: RunState,
    /// 0 to 100; higher starts first.
    pub priority: u8,
    /// The caller's own number for this spec.
    pub revision: Option<u64>,
    /// Fingerprint of the body as it came: `sha256:` and 64 hex digits.
    pub body_hash: String,
}

/// One fault of a deploy body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The field, as in `exposed_ports[0].container`. Empty: the body as a whole.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

/// Reads a deploy body.
///
/// # Errors
/// Every fault in it, in the order of the fields. Never empty.
pub fn deploy(body: &Value) -> Result<Deploy, Vec<FieldError>> {
    let mut faults = Vec::new();
    let deploy = read(body, "", &mut faults);
    match deploy {
        Some(deploy) if faults.is_empty() => Ok(deploy),
        _ => Err(faults),
    }
}

fn read(body: &Value, path: &str, faults: &mut Vec<FieldError>) -> Option<Deploy> {
    let mut top = Fields::of(body, path, faults)?;
    let name = top.required("name", parsed::<ContainerName>);
    let image = top.required("image", parsed);
    let ports = top
        .read("exposed_ports", |v| list(v, PORTS_MAX))
        .map(|items| ports(&mut top, items));
    let resources = top.object("resources", resources);
    let environment = top.read("environment", text_map);
    check_environment(&mut top, environment.as_ref());
    let command = top.read("command", words);
    let args = top.read("args", |v| {
        if v.as_array().is_some_and(Vec::is_empty) {
            Ok(Vec::new())
        } else {
            words(v)
        }
    });
    let working_dir = top.read("working_dir", |v| absolute(text(v)?));
    let user = top.read("user", |v| user(text(v)?));
    let labels = top.read("labels", text_map);
    check_labels(&mut top, labels.as_ref());
    let run = top.choice(
        "state",
        &[
            ("running", RunState::Running),
            ("stopped", RunState::Stopped),
        ],
    );
    let priority = top
        .read("priority", |v| integer(v, 0..=100))
        .and_then(|n| u8::try_from(n).ok());
    let revision = top.read("revision", |v| integer(v, 0..=u64::MAX >> 1));
    let restart = top.object("restart", restart);
    let stop = top.object("stop", stop);
    let security = top.object("security", security);
    let logs = top.object("logs", logs);
    let pulls = [
        ("if-not-present", ImagePull::IfNotPresent),
        ("always", ImagePull::Always),
        ("never", ImagePull::Never),
    ];
    let image_pull = top.choice("image_pull", &pulls);
    for later in ["health", "update", "volumes", "on_disconnect"] {
        top.refuse(later, "not supported yet");
    }
    top.finish();
    let spec = Spec {
        image: image?,
        image_pull: image_pull.unwrap_or(ImagePull::IfNotPresent),
        ports: ports.unwrap_or_default(),
        resources: resources.unwrap_or_default(),
        environment: environment.unwrap_or_default(),
        command,
        args,
        working_dir,
        user,
        labels: labels.unwrap_or_default(),
        restart: restart.unwrap_or_default(),
        stop: stop.unwrap_or_default(),
        security: security.unwrap_or_default(),
        logs: logs.unwrap_or_default(),
    };
    Some(Deploy {
        name: name?,
        spec,
        run: run.unwrap_or(RunState::Running),
        priority: priority.unwrap_or(50),
        revision,
        body_hash: crate::digest::sha256(body.to_string().as_bytes()),
    })
}

fn ports(top: &mut Fields<'_>, items: &[Value]) -> Vec<PortSpec> {
    let mut ports = Vec::new();
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let Some(port) = top.item("exposed_ports", index, item, port) else {
            continue;
        };
        if !inside.insert((port.protocol, port.container)) {
            top.fault(
                &format!("exposed_ports[{index}].container"),
                "this port is already listed",
            );
        }
        if port
            .host
            .is_some_and(|host| !outside.insert((port.protocol, host, port.host_ip)))
        {
            top.fault(
                &format!("exposed_ports[{index}].host"),
                "this host port is already listed",
            );
        }
        ports.push(port);
    }
    ports
}

fn port(fields: &mut Fields<'_>) -> Option<PortSpec> {
    let number =
        |v: &Value| integer(v, 1..=65535).and_then(|n| u16::try_from(n).map_err(|e| e.to_string()));
    let container = fields.required("container", number);
    let protocol = fields.choice(
        "protocol",
        &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)],
    );
    let host = fields.read("host", number);
    let host_ip = fields.read("host_ip", |v| {
        text(v)?
            .parse::<std::net::Ipv4Addr>()
            .map_err(|_| "must be an IPv4 address of this host".to_owned())
    });
    let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
    Some(PortSpec {
        container: container?,
        protocol: protocol.unwrap_or(Protocol::Tcp),
        host,
        host_ip,
    })
}

fn resources(fields: &mut Fields<'_>) -> Option<Resources> {
    let cpu = fields.read("cpu", |v| {
        let cpu: CpuMillis = if v.is_number() {
            v.to_string().parse()
        } else {
            text(v)?.parse()
        }
        .map_err(|e| format!("{e}"))?;
        if (CPU_MILLIS_MIN..=CpuMillis(1_024_000)).contains(&cpu) {
            Ok(cpu)
        } else {
            Err("must be from 0.01 to 1024 cores".to_owned())
        }
    });
    let memory = fields.read("memory", |v| {
        let memory: ByteCount = if v.is_number() {
            v.to_string().parse()
        } else {
            text(v)?.parse()
        }
        .map_err(|e| format!("{e}"))?;
        let range = MEMORY_BYTES_MIN..=ByteCount(1 << 50);
        if range.contains(&memory) {
            Ok(memory)
        } else {
            Err("must be at least 6m; with less, not even the runtime can start".to_owned())
        }
    });
    let pids = fields
        .read("pids", |v| integer(v, 1..=4_194_304))
        .and_then(|n| u32::try_from(n).ok());
    Some(Resources {
        cpu,
        memory,
        pids: pids.unwrap_or(Resources::default().pids),
    })
}

fn restart(fields: &mut Fields<'_>) -> Option<Restart> {
    let policies = [
        ("always", RestartPolicy::Always),
        ("on-failure", RestartPolicy::OnFailure),
        ("never", RestartPolicy::Never),
    ];
    let policy = fields
        .choice("policy", &policies)
        .unwrap_or(RestartPolicy::Always);
    let max_retries = fields
        .read("max_retries", |v| integer(v, 0..=1_000_000))
        .and_then(|n| u32::try_from(n).ok());
    if policy == RestartPolicy::Never && max_retries.is_some() {
        fields.fault("max_retries", "means nothing with the policy \"never\"");
    }
    Some(Restart {
        policy,
        max_retries,
    })
}

fn stop(fields: &mut Fields<'_>) -> Option<Stop> {
    let signal = fields.read("signal", parsed);
    let timeout = fields.read("timeout", |v| duration(v, STOP_TIMEOUT_MAX));
    Some(Stop {
        signal,
        timeout: timeout.unwrap_or(Stop::default().timeout),
    })
}

fn security(fields: &mut Fields<'_>) -> Option<Security> {
    let read_only_rootfs = fields.read("read_only_rootfs", boolean).unwrap_or(false);
    let capabilities = fields.object("capabilities", |fields| {
        let add = capability_names(fields, "add");
        let drop = capability_names(fields, "drop");
        for (index, name) in add.iter().enumerate() {
            if name == "CAP_ALL" || !DEFAULT_CAPABILITIES.contains(&name.as_str()) {
                let message = format!(
                    "not supported yet: a container may have, at most, {}",
                    DEFAULT_CAPABILITIES.join(", ")
                );
                fields.fault(&format!("add[{index}]"), &message);
            }
        }
        let all = drop.iter().any(|name| name == "CAP_ALL");
        let dropped = |name: &str| all || drop.iter().any(|d| d == name);
        let kept = |name: &&str| !dropped(name) || add.iter().any(|a| a == name);
        Some(Capabilities(
            DEFAULT_CAPABILITIES
                .iter()
                .copied()
                .filter(kept)
                .map(str::to_owned)
                .collect(),
        ))
    });
    Some(Security {
        read_only_rootfs,
        capabilities: capabilities.unwrap_or_default(),
    })
}

/// Capability names with or without `CAP_`, in any case, as `CAP_…`.
fn capability_names(fields: &mut Fields<'_>, key: &'static str) -> Vec<String> {
    let known = |name: &str| {
        name.len() <= 32
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.is_empty()
    };
    let names = fields.read(key, |v| {
        list(v, 64)?
            .iter()
            .map(|item| text(item).map(str::to_ascii_uppercase))
            .collect::<Result<Vec<_>, _>>()
    });
    let names = names.unwrap_or_default();
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !known(name)) {
        fields.fault(
            &format!("{key}[{index}]"),
            &format!("{name:?} is not the name of a capability, such as \"NET_RAW\" or \"ALL\""),
        );
    }
    names
        .into_iter()
        .map(|name| {
            if name.starts_with("CAP_") {
                name
            } else {
                format!("CAP_{name}")
            }
        })
        .collect()
}

fn logs(fields: &mut Fields<'_>) -> Option<LogLimits> {
    let max_size = fields.read("max_size", |v| {
        let size: ByteCount = if v.is_number() {
            v.to_string().parse()
        } else {
            text(v)?.parse()
        }
        .map_err(|e| format!("{e}"))?;
        if (64 << 10..=1 << 30).contains(&size.0) {
            Ok(size)
        } else {
            Err("must be from 64k to 1g".to_owned())
        }
    });
    let max_files = fields
        .read("max_files", |v| integer(v, 1..=100))
        .and_then(|n| u32::try_from(n).ok());
    let default = LogLimits::default();
    Some(LogLimits {
        max_size: max_size.unwrap_or(default.max_size),
        max_files: max_files.unwrap_or(default.max_files),
    })
}

#[cfg(test)]
mod tests;
