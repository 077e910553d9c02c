//! What runs is not stopped by a rule that came later; it is not started again either, until the rule goes.

use std::time::Duration;

use serde_json::json;
use state::desired::RunState;
use state::policy::{self, Policy};
use state::reason::Reason;
use state::status::Status;

use crate::node::{Node, pass, web};

fn other_images() -> Policy {
    let file = json!({"rules": [{"name": "other-images", "images": ["redis"]}]});
    policy::read(&file).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_rule_holds_for_the_next_start_and_for_no_running_container() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.store.set_policy(other_images());
    pass(Duration::from_secs(120)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    assert_eq!(node.runtime.launches(id), 1);

    node.runtime.reboot();
    let node = node.restart().await;
    node.store.set_policy(other_images());
    node.handle.start_now(id);
    pass(Duration::from_secs(60)).await;
    let (condition, launches) = (node.condition(id), node.runtime.launches(id));
    assert_eq!(
        condition.reason,
        Some(Reason::PolicyDenied),
        "{condition:?}"
    );
    assert!(condition.message.unwrap().contains("\"other-images\""));
    assert!(node.runtime.running().is_empty());
    node.store.set_policy(Policy::default());
    node.handle.start_now(id);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    assert_eq!(node.runtime.launches(id), launches + 1);
}

#[tokio::test(start_paused = true)]
async fn a_denied_container_is_stopped_and_removed_as_any_other() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.store.set_policy(other_images());
    node.store
        .change(id, |record| record.run = RunState::Stopped)
        .unwrap();
    node.handle.wake(id);
    pass(Duration::from_secs(5)).await;
    assert!(node.runtime.running().is_empty());
    node.remove(id);
    pass(Duration::from_secs(5)).await;
    assert!(node.store.desired().get(id).is_none());
}
