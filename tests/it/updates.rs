//! Updates beside what serves, on the in-memory runtime.

use std::time::Duration;

use serde_json::{Value, json};
use state::desired::Record;
use state::desired::update::UpdateStage;
use state::id::ContainerId;
use state::reason::Reason;
use state::status::Status;

use crate::memory_runtime::Call;
use crate::node::{Node, pass};

/// Next generation of a container that is updated beside itself.
fn next(version: u64, more: &Value) -> Value {
    let mut update = json!({"strategy": "start-first", "min_ready": "1s"});
    update
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    json!({"name": "web", "image": "nginx:1", "environment": {"V": version.to_string()},
        "exposed_ports": [{"container": 80}], "stop": {"timeout": "20s"}, "update": update})
}

fn record(node: &Node, id: ContainerId) -> Record {
    Record::clone(node.store.desired().get(id).unwrap())
}

fn running(node: &Node) -> Vec<u64> {
    let running = node.runtime.running();
    running.iter().map(|name| name.generation).collect()
}

#[tokio::test(start_paused = true)]
async fn a_host_port_that_is_taken_ends_no_trial_and_what_serves_keeps_its_own() {
    let node = Node::start();
    let id = node.deploy(&next(1, &json!({})));
    pass(Duration::from_secs(10)).await;
    node.runtime.inner().taken_port = Some("port 9090 is taken".to_owned());
    node.deploy(&next(2, &json!({})));
    pass(Duration::from_secs(20)).await;
    assert_eq!(running(&node), [1, 2]);
    let trying = record(&node, id);
    assert_eq!(trying.update.as_ref().unwrap().stage, UpdateStage::Trying);
    assert_eq!(trying.serving().generation, 1);
    let condition = node.condition(id);
    assert_eq!(
        (condition.status, condition.reason),
        (Status::Running, Some(Reason::PortTaken))
    );
    node.runtime.inner().taken_port = None;
    pass(Duration::from_mins(5)).await;
    assert_eq!(running(&node), [2]);
    assert!(record(&node, id).update.is_none());
    assert_eq!(node.condition(id).reason, None);
}

#[tokio::test(start_paused = true)]
async fn a_host_port_that_stays_taken_leads_back() {
    let node = Node::start();
    let id = node.deploy(&next(1, &json!({})));
    pass(Duration::from_secs(10)).await;
    node.runtime.inner().taken_port = Some("port 9090 is taken".to_owned());
    node.deploy(&next(2, &json!({"rollback": true, "deadline": "30s"})));
    pass(Duration::from_mins(2)).await;
    assert_eq!(running(&node), [1]);
    let back = record(&node, id);
    assert_eq!(back.rolled_back.unwrap().reason, Reason::PortTaken);
    assert!(back.update.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_counted_holds_the_generation_before_for_its_grace_and_no_longer() {
    let node = Node::start();
    let id = node.deploy(&next(1, &json!({})));
    pass(Duration::from_secs(10)).await;
    node.runtime.inner().is_uncountable = true;
    node.deploy(&next(2, &json!({})));
    pass(Duration::from_secs(15)).await;
    assert_eq!(running(&node), [1, 2]);
    assert_eq!(record(&node, id).serving().generation, 2);
    pass(Duration::from_secs(20)).await;
    assert_eq!(running(&node), [2]);
}

/// A generation that counts, and the one before, which takes no notice of its stop signal.
async fn ending(node: &Node) -> ContainerId {
    let id = node.deploy(&next(1, &json!({})));
    pass(Duration::from_secs(10)).await;
    node.runtime.inner().is_deaf = true;
    node.deploy(&next(2, &json!({})));
    pass(Duration::from_secs(8)).await;
    assert_eq!(running(node), [1, 2]);
    assert_eq!(node.runtime.began(Call::Signal).len(), 1);
    id
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_its_time_to_end_holds_up_no_start_of_what_serves() {
    let node = Node::start();
    let id = ending(&node).await;
    let instance = record(&node, id).instance();
    node.runtime.exit(instance, 1, false, Duration::ZERO);
    pass(Duration::from_secs(2)).await;
    assert_eq!(running(&node), [1, 2], "it is started again");
    assert_eq!(node.runtime.launches(id), 3);
    pass(Duration::from_secs(20)).await;
    assert_eq!(running(&node), [2], "its grace is over");
    assert!(record(&node, id).update.is_none());
    assert_eq!(node.runtime.began(Call::Signal).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_generation_that_waits_for_others_is_not_started_for_the_next_one() {
    let node = Node::start();
    let body = |version| {
        let mut body = next(version, &json!({}));
        body["after"] = json!([{"name": "db", "condition": "started"}]);
        body
    };
    let id = node.deploy(&body(1));
    pass(Duration::from_secs(10)).await;
    node.deploy(&body(2));
    pass(Duration::from_secs(40)).await;
    assert_eq!(node.runtime.launches(id), 0);
    node.deploy(&json!({"name": "db", "image": "db"}));
    pass(Duration::from_mins(1)).await;
    let running = node.runtime.running();
    assert!(
        running
            .iter()
            .any(|name| name.id == id && name.generation == 2)
    );
    // One that has run in this boot waits no more, whoever is gone meanwhile.
    let db = node
        .store
        .desired()
        .named(&"db".parse().unwrap())
        .unwrap()
        .id;
    node.remove(db);
    pass(Duration::from_secs(10)).await;
    node.deploy(&body(3));
    pass(Duration::from_secs(5)).await;
    node.runtime.end(id, 1);
    pass(Duration::from_secs(20)).await;
    let running = node.runtime.running();
    assert!(
        running
            .iter()
            .any(|name| name.id == id && name.generation == 2)
    );
}
