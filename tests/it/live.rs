//! Changes that a container takes on as it is: once, by the same process, whatever fails in between.

use std::time::Duration;

use serde_json::{Value, json};
use state::id::ContainerId;
use state::policy;
use state::reason::Reason;
use state::status::Status;

use crate::memory_runtime::Call;
use crate::node::{Node, pass};
use crate::runtime::RuntimeError;

fn web(memory: &str) -> Value {
    json!({"name": "web", "image": "nginx", "resources": {"memory": memory}})
}

/// Generation that runs, and number of starts.
fn running(node: &Node, id: ContainerId) -> (Option<u64>, u32) {
    let seen = node.handle.board().known(id).seen;
    (seen.running_generation(), node.runtime.launches(id))
}

#[tokio::test(start_paused = true)]
async fn a_live_change_is_one_step_and_ends_nothing() {
    let node = Node::start();
    let id = node.deploy(&web("64m"));
    pass(Duration::from_secs(5)).await;
    node.deploy(&web("65m"));
    node.deploy(&web("66m"));
    pass(Duration::from_secs(5)).await;
    assert_eq!(running(&node, id), (Some(3), 1));
    let adjusted = node.runtime.began(Call::Adjust).len();
    assert!((1..=2).contains(&adjusted), "{adjusted}");
    pass(Duration::from_secs(90)).await;
    let node = node.restart().await;
    pass(Duration::from_secs(90)).await;
    assert_eq!(node.runtime.began(Call::Adjust).len(), adjusted);
    assert_eq!(running(&node, id), (Some(3), 1));
    assert!(node.settled());
}

#[tokio::test(start_paused = true)]
async fn a_refused_limit_is_shown_and_tried_again_and_the_container_runs_on() {
    let node = Node::start();
    let id = node.deploy(&web("64m"));
    pass(Duration::from_secs(5)).await;
    let refused = || RuntimeError::failed(Reason::LimitRefused, "too much is in use");
    let faults = std::iter::repeat_with(refused).take(3);
    node.runtime.fail_next_of(Call::Adjust, faults);
    node.deploy(&web("8m"));
    pass(Duration::from_millis(300)).await;
    let shown = node.condition(id);
    assert_eq!(
        (shown.status, shown.reason, shown.next_attempt.is_some()),
        (Status::Running, Some(Reason::LimitRefused), true)
    );
    assert_eq!(running(&node, id), (Some(1), 1));
    pass(Duration::from_secs(20)).await;
    let shown = node.condition(id);
    assert_eq!((shown.status, shown.reason), (Status::Running, None));
    assert_eq!(running(&node, id), (Some(2), 1));
    let began = node.runtime.began(Call::Adjust);
    let waits: Vec<_> = began.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let least = [500, 1000, 2000].map(Duration::from_millis);
    let grow = waits.iter().zip(least).all(|(wait, least)| *wait >= least);
    assert!(waits.len() == 3 && grow, "{waits:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_set_keeps_no_container_from_ending_or_starting() {
    let node = Node::start();
    let id = node.deploy(&web("64m"));
    pass(Duration::from_secs(5)).await;
    let refused = || RuntimeError::failed(Reason::LimitRefused, "too much is in use");
    let faults = std::iter::repeat_with(refused).take(8);
    node.runtime.fail_next_of(Call::Adjust, faults);
    node.deploy(&web("8m"));
    pass(Duration::from_secs(5)).await;
    let mut stopped = web("8m");
    stopped["state"] = json!("stopped");
    node.deploy(&stopped);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.condition(id).status, Status::Stopped);
    let tried = node.runtime.began(Call::Adjust).len();
    pass(Duration::from_secs(90)).await;
    assert_eq!(node.condition(id).status, Status::Stopped);
    assert_eq!(node.runtime.began(Call::Adjust).len(), tried, "it rests");
    node.deploy(&web("9m"));
    pass(Duration::from_mins(10)).await;
    assert_eq!(running(&node, id), (Some(3), 2));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_the_policy_denies_by_now_is_not_given_to_what_runs() {
    let node = Node::start();
    let id = node.deploy(&web("64m"));
    pass(Duration::from_secs(5)).await;
    node.stop.cancel();
    pass(Duration::from_secs(1)).await;
    node.deploy(&web("128m"));
    let node = node.restart().await;
    let rule = json!({"rules": [{"name": "small", "memory": "100m"}]});
    node.store.set_policy(policy::read(&rule).unwrap());
    pass(Duration::from_secs(5)).await;
    let shown = node.condition(id);
    assert_eq!(
        (shown.status, shown.reason),
        (Status::Running, Some(Reason::PolicyDenied))
    );
    assert_eq!(running(&node, id), (Some(1), 1));
    assert_eq!(node.runtime.began(Call::Adjust), []);
    node.store.set_policy(policy::Policy::default());
    node.handle.start_now(id);
    pass(Duration::from_mins(5)).await;
    assert_eq!(running(&node, id), (Some(2), 1));
}
