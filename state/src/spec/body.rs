//! The deploy body, member by member: each is read, and shown again, by the file of its section.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::disconnect::OnDisconnect;
use super::fields::{FieldError, Fields, boolean, integer, parsed};
use super::image::ImagePull;
use super::logs::LogLimits;
use super::names::Names;
use super::resources::Resources;
use super::restart::Restart;
use super::security::Security;
use super::shm::ShmSize;
use super::stop::Stop;
use super::update::{self, UpdateRules};
use super::{
    Spec, after, devices, files, health, interactive, labels, network, ports, process, runtime,
    schedule, secrets, sysctls, ulimits, volumes,
};
use crate::desired::{Record, RunState};
use crate::digest::{canonical, sha256};
use crate::id::ContainerName;
use crate::reference::ImageReference;

/// A deploy body that was found valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deploy {
    /// Name of the container.
    pub name: ContainerName,
    /// Spec of the container.
    pub spec: Spec,
    /// Whether the container should run.
    pub run: RunState,
    /// Priority, 0 to 100; higher starts first.
    pub priority: u8,
    /// The caller's own number for this spec.
    pub revision: Option<u64>,
    /// Fingerprint of the body as it came: `sha256:` and 64 hex digits.
    pub body_hash: String,
}

/// Reads a body at `path`. Faults are noted in the order of the fields.
pub(super) fn read(body: &Value, path: &str, faults: &mut Vec<FieldError>) -> Option<Deploy> {
    let mut top = Fields::of(body, path, faults)?;
    let read = read_members(&mut top);
    top.finish();
    Some(Deploy {
        body_hash: sha256(canonical(body).as_bytes()),
        ..read?
    })
}

/// Reads the members of a body; the fingerprint is left empty.
pub(super) fn read_members(top: &mut Fields<'_>) -> Option<Deploy> {
    let name = top.required("name", parsed::<ContainerName>);
    let image = top.required("image", parsed::<ImageReference>);
    let spec = read_spec(top, name.as_ref(), image.clone());
    let run = read_state(top);
    let priority = top
        .read("priority", |value| integer(value, 0..=100))
        .and_then(|priority| u8::try_from(priority).ok());
    let revision = top.read("revision", |value| integer(value, 0..=u64::MAX >> 1));
    network::check(&spec, top);
    secrets::check(&spec, top);
    health::check(&spec, top);
    schedule::check(&spec, top);
    update::check(&spec, top);
    interactive::check(&spec, top);
    image?;
    Some(Deploy {
        name: name?,
        spec,
        run: run.unwrap_or(RunState::Running),
        priority: priority.unwrap_or(50),
        revision,
        body_hash: String::new(),
    })
}

/// Reads the members of a spec, each as it is written here. Without an image there is a fault already,
/// and only further ones are looked for.
fn read_spec(
    top: &mut Fields<'_>,
    name: Option<&ContainerName>,
    image: Option<ImageReference>,
) -> Spec {
    Spec {
        image: image.unwrap_or_else(|| "none".parse().expect("it is a name")),
        ports: ports::read(top).unwrap_or_default(),
        resources: top.object("resources", Resources::read).unwrap_or_default(),
        environment: Some(process::read_environment(top).unwrap_or_default()),
        command: process::read_command(top),
        args: process::read_args(top),
        working_dir: process::read_working_dir(top),
        user: process::read_user(top),
        groups: process::read_groups(top).unwrap_or_default(),
        labels: labels::read(top).unwrap_or_default(),
        restart: top.object("restart", Restart::read).unwrap_or_default(),
        stop: top.object("stop", Stop::read).unwrap_or_default(),
        security: top.object("security", Security::read).unwrap_or_default(),
        ulimits: ulimits::read(top).unwrap_or_default(),
        shm_size: ShmSize::read(top).unwrap_or_default(),
        oom_score: process::read_oom_score(top),
        init: top.read("init", boolean).unwrap_or_default(),
        interactive: top.read("interactive", boolean).unwrap_or_default(),
        sysctls: sysctls::read(top).unwrap_or_default(),
        names: Names::read(top),
        logs: top.object("logs", LogLimits::read).unwrap_or_default(),
        network: network::read(top).unwrap_or_default(),
        volumes: volumes::read(top).unwrap_or_default(),
        devices: devices::read(top).unwrap_or_default(),
        runtime: runtime::read(top),
        image_pull: ImagePull::read(top).unwrap_or_default(),
        sealed_environment: BTreeMap::new(),
        files: files::read(top).unwrap_or_default(),
        secrets: secrets::read(top).unwrap_or_default(),
        after: after::read(top, name).unwrap_or_default(),
        health: health::read(top),
        update: top.object("update", UpdateRules::read).unwrap_or_default(),
        schedule: schedule::read(top),
        on_disconnect: top
            .object("on_disconnect", OnDisconnect::read)
            .unwrap_or_default(),
    }
}

