//! Order of starts on a node whose records may come from copies of different age.

use std::time::Duration;

use serde_json::{Value, json};
use state::id::ContainerId;

use crate::node::{Node, pass};

fn body(name: &str, after: &[&str]) -> Value {
    let after: Vec<_> = after.iter().map(|name| json!({"name": name})).collect();
    json!({"name": name, "image": "nginx", "after": after})
}

/// Has a record wait for these, as only a copy of another age can.
fn force(node: &Node, id: ContainerId, after: &[&str]) {
    let spec = state::spec::parse::deploy(&body("x", after)).unwrap().spec;
    let forced = |record: &mut state::desired::Record| record.spec.after = spec.after;
    node.store.change(id, forced).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_circle_that_comes_in_from_copies_of_records_hangs_no_boot() {
    let node = Node::start();
    let absent = node.deploy(&json!({"name": "db", "image": "nginx"}));
    let ids = ["a", "b", "c"].map(|name| node.deploy(&body(name, &[])));
    let last = node.deploy(&body("last", &["a"]));
    pass(Duration::from_secs(10)).await;
    assert_eq!(node.runtime.running().len(), 5);
    force(&node, ids[0], &["b"]);
    force(&node, ids[1], &["c", "db"]);
    force(&node, ids[2], &["a"]);
    node.store
        .change(absent, |record| {
            record.run = state::desired::RunState::Stopped;
        })
        .unwrap();
    pass(Duration::from_secs(40)).await;
    // No order is among the three, and whoever is on no circle is waited for.
    let (runtime, directory) = node.end().await;
    runtime.reboot();
    let clock = chas_node_agent::reconcile::Clock::at(Duration::from_secs(5), 7);
    let node = Node::start_at(runtime, directory, clock);
    pass(Duration::from_secs(10)).await;
    let runs = |id: ContainerId| node.runtime.running().iter().any(|name| name.id == id);
    assert_eq!(ids.map(runs), [true, false, true]);
    assert!(runs(last), "it only waits for one of them");
    let waiting = node.condition(ids[1]);
    assert!(
        waiting.message.as_ref().unwrap().contains("waits for db"),
        "{waiting:?}"
    );
    node.store
        .change(absent, |record| {
            record.run = state::desired::RunState::Running;
        })
        .unwrap();
    node.handle.wake(absent);
    pass(Duration::from_secs(10)).await;
    assert!(runs(ids[1]));
}
