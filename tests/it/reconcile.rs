//! What is deployed comes to run and stays so, whatever fails on the way.

use std::net::Ipv4Addr;
use std::time::Duration;

use chas_node_agent::runtime::RuntimeError;
use proptest::prelude::*;
use serde_json::json;
use state::desired::RunState;
use state::reason::Reason;
use state::status::Status;

use crate::node::{Node, pass, web};

#[tokio::test(start_paused = true)]
async fn what_is_deployed_runs_and_what_is_removed_leaves_nothing() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(1)).await;
    assert_eq!(node.condition(id).status, Status::Pulling);
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    node.remove(id);
    pass(Duration::from_secs(5)).await;
    assert!(node.runtime.instances().is_empty());
    assert!(node.store.desired().get(id).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_change_replaces_the_old_generation_and_never_runs_both() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.deploy(&json!({"name": "web", "image": "nginx:2"}));
    pass(Duration::from_secs(1)).await;
    assert_eq!(
        node.runtime.running().len(),
        1,
        "the old one serves while the image is fetched"
    );
    pass(Duration::from_secs(5)).await;
    assert_eq!(
        node.runtime
            .running()
            .iter()
            .map(|name| name.generation)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        (node.runtime.launches(id), node.runtime.most_tasks_of_one()),
        (2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_starts_nothing_anew() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    let node = node.restart().await;
    pass(Duration::from_secs(60)).await;
    assert_eq!(
        (node.runtime.launches(id), node.condition(id).status),
        (1, Status::Running)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reboot_brings_everything_back() {
    let node = Node::start();
    node.deploy(&web());
    node.deploy(&json!({"name": "resting", "image": "nginx", "state": "stopped"}));
    pass(Duration::from_secs(5)).await;
    node.runtime.reboot();
    let node = node.restart().await;
    pass(Duration::from_secs(5)).await;
    assert!(node.settled());
}

#[tokio::test(start_paused = true)]
async fn the_address_that_the_network_answers_at_a_launch_is_stored() {
    let node = Node::start();
    let answered = Ipv4Addr::new(10, 9, 9, 9);
    node.runtime.answer_address(answered);
    let id = node.deploy(&web());
    let before = node.store.desired().get(id).cloned().unwrap();
    pass(Duration::from_secs(5)).await;
    assert_eq!(node.condition(id).status, Status::Running);
    let after = node.store.desired().get(id).cloned().unwrap();
    assert_eq!(after.assignment.address, Some(answered));
    assert_ne!(before.assignment.address, Some(answered));
    assert_eq!(after.spec_hash, before.spec_hash);
    assert_eq!(
        (after.seq, after.generation),
        (before.seq, before.generation)
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_restarted_at_once_and_then_ever_later() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_secs(5)).await;
    node.runtime.end(id, 1);
    pass(Duration::from_millis(300)).await;
    assert_eq!(node.runtime.launches(id), 2);
    for _ in 0..4 {
        node.runtime.end(id, 1);
        pass(Duration::from_secs(20)).await;
    }
    node.runtime.end(id, 1);
    pass(Duration::from_millis(500)).await;
    let condition = node.condition(id);
    assert_eq!(
        (condition.status, condition.reason),
        (Status::Restarting, Some(Reason::CrashLoop))
    );
    let wait = condition
        .next_attempt
        .unwrap()
        .since(node.handle.board().clock.now());
    assert!(wait > Duration::from_secs(7), "{wait:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failure_says_why_and_is_tried_again() {
    let node = Node::start();
    node.runtime
        .fail_next([RuntimeError::failed(Reason::ImageNotFound, "no such tag")]);
    let id = node.deploy(&web());
    pass(Duration::from_secs(3)).await;
    let condition = node.condition(id);
    assert_eq!(
        (
            condition.status,
            condition.reason,
            condition.message.as_deref()
        ),
        (
            Status::Failed,
            Some(Reason::ImageNotFound),
            Some("no such tag")
        )
    );
    pass(Duration::from_secs(15)).await;
    assert_eq!(node.condition(id).status, Status::Running);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_and_what_fails_is_counted() {
    let node = Node::start();
    node.runtime
        .fail_next([RuntimeError::failed(Reason::ImageNotFound, "no such tag")]);
    let id = node.deploy(&web());
    pass(Duration::from_secs(30)).await;
    node.runtime.end(id, 1);
    pass(Duration::from_secs(5)).await;
    let text = node.metrics.text();
    for line in [
        "chas_step_failures_total{step=\"pull\",reason=\"ImageNotFound\"} 1",
        "chas_step_duration_seconds_count{step=\"pull\"} 1",
        "chas_step_duration_seconds_count{step=\"launch\"} 2",
        "chas_restarts_total 1",
        // What containerd holds is taken in once, and then the digest is noted.
        "chas_store_write_duration_seconds_count 2",
    ] {
        assert!(
            text.lines().any(|shown| shown == line),
            "{line} is not in\n{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_does_not_wait_for_a_pull() {
    let node = Node::start();
    let id = node.deploy(&web());
    pass(Duration::from_millis(500)).await;
    node.remove(id);
    pass(Duration::from_millis(500)).await;
    assert!(node.store.desired().get(id).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_pull_is_begun_at_once() {
    let node = Node::start();
    node.deploy(&web());
    pass(Duration::from_secs(1)).await;
    let id = node.deploy(&json!({"name": "web", "image": "nginx:2"}));
    // A pull takes 2 s and a launch 0.1 s: one that began when the change came has ended by now.
    pass(Duration::from_millis(2400)).await;
    assert_eq!(
        (node.condition(id).status, node.runtime.launches(id)),
        (Status::Running, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_to_end_does_not_wait_for_a_pull() {
    let node = Node::start();
    node.deploy(&web());
    pass(Duration::from_millis(500)).await;
    let began = tokio::time::Instant::now();
    let node = node.restart().await;
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    pass(Duration::from_secs(5)).await;
    assert!(node.settled());
}

#[tokio::test(start_paused = true)]
async fn a_lost_image_is_fetched_again() {
    let node = Node::start();
    let id = node.deploy(&web());
    node.runtime
        .fail_next([RuntimeError::ImageLost("gone".to_owned())]);
    pass(Duration::from_secs(20)).await;
    assert_eq!(node.condition(id).status, Status::Running);
}

#[derive(Clone, Debug)]
enum Act {
    Deploy(u8, u8),
    Remove(u8),
    Stop(u8),
    End(u8),
    Fail,
    Lose,
    Reboot,
    Restart,
    Pass(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..4_u8, 0..3_u8).prop_map(|(name, image)| Act::Deploy(name, image)),
        1 => (0..4_u8).prop_map(Act::Remove),
        1 => (0..4_u8).prop_map(Act::Stop),
        2 => (0..4_u8).prop_map(Act::End),
        1 => Just(Act::Fail),
        1 => Just(Act::Lose),
        1 => Just(Act::Reboot),
        1 => Just(Act::Restart),
        3 => (0..5000_u16).prop_map(Act::Pass),
    ]
}

async fn history(acts: Vec<Act>) {
    let mut node = Node::start();
    for act in acts {
        let id = |name: u8| {
            node.store
                .desired()
                .named(&format!("c{name}").parse().unwrap())
                .map(|record| record.id)
        };
        match act {
            Act::Deploy(name, image) => drop(
                node.deploy(&json!({"name": format!("c{name}"), "image": format!("i{image}")})),
            ),
            Act::Remove(name) => id(name).into_iter().for_each(|id| node.remove(id)),
            Act::Stop(name) => {
                if let Some(id) = id(name) {
                    node.store
                        .change(id, |record| record.run = RunState::Stopped)
                        .unwrap();
                    node.handle.wake(id);
                }
            }
            Act::End(name) => id(name).into_iter().for_each(|id| node.runtime.end(id, 1)),
            Act::Fail => node
                .runtime
                .fail_next([RuntimeError::failed(Reason::CreateFailed, "refused")]),
            Act::Lose => node
                .runtime
                .fail_next([RuntimeError::Unavailable("away".to_owned())]),
            Act::Reboot => node.runtime.reboot(),
            Act::Restart => node = node.restart().await,
            Act::Pass(ms) => pass(Duration::from_millis(ms.into())).await,
        }
    }
    // Faults have stopped: the longest wait is five minutes and a half.
    for _ in 0..50 {
        if node.settled() {
            break;
        }
        pass(Duration::from_secs(20)).await;
    }
    assert!(
        node.settled(),
        "{:?} {:?}",
        node.runtime.instances(),
        node.store.desired()
    );
    assert!(node.runtime.most_tasks_of_one() <= 1);
    node.stop.cancel();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_converges_once_faults_stop(acts in proptest::collection::vec(act(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(history(acts));
    }
}
