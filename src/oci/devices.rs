//! Devices in the OCI spec: nodes, mounts, variables, hooks and groups that a container is given with
//! them.

use serde_json::{Value, json};

use crate::devices::{DeviceGrant, GrantedNode};

/// Adds what a container is given. One with ids of its own can make no node: it sees the host's.
pub(super) fn give(spec: &mut Value, grant: &DeviceGrant, has_own_ids: bool) {
    for node in &grant.nodes {
        add(spec, "/linux/resources/devices", rule(node));
        if has_own_ids {
            add(spec, "/mounts", bind(node));
        } else {
            add(spec, "/linux/devices", entry(node));
        }
    }
    for mount in &grant.mounts {
        let mount = json!({"destination": mount.destination, "type": mount.kind, "source": mount.source,
            "options": mount.options});
        add(spec, "/mounts", mount);
    }
    for variable in &grant.environment {
        let name = variable.split_once('=').map(|(name, _)| format!("{name}="));
        if let Some(all) = spec["process"]["env"].as_array_mut() {
            let is_same = |other: &Value| {
                let (other, name) = (other.as_str(), name.as_deref());
                other
                    .zip(name)
                    .is_some_and(|(other, name)| other.starts_with(name))
            };
            all.retain(|other| !is_same(other));
        }
        add(spec, "/process/env", json!(variable));
    }
    for gid in &grant.groups {
        add(spec, "/process/user/additionalGids", json!(gid));
    }
    for hook in &grant.hooks {
        let mut entry = json!({"path": hook.path, "args": hook.args, "env": hook.environment});
        if let Some(timeout) = hook.timeout_s {
            entry["timeout"] = json!(timeout);
        }
        add(spec, &format!("/hooks/{}", hook.when), entry);
    }
}

/// Puts an entry at the end of the list at a place, which is made where it is not there.
fn add(spec: &mut Value, place: &str, entry: Value) {
    let mut list = spec;
    for part in place.split('/').skip(1) {
        list = &mut list[part];
    }
    match list.as_array_mut() {
        Some(list) => list.push(entry),
        None => *list = json!([entry]),
    }
}

fn rule(node: &GrantedNode) -> Value {
    let (major, minor) = node.number;
    json!({"allow": true, "type": node.kind.as_str(), "major": major, "minor": minor, "access": node.access})
}

fn entry(node: &GrantedNode) -> Value {
    let ((major, minor), (uid, gid)) = (node.number, node.owner);
    json!({"path": node.container, "type": node.kind.as_str(), "major": major, "minor": minor,
        "fileMode": node.mode, "uid": uid, "gid": gid})
}

fn bind(node: &GrantedNode) -> Value {
    let access = if node.access.contains('w') {
        "rw"
    } else {
        "ro"
    };
    json!({"destination": node.container, "type": "bind", "source": node.host,
        "options": ["bind", access, "nosuid", "noexec"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{GrantedHook, NodeKind};

    #[test]
    fn a_device_is_a_node_and_a_rule_or_a_bind_mount_and_a_rule() {
        let grant = DeviceGrant {
            nodes: vec![GrantedNode {
                host: "/dev/fuse".to_owned(),
                container: "/dev/f".to_owned(),
                kind: NodeKind::Char,
                number: (10, 229),
                mode: 0o666,
                owner: (0, 44),
                access: "rw".to_owned(),
            }],
            environment: vec!["A=new".to_owned()],
            groups: vec![44],
            hooks: vec![GrantedHook {
                when: "poststop".to_owned(),
                path: "/h".to_owned(),
                args: Vec::new(),
                environment: Vec::new(),
                timeout_s: None,
            }],
            ..DeviceGrant::NONE
        };
        let rules = json!([{"allow": false}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]);
        for has_own_ids in [false, true] {
            let mut spec = json!({"process": {"env": ["A=old", "AB=1"], "user": {}}, "mounts": [],
                "linux": {"resources": {"devices": [{"allow": false}]}}});
            give(&mut spec, &grant, has_own_ids);
            assert_eq!(spec["linux"]["resources"]["devices"], rules);
            assert_eq!(spec["process"]["env"], json!(["AB=1", "A=new"]));
            assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
            assert_eq!(spec["hooks"]["poststop"][0]["path"], "/h");
            assert_eq!(spec["linux"]["devices"].is_array(), !has_own_ids);
            assert_eq!(spec["mounts"] == json!([]), !has_own_ids);
        }
    }
}
