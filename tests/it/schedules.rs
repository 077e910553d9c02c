//! Schedules in virtual time: clocks that are set, waits for others, and the agent's end at every moment.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use chas_node_agent::reconcile::Clock;
use serde_json::{Value, json};
use state::desired::job::Job;
use state::id::ContainerId;

use crate::node::{Node, pass};

/// 12:00:00 on 1 March 2026, UTC.
const NOON: Duration = Duration::from_secs(1_772_366_400);
const HOUR: i64 = 3600;

/// A node at noon, and the seconds by which its wall clock is set on.
fn node() -> (Node, &'static AtomicI64) {
    let set: &'static AtomicI64 = Box::leak(Box::new(AtomicI64::new(0)));
    let clock = Clock::start().with_wall_set(SystemTime::UNIX_EPOCH + NOON, set);
    let node = Node::start_at(
        std::sync::Arc::default(),
        tempfile::tempdir().unwrap(),
        clock,
    );
    node.follow_schedules();
    (node, set)
}

fn job(schedule: &Value) -> Value {
    json!({"name": "job", "image": "x", "restart": {"policy": "never"}, "schedule": schedule})
}

fn runs(node: &Node, id: ContainerId) -> Job {
    let desired = node.store.desired();
    desired.get(id).unwrap().job.clone().unwrap()
}

/// Lets a time pass in which each run ends well after a second.
async fn working(node: &Node, id: ContainerId, time: Duration) -> u32 {
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        pass(Duration::from_secs(1)).await;
        node.runtime.end(id, 0);
    }
    node.runtime.launches(id)
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_runs_no_time_twice_and_tells_those_that_it_passed_over() {
    let (node, set) = node();
    let id = node.deploy(&job(&json!("*/5 * * * *")));
    assert_eq!(working(&node, id, Duration::from_mins(6)).await, 1);
    // Back to 11:56: nothing until the clock is past 12:05 again.
    set.store(-600, Ordering::Relaxed);
    assert_eq!(working(&node, id, Duration::from_mins(13)).await, 1);
    assert_eq!(working(&node, id, Duration::from_mins(2)).await, 2);
    assert_eq!((runs(&node, id).missed, runs(&node, id).past.len()), (0, 2));
    // On by three hours: what it passes over is missed, once, and the next time comes as ever.
    set.store(2 * HOUR, Ordering::Relaxed);
    let before = node.runtime.launches(id);
    assert_eq!(working(&node, id, Duration::from_mins(5)).await, before + 1);
    assert_eq!(runs(&node, id).missed, 1);
    // Years ahead and back again: it was wrong, and times count from the present on.
    set.store(24 * 400 * HOUR, Ordering::Relaxed);
    working(&node, id, Duration::from_mins(1)).await;
    set.store(2 * HOUR, Ordering::Relaxed);
    let before = node.runtime.launches(id);
    assert_eq!(
        working(&node, id, Duration::from_mins(10)).await,
        before + 2
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_run_in_a_boot_waits_for_others_and_each_time_has_one() {
    let (node, _) = node();
    let mut body = job(&json!({"cron": "*/5 * * * *", "history": 3}));
    body["after"] = json!([{"name": "db"}]);
    let id = node.deploy(&body);
    assert_eq!(working(&node, id, Duration::from_mins(12)).await, 0);
    assert_eq!(runs(&node, id).skipped, 1, "the first one waits yet");
    let db = node.deploy(&json!({"name": "db", "image": "x"}));
    assert_eq!(working(&node, id, Duration::from_secs(10)).await, 1);
    node.remove(db);
    assert_eq!(
        working(&node, id, Duration::from_mins(5)).await,
        2,
        "and none after it"
    );
    assert_eq!(runs(&node, id).past.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_change_during_a_run_begins_that_run_anew_and_one_between_runs_none() {
    let (node, _) = node();
    let body = |version: u32| {
        let mut body = job(&json!("*/5 * * * *"));
        body["environment"] = json!({"V": version.to_string()});
        body["update"] = json!({"rollback": true, "min_ready": "5s"});
        body
    };
    let id = node.deploy(&body(1));
    pass(Duration::from_secs(305)).await;
    assert_eq!(node.runtime.launches(id), 1);
    node.deploy(&body(2));
    pass(Duration::from_secs(3)).await;
    assert_eq!(node.runtime.launches(id), 2, "from its new body");
    node.runtime.end(id, 0);
    pass(Duration::from_secs(30)).await;
    let record = state::desired::Record::clone(node.store.desired().get(id).unwrap());
    assert!(record.update.is_none() && record.rolled_back.is_none());
    assert_eq!(runs(&node, id).past.len(), 1);
    node.deploy(&body(3));
    pass(Duration::from_secs(30)).await;
    assert_eq!(node.runtime.launches(id), 2);
    assert_eq!(working(&node, id, Duration::from_mins(5)).await, 3);
    assert_eq!(node.runtime.most_tasks_of_one(), 1);
}
