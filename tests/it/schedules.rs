//! Schedules in virtual time: clocks that are set, waits for others, and the agent's end at every moment.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use chas_node_agent::reconcile::Clock;
use serde_json::{Value, json};
use state::desired::job::Job;
use state::id::ContainerId;
use state::store::DiskCall;

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

/// Whether sled's files cannot be opened.
static CLOSED: AtomicBool = AtomicBool::new(false);

fn closed_for_a_while(call: DiskCall) -> std::io::Result<()> {
    match call == DiskCall::Open && CLOSED.load(Ordering::Relaxed) {
        true => Err(std::io::ErrorKind::PermissionDenied.into()),
        false => Ok(()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_while_the_state_was_unknown_is_not_run_again() {
    let (node, _) = node();
    let id = node.deploy(&job(&json!("*/5 * * * *")));
    pass(Duration::from_secs(5)).await;
    // The copies know of no run: the disk takes none since.
    node.store.copy().unwrap();
    pass(Duration::from_secs(300)).await;
    assert_eq!(node.runtime.launches(id), 1);
    let (runtime, directory) = node.end().await;
    runtime.end(id, 1);
    CLOSED.store(true, Ordering::Relaxed);
    let wall = SystemTime::UNIX_EPOCH + NOON + Duration::from_secs(310);
    let clock = Clock::start().with_wall(wall);
    let node = Node::start_with(runtime, directory, clock, closed_for_a_while);
    assert!(node.store.desired().is_unknown(), "an older copy is shown");
    assert!(node.store.desired().get(id).unwrap().is_between_runs());
    pass(Duration::from_secs(5)).await;
    assert!(node.handle.board().known(id).is_looked_at);
    CLOSED.store(false, Ordering::Relaxed);
    // The store before may hold its files for a moment.
    for _ in 0..100 {
        node.store.tend();
        if !node.store.desired().is_unknown() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!node.store.desired().is_unknown());
    node.handle.wake(id);
    pass(Duration::from_secs(10)).await;
    let (launches, job) = (node.runtime.launches(id), runs(&node, id));
    assert_eq!((launches, job.run), (1, None));
    assert_eq!(job.past.len(), 1);
}