fn read_state(top: &mut Fields<'_>) -> Option<RunState> {
    let states = [
        ("running", RunState::Running),
        ("stopped", RunState::Stopped),
    ];
    top.choice("state", &states)
}

/// The deploy body that asks for what `record` is, with every default written out. A value that is
/// sealed is `null`.
#[must_use]
pub fn of(record: &Record) -> Value {
    of_parts(
        &record.name,
        &record.spec,
        record.run,
        record.priority,
        record.revision,
    )
}

/// The body with every default written out.
pub(super) fn of_deploy(deploy: &Deploy) -> Value {
    of_parts(
        &deploy.name,
        &deploy.spec,
        deploy.run,
        deploy.priority,
        deploy.revision,
    )
}

fn of_parts(
    name: &ContainerName,
    spec: &Spec,
    run: RunState,
    priority: u8,
    revision: Option<u64>,
) -> Value {
    json!({
        "name": name,
        "image": spec.image,
        "exposed_ports": ports::to_json(&spec.ports),
        "resources": spec.resources.to_json(),
        "environment": environment(spec),
        "secrets": secrets::to_json(&spec.secrets),
        "files": files::to_json(&spec.files),
        "command": spec.command,
        "args": spec.args,
        "working_dir": spec.working_dir,
        "user": spec.user,
        "groups": spec.groups,
        "hostname": spec.names.hostname,
        "labels": spec.labels,
        "state": run,
        "priority": priority,
        "revision": revision,
        "after": after::to_json(&spec.after),
        "restart": spec.restart.to_json(),
        "schedule": schedule::to_json(spec.schedule.as_ref()),
        "stop": spec.stop.to_json(),
        "health": health::to_json(spec.health.as_ref()),
        "update": spec.update.to_json(),
        "security": spec.security.to_json(),
        "ulimits": ulimits::to_json(&spec.ulimits),
        "shm_size": spec.shm_size.0.to_string(),
        "oom_score": spec.oom_score,
        "init": spec.init,
        "interactive": spec.interactive,
        "sysctls": spec.sysctls,
        "dns": spec.names.dns.to_json(),
        "hosts": spec.names.hosts,
        "logs": spec.logs.to_json(),
        "network": spec.network.to_json(),
        "volumes": volumes::to_json(&spec.volumes),
        "devices": spec.devices,
        "runtime": runtime::to_json(spec.runtime.as_ref()),
        "image_pull": spec.image_pull,
        "on_disconnect": spec.on_disconnect.to_json(),
    })
}

