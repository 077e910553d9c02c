//! Live parts of a spec: those that a container which exists takes on as it is. A change of any
//! other part makes a new instance.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Device, FileSpec, ImagePull, Names, Network, PortSpec, RuntimeClass, SecretUse, Security,
    ShmSize, Spec, Sysctls, Ulimits, VolumeMount,
};
use crate::reference::ImageReference;
use crate::seal::Sealed;

/// Parts of a spec that an instance keeps for its life, by which two specs are compared.
#[derive(Debug, PartialEq, Eq)]
struct FixedParts<'a> {
    image: &'a ImageReference,
    image_pull: &'a ImagePull,
    ports: &'a [PortSpec],
    environment: &'a Option<BTreeMap<String, String>>,
    command: &'a Option<Vec<String>>,
    args: &'a Option<Vec<String>>,
    working_dir: &'a Option<String>,
    user: &'a Option<String>,
    security: &'a Security,
    network: &'a Network,
    ulimits: &'a Ulimits,
    shm_size: &'a ShmSize,
    oom_score: &'a Option<u16>,
    init: &'a bool,
    interactive: &'a bool,
    names: &'a Names,
    groups: &'a BTreeSet<String>,
    sysctls: &'a Sysctls,
    runtime: &'a Option<RuntimeClass>,
    devices: &'a [Device],
    /// Of volumes, the size is live.
    volumes: Vec<VolumeMount>,
    sealed_environment: &'a BTreeMap<String, Sealed>,
    files: &'a [FileSpec],
    /// Of secrets that are replaced, the value is live.
    secrets: Vec<SecretUse>,
}

impl<'a> FixedParts<'a> {
    /// Parts of this spec. Every field is named here, so that a new one has to be sorted: into the
    /// fixed parts, or, with `_`, among those that are live. What the runtime does for a live one
    /// stands in `oci::resources` (limits), `volumes` (sizes), `logs::keep` (log files), or the record
    /// is asked for it each time (labels, restart, stop, after, health, schedule, on_disconnect).
    fn of(spec: &'a Spec) -> Self {
        let Spec {
            image,
            image_pull,
            ports,
            resources: _,
            environment,
            command,
            args,
            working_dir,
            user,
            labels: _,
            restart: _,
            stop: _,
            security,
            logs: _,
            network,
            ulimits,
            shm_size,
            oom_score,
            init,
            interactive,
            names,
            groups,
            sysctls,
            runtime,
            devices,
            volumes,
            sealed_environment,
            files,
            secrets,
            after: _,
            health: _,
            update: _,
            schedule: _,
            on_disconnect: _,
        } = spec;
        Self {
            image,
            image_pull,
            ports,
            environment,
            command,
            args,
            working_dir,
            user,
            security,
            network,
            ulimits,
            shm_size,
            oom_score,
            init,
            interactive,
            names,
            groups,
            sysctls,
            runtime,
            devices,
            volumes: volumes.iter().map(VolumeMount::fixed).collect(),
            sealed_environment,
            files,
            secrets: secrets.iter().map(SecretUse::fixed).collect(),
        }
    }
}

impl Spec {
    /// Whether a container that was made of `self` can carry `next` as it is: with the same process,
    /// files and network.
    #[must_use]
    pub fn can_become(&self, next: &Self) -> bool {
        FixedParts::of(self) == FixedParts::of(next)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(change: &Value) -> Spec {
        let mut body = json!({"name": "a", "image": "nginx"});
        if let (Some(body), Some(change)) = (body.as_object_mut(), change.as_object()) {
            body.extend(change.clone());
        }
        crate::spec::parse::deploy(&body).unwrap().spec
    }

    #[test]
    fn limits_labels_restart_stop_and_logs_are_live_and_nothing_else_is() {
        let plain = spec(&json!({}));
        for (change, is_live) in [
            (json!({"resources": {"cpu": "0.5"}}), true),
            (json!({"resources": {"memory": "64m"}}), true),
            (json!({"resources": {"pids": 7}}), true),
            (
                json!({"resources": {"cpuset": "0", "io": {"weight": 50, "write_bps": {"/dev/sda": "1m"}}}}),
                true,
            ),
            (json!({"labels": {"a": "b"}}), true),
            (json!({"restart": {"policy": "never"}}), true),
            (json!({"stop": {"timeout": "1s"}}), true),
            (json!({"update": {"strategy": "start-first"}}), true),
            (json!({"logs": {"max_files": 2}}), true),
            (json!({"after": [{"name": "b"}]}), true),
            (json!({"health": {"tcp": {"port": 80}}}), true),
            (json!({"health": "none"}), true),
            (json!({"on_disconnect": {"stop_after": "1m"}}), true),
            (
                json!({"restart": {"policy": "never"}, "schedule": "@daily"}),
                true,
            ),
            (json!({"image": "redis"}), false),
            (json!({"image_pull": "never"}), false),
            (json!({"exposed_ports": [{"container": 80}]}), false),
            (json!({"environment": {"A": "1"}}), false),
            (json!({"command": ["a"]}), false),
            (json!({"args": ["a"]}), false),
            (json!({"working_dir": "/a"}), false),
            (json!({"user": "1"}), false),
            (json!({"security": {"read_only_rootfs": true}}), false),
            (json!({"network": {"groups": ["a"]}}), false),
            (json!({"ulimits": {"nofile": "99"}}), false),
            (json!({"shm_size": "1m"}), false),
            (json!({"hostname": "b"}), false),
            (json!({"hosts": {"b": "10.0.0.5"}}), false),
            (json!({"groups": ["44"]}), false),
            (json!({"sysctls": {"kernel.sem": "1"}}), false),
            (json!({"oom_score": 7}), false),
            (json!({"init": true}), false),
            (
                json!({"interactive": true, "restart": {"policy": "never"}}),
                false,
            ),
            (json!({"network": "none"}), false),
            (json!({"devices": ["/dev/fuse"]}), false),
            (json!({"runtime": "crun"}), false),
            (json!({"files": [{"path": "/a", "content": "x"}]}), false),
            (json!({"secrets": [{"name": "a", "path": "/a/b"}]}), false),
            (json!({"volumes": [{"tmpfs": "1m", "path": "/tmp"}]}), false),
            (
                json!({"volumes": [{"volume": "a", "path": "/a", "size": "1g"}]}),
                false,
            ),
            (
                json!({"labels": {"a": "b"}, "environment": {"A": "1"}}),
                false,
            ),
        ] {
            let changed = spec(&change);
            assert_ne!(plain, changed, "{change}");
            assert_eq!(plain.can_become(&changed), is_live, "{change}");
            assert_eq!(changed.can_become(&plain), is_live, "{change}");
        }
    }

    #[test]
    fn of_volumes_the_size_alone_is_live() {
        let mounted = |volume: &Value| spec(&json!({"volumes": [volume]}));
        let plain = mounted(&json!({"volume": "a", "path": "/a"}));
        let sized = mounted(&json!({"volume": "a", "path": "/a", "size": "1g"}));
        let moved = mounted(&json!({"volume": "a", "path": "/b", "size": "1g"}));
        assert_ne!(plain, sized);
        assert!(plain.can_become(&sized) && sized.can_become(&plain));
        assert!(!sized.can_become(&moved));
    }
}
