//! Ends of an update, each by its own way.

use super::*;

/// A node on which the first generation runs, and the next one is asked for.
fn updating(strategy: &str) -> Node {
    let mut node = Node::new(1);
    node.turn();
    node.deploy(deploy(1, strategy, "running"));
    node
}

fn fails(node: &mut Node, reason: crate::reason::Reason) {
    let cause = crate::history::Cause::Start;
    node.history
        .record_observation(&node.record, &node.seen, node.now, |_| Duration::ZERO);
    node.history.record_failure(
        cause,
        reason,
        "it failed".to_owned(),
        node.now,
        Duration::from_secs(1),
    );
}

/// Lets it come to an end, and expects that the first body is back, whatever became of its instance.
#[track_caller]
fn is_back(node: &mut Node, is_same_instance: bool) {
    for _ in 0..40 {
        node.turn();
        node.now = node.now.after(Duration::from_secs(1));
    }
    let record = &node.record;
    let bad = record.rolled_back.as_ref().expect("it was given up");
    let is_of = |deploy: Deploy| bad.is_of(&deploy.spec, deploy.revision);
    assert_eq!((bad.generation, record.generation), (2, 3));
    assert_eq!(record.spec, deploy(0, "stop-first", "running").spec);
    assert_eq!(
        record.instance().generation,
        if is_same_instance { 1 } else { 3 }
    );
    assert!(record.update.is_none() && node.runs(record.instance().generation));
    assert_eq!(node.seen.instances.len(), 1);
    assert!(
        is_of(deploy(1, "start-first", "running")) || is_of(deploy(1, "stop-first", "running"))
    );
    assert!(!is_of(deploy(3, "start-first", "running")));
}

#[test]
fn what_serves_and_is_lost_at_once_is_started_again_with_the_usual_waits() {
    let mut node = updating("start-first");
    node.turn();
    let (began, mut starts) = (node.now, 0);
    for _ in 0..40 {
        // Its task is gone without an end, as with a shim that was killed.
        node.seen.instances.get_mut(&1).unwrap().task = Task::Absent;
        if let Some(next) = node.seen.instances.get_mut(&2) {
            next.task = Task::Unresponsive;
        }
        let before = node.history.trial.former.starts;
        node.step();
        starts += node.history.trial.former.starts - before;
        node.now = node.now.after(Duration::from_millis(100));
    }
    assert!(starts >= 2, "{}", node.trace.join("\n"));
    let passed = node.now.since(began).as_secs();
    assert!(u64::from(starts) <= passed + 2, "{}", node.trace.join("\n"));
}

#[test]
fn one_look_that_finds_no_connection_ends_nothing() {
    let mut history = History::default();
    let (record, mut now) = (record("a", 2), BootTime(Duration::from_secs(1)));
    let mut looks = |connections: Option<usize>| {
        let instance = InstanceName {
            generation: 1,
            ..record.instance()
        };
        history.trial.record_connections(instance, connections, now);
        now = now.after(Duration::from_secs(1));
        history.trial.drain.unwrap().quiet_since
    };
    let at = |seconds| Some(BootTime(Duration::from_secs(seconds)));
    assert_eq!(looks(Some(0)), at(1));
    assert_eq!(looks(Some(1)), None);
    assert_eq!(looks(Some(0)), at(3));
    assert_eq!(looks(Some(0)), at(3));
    assert_eq!(looks(None), None, "nobody knows");
}

#[test]
fn what_cannot_heal_is_given_up_at_once() {
    for (strategy, is_same) in [("start-first", true), ("stop-first", false)] {
        let mut node = updating(strategy);
        node.step();
        if !is_same {
            node.step();
        }
        fails(&mut node, crate::reason::Reason::CommandNotFound);
        let before = node.now;
        node.step();
        assert!(node.record.rolled_back.is_some() && node.now == before);
        is_back(&mut node, is_same);
    }
}

#[test]
fn what_may_heal_has_until_its_deadline() {
    let mut node = updating("start-first");
    fails(&mut node, crate::reason::Reason::ImageNotFound);
    node.turn();
    node.now = node.now.after(Duration::from_secs(19));
    fails(&mut node, crate::reason::Reason::ImageNotFound);
    node.turn();
    assert!(node.record.rolled_back.is_none());
    node.now = node.now.after(Duration::from_secs(2));
    fails(&mut node, crate::reason::Reason::ImageNotFound);
    is_back(&mut node, true);
}

#[test]
fn what_ends_too_often_is_given_up_also_once_it_has_served() {
    for strategy in ["start-first", "stop-first"] {
        let mut node = updating(strategy);
        for at in 0..2 {
            for _ in 0..6 {
                node.turn();
                node.now = node.now.after(Duration::from_secs(1));
            }
            assert!(node.runs(2), "{strategy} {at}");
            let exit = Exit {
                code: 1,
                at: SystemTime::UNIX_EPOCH + node.now.0,
                out_of_memory: false,
            };
            node.seen.instances.get_mut(&2).unwrap().task = Task::Stopped(exit);
            node.turn();
        }
        is_back(&mut node, false);
    }
}