fn environment(spec: &Spec) -> Map<String, Value> {
    let shown = |name: &str| {
        (
            name.to_owned(),
            json!(spec.environment.as_ref().and_then(|all| all.get(name))),
        )
    };
    spec.environment_names().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::record;

    #[test]
    fn a_record_is_shown_as_the_body_that_asks_for_it() {
        let mut body = json!({
            "name": "web",
            "image": "docker.io/library/nginx:latest",
            "exposed_ports": [{"container": 80, "protocol": "udp", "host": 8080, "host_ip": "127.0.0.1"}],
            "resources": {"cpu": "0.5", "memory": "512m", "pids": 10, "cpu_reservation": "0.25", "memory_reservation": "128m",
                "swap": "unlimited", "cpu_shares": 2048, "cpuset": "0-1,4", "io": {"weight": 200, "read_bps": {"/dev/sda": "1m"}, "write_bps": {},
                    "read_iops": {}, "write_iops": {"/dev/disk/by-id/x": 10}}},
            "environment": {"A": "1"},
            "secrets": [
                {"name": "db", "env": "PASSWORD", "on_change": "restart"},
                {"name": "tls", "path": "/run/tls/key", "mode": "0440", "on_change": "replace"},
            ],
            "files": [
                {"path": "/etc/a.conf", "content": "a\n", "mode": "0644", "user": "0:0"},
                {"path": "/etc/b", "content_base64": "/w==", "mode": "0400", "user": "1000:50"},
            ],
            "command": ["nginx"],
            "args": [],
            "working_dir": "/srv",
            "user": "1000:web",
            "groups": ["44", "audio"],
            "hostname": "web.example",
            "labels": {"team": "a"},
            "state": "stopped",
            "priority": 70,
            "revision": 7,
            "after": [
                {"name": "db", "condition": "ready", "timeout": "5m"},
                {"name": "init", "condition": "completed", "timeout": null},
            ],
            "restart": {"policy": "on-failure", "max_retries": 3},
            "stop": {"signal": "SIGQUIT", "timeout": "1m 30s"},
            "health": {"tcp": {"port": 80}, "interval": "5s", "timeout": "1s", "retries": 2, "start_period": "1m", "success_threshold": 3, "on_failure": "restart"},
            "security": {"read_only_rootfs": true, "capabilities": {"add": ["CAP_KILL"], "drop": ["ALL"]}, "no_new_privileges": false, "user_namespace": "host"},
            "ulimits": {"core": "0:0", "nofile": "1024:unlimited"},
            "shm_size": "1g",
            "oom_score": 500,
            "init": true,
            "sysctls": {"net.core.somaxconn": "1024"},
            "dns": {"servers": ["192.0.2.53"], "search": ["a.example"], "options": ["ndots:2"]},
            "hosts": {"db.internal": "10.0.0.5", "node": "host-gateway"},
            "logs": {"max_size": "1m", "max_files": 2},
            "network": {"groups": ["db", "web"], "allow": {
                "ingress": [{"group": "front", "ports": ["tcp/80", "udp/53"]}, {"cidr": "192.0.2.0/24"}],
                "egress": null,
            }},
            "volumes": [
                {"volume": "data", "path": "/data", "read_only": true, "shared": false},
                {"tmpfs": "64m", "path": "/tmp", "mode": "0700"},
                {"host_path": "/srv/x", "path": "/x", "read_only": false, "shared": true, "propagation": "rslave"},
            ],
            "devices": ["/dev/fuse", "/dev/sda:/dev/disk:r", "vendor.com/gpu=0"],
            "runtime": "crun",
            "image_pull": "always",
        });
        body["update"] = json!({"strategy": "start-first", "min_ready": "30s", "deadline": "2m", "rollback": true, "retries": 5});
        body["schedule"] = json!({"cron": "30 3 * * *", "timezone": "Europe/Berlin", "concurrency": "replace",
            "missed": "run-once", "missed_within": "6h", "history": 5});
        body["on_disconnect"] = json!({"stop_after": "10m"});
        body["interactive"] = false.into();
        let deploy = read(&body, "", &mut Vec::new()).unwrap();
        let record = Record {
            spec: deploy.spec,
            run: deploy.run,
            priority: deploy.priority,
            revision: deploy.revision,
            ..record("web", 1)
        };
        assert_eq!(of(&record), body);
    }

    #[test]
    fn every_default_is_written_out() {
        let body = json!({"name": "web", "image": "nginx"});
        let deploy = read(&body, "", &mut Vec::new()).unwrap();
        let shown = of(&Record {
            spec: deploy.spec,
            ..record("web", 1)
        });
        assert_eq!(
            shown["resources"],
            json!({"cpu": null, "memory": null, "pids": 4096, "cpu_reservation": null, "memory_reservation": null,
                "swap": null, "cpu_shares": null, "cpuset": null, "io": {"weight": null, "read_bps": {}, "write_bps": {}, "read_iops": {}, "write_iops": {}}})
        );
        assert_eq!(shown["ulimits"], json!({}));
        assert_eq!(shown["shm_size"], "64m");
        assert_eq!(shown["oom_score"], Value::Null);
        assert_eq!(
            shown["dns"],
            json!({"servers": [], "search": [], "options": []})
        );
        assert_eq!(shown["hostname"], Value::Null);
        assert_eq!(
            shown["restart"],
            json!({"policy": "always", "max_retries": null})
        );
        assert_eq!(shown["stop"], json!({"signal": null, "timeout": "10s"}));
        assert_eq!(shown["logs"], json!({"max_size": "10m", "max_files": 5}));
        assert_eq!(shown["network"], "bridge");
        assert_eq!(shown["volumes"], json!([]));
        assert_eq!(shown["devices"], json!([]));
        assert_eq!(shown["runtime"], "default");
        assert_eq!(shown["image_pull"], "if-not-present");
        assert_eq!(shown["command"], Value::Null);
        assert_eq!(shown["interactive"], false);
        assert_eq!(shown["on_disconnect"], json!({"stop_after": null}));
    }
}
