//! Bodies that nobody sends by mistake, each with the refusal that it gets; and what they leave: nothing.

use serde_json::Value;
use state::policy;

use super::*;
use crate::api::tests::denied::asked;

mod invalid;
mod malformed;

const DEPLOY: (&str, &str) = ("POST", "/containers/deploy?dry_run=true");
const SET: (&str, &str) = ("PUT", "/desired-state?dry_run=true");

/// A body with more members than it needs.
fn with(more: &Value) -> Vec<u8> {
    let mut body = json!({"name": "x", "image": "a.example/x:1", "resources": {"memory": "64m"}});
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

fn set(bodies: &Value) -> Vec<u8> {
    json!({"containers": bodies}).to_string().into_bytes()
}

/// A hostile body: what it is, how it is sent, the status and code of its refusal, and the fields named.
type Row = (
    &'static str,
    (&'static str, &'static str),
    Vec<u8>,
    u16,
    &'static str,
    &'static [&'static str],
);

fn denied() -> Vec<Row> {
    let name = |name: &str| with(&json!({"name": name}));
    let port = |port: &Value| with(&json!({"exposed_ports": [port]}));
    vec![
        ("localhost", DEPLOY, name("localhost"), 403, "PolicyDenied", &["name"]),
        ("a name of the loopback", DEPLOY, name("ip6-loopback"), 403, "PolicyDenied", &["name"]),
        ("the cloud's metadata", DEPLOY, name("metadata"), 403, "PolicyDenied", &["name"]),
        ("the node's own name", DEPLOY, name("worker-1"), 403, "PolicyDenied", &["name"]),
        ("an open file of the runtime", DEPLOY, with(&json!({"working_dir": "/proc/self/fd/8"})), 403, "PolicyDenied", &["working_dir"]),
        ("the same, hidden", DEPLOY, with(&json!({"working_dir": "/srv/..//./proc/1/root"})), 403, "PolicyDenied", &["working_dir"]),
        ("setuid", DEPLOY, with(&json!({"security": {"no_new_privileges": false}})), 403, "PolicyDenied", &["security.no_new_privileges"]),
        ("the node's SSH", DEPLOY, port(&json!({"container": 80, "host": 22})), 403, "PolicyDenied", &["exposed_ports[0].host"]),
        ("another registry", DEPLOY, with(&json!({"image": "evil.example/x:1"})), 403, "PolicyDenied", &["image"]),
        ("a registry that begins alike", DEPLOY, with(&json!({"image": "a.example.evil/x:1"})), 403, "PolicyDenied", &["image"]),
        ("the same on another port", DEPLOY, with(&json!({"image": "a.example:5000/x:1"})), 403, "PolicyDenied", &["image"]),
        ("no limit", DEPLOY, with(&json!({"resources": {}})), 403, "PolicyDenied", &["resources.memory"]),
        ("all of it at once", DEPLOY, with(&json!({"name": "localhost", "image": "x", "resources": {}, "working_dir": "/dev"})), 403, "PolicyDenied", &["name", "working_dir", "image", "resources.memory"]),
        ("a set with one denied", SET, set(&json!([{"name": "host", "image": "a.example/x", "resources": {"memory": "1g"}}])), 403, "PolicyDenied", &["host.name"]),
        ("more than the node takes", SET, set(&(0..3).map(|n| json!({"name": format!("c{n}"), "image": "a.example/x", "resources": {"memory": "1g"}})).collect()), 507, "NodeFull", &[]),
    ]
}

#[tokio::test]
async fn every_hostile_body_gets_its_own_refusal_and_leaves_nothing() {
    let agent = agent().await;
    let file = json!({"rules": [
        {"name": "ports", "host_ports": ["auto", "1024-65535"]},
        {"name": "images", "images": ["a.example/*"]},
        {"name": "memory", "memory": "2g"},
    ]});
    let mut policy = policy::read(&file).unwrap();
    policy.reserved.node = vec!["worker-1".to_owned()];
    agent.node.writer.store().set_policy(policy);
    let rows: Vec<_> = [malformed::not_json(), invalid::invalid(), denied()]
        .into_iter()
        .flatten()
        .collect();
    assert!(rows.len() >= 60, "{}", rows.len());
    let before = agent.node.writer.store().desired().seq();
    let mut wrong = Vec::new();
    for (what, how, body, status, code, fields) in rows {
        let (is, problem) = asked(&agent.node, how, body).await;
        let named: Vec<_> = problem["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|error| error["field"].as_str().unwrap_or_default().to_owned())
            .collect();
        let is_named = fields
            .iter()
            .all(|field| named.iter().any(|name| name == field));
        if is != status || problem["code"].as_str().unwrap_or_default() != code || !is_named {
            let told: String = problem.to_string().chars().take(300).collect();
            wrong.push(format!("{what}: {is}, {named:?}: {told}"));
        }
        // The caller's own text comes back bounded.
        assert!(
            problem["detail"]
                .as_str()
                .is_none_or(|detail| detail.len() < 256 << 10),
            "{what}"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(agent.node.containers().is_empty());
    assert_eq!(agent.node.writer.store().desired().seq(), before);
}
