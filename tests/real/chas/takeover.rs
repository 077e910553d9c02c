//! A CHaS that was taken over, or somebody in its place: what it cannot do to a node.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use chas_node_agent::chas::signature;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

/// Clock ticks of a process so far, its own and the kernel's for it (proc(5)).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn fault(central: &Central, code: &str) {
    let told = |report: &Value| report["desired"]["fault"]["code"] == code;
    central.chas.report(code, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hostile_chas_asks_for_is_refused() {
    let central = Central::new().await;
    let all = central.sleepers(&["a", "b", "c", "d"]);
    let generation = central.chas.list(&all);
    central.applied(generation).await;
    let before = central.running().await;
    // Sets that cost much to read, each another one: the node's processor is not theirs.
    let keys: serde_json::Map<_, _> = (0..900)
        .map(|n| (format!("k{n}{}", "a".repeat(1000)), json!(1)))
        .collect();
    let entries: Vec<_> = (0..4)
        .map(|n| {
            let mut entry = keys.clone();
            entry.insert("name".to_owned(), json!(format!("burn{n}")));
            entry.insert("image".to_owned(), json!("a/b"));
            Value::Object(entry)
        })
        .collect();
    let pid = central.stand.agent.pid();
    let began = (ticks(pid), tokio::time::Instant::now());
    for _ in 0..8 {
        central.chas.list(&[all.clone(), entries.clone()].concat());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "a share need not be exact")]
    let share = (ticks(pid) - began.0) as f64 / 100.0 / began.1.elapsed().as_secs_f64();
    assert!(share < 0.5, "{share} of a processor");
    // Another epoch, whose sets change and end everything, and say that this is meant so.
    let generation = central.chas.list(&[]);
    central.chas.set("epoch", json!("theirs"));
    central.chas.set("remove", json!(["a", "b", "c", "d"]));
    central.chas.set("prune_confirm", json!(generation));
    let waits = |report: &Value| report["pending_prune"]["count"] == 4;
    central.chas.report("it waits", waits).await;
    assert_eq!(central.running().await, before);
    central.end().await;
}

fn pair() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

/// Public key as `openssl pkey -pubout` writes it.
fn pem(pair: &Ed25519KeyPair) -> String {
    let head = [48, 42, 48, 5, 6, 3, 43, 101, 112, 3, 33, 0];
    let der = [&head[..], pair.public_key().as_ref()].concat();
    let body = BASE64.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
}

fn signed(pair: &Ed25519KeyPair, set: &Value, node: &str, body: &[u8], tag: &str) -> String {
    let (epoch, generation) = (set["epoch"].as_str().unwrap(), set["generation"].as_u64());
    let message = signature::message(epoch, generation.unwrap(), node, body, tag);
    format!("ed25519={}", BASE64.encode(pair.sign(message.as_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_without_its_signature_changes_nothing() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let (own, other) = (pair(), pair());
    std::fs::write(keys.path(), pem(&own)).unwrap();
    let file = keys.path().display().to_string();
    let central = Central::with(&[("CHAS_SET_KEY_FILE", file.as_str())]).await;
    let node = central.stand.bed.namespace.clone();
    let (own, other) = (std::sync::Arc::new(own), std::sync::Arc::new(other));
    let sign = |key: &std::sync::Arc<Ed25519KeyPair>, node: &str| {
        let (key, node) = (std::sync::Arc::clone(key), node.to_owned());
        central
            .chas
            .sign(move |set, body, tag| signed(&key, set, &node, body, tag));
    };
    // Nobody signed it.
    central.chas.list(&central.sleepers(&["evil"]));
    fault(&central, "bad_signature").await;
    sign(&own, &node);
    central.list(&central.sleepers(&["good"])).await;
    let before = central.running().await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["good"]);
    for (key, signed_for) in [(&other, node.as_str()), (&own, "another-node")] {
        sign(key, signed_for);
        central.chas.list(&central.sleepers(&["evil"]));
        fault(&central, "bad_signature").await;
        assert_eq!(central.running().await, before, "{signed_for}");
        sign(&own, &node);
        central.list(&central.sleepers(&["good"])).await;
    }
    // The key is replaced while the agent runs.
    std::fs::write(keys.path(), pem(&own) + &pem(&other)).unwrap();
    sign(&other, &node);
    central.list(&central.sleepers(&["good", "new"])).await;
    let after = central.running().await;
    assert!(
        after["good"] == before["good"] && after.len() == 2,
        "{after:?}"
    );
    central.end().await;
}
