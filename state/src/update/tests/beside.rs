//! Two generations at once: which of them serves when something ends, and what is ended for it.

use super::*;
use crate::desired::update::Update;
use crate::history::Cause;
use crate::reason::Reason;

/// A node on which the second generation counts, and the first one is still there.
fn switched() -> Node {
    let mut node = Node::new(1);
    node.turn();
    node.deploy(deploy(2, "start-first", "running"));
    for _ in 0..9 {
        node.step();
        if node.counts == Some(2) {
            return node;
        }
        node.now = node.now.after(Duration::from_secs(1));
    }
    unreachable!("{}", node.trace.join("\n"));
}

fn ends(node: &mut Node, generation: u64, code: u32) {
    let exit = Exit {
        code,
        at: SystemTime::UNIX_EPOCH + node.now.0,
        out_of_memory: false,
    };
    node.seen.instances.get_mut(&generation).unwrap().task = Task::Stopped(exit);
}

fn decided(node: &Node) -> Step {
    let mut history = node.history.clone();
    history.record_observation(&node.record, &node.seen, node.now, |_| {
        Duration::from_secs(1)
    });
    let around = Surroundings::NONE;
    let (id, record) = (node.record.id, Some(&node.record));
    decide(id, record, &node.seen, &history, &around, node.now).step
}

fn instance(generation: u64) -> InstanceName {
    InstanceName {
        id: record("a", 1).id,
        generation,
    }
}

#[test]
fn the_one_before_has_the_ports_again_where_the_next_one_ends_after_its_switch() {
    for code in [0, 1] {
        let mut node = switched();
        node.step();
        assert_eq!(node.ports, Some(2));
        ends(&mut node, 2, code);
        assert_eq!(decided(&node), Step::GiveBack(instance(1)));
        node.step();
        assert!(node.ports == Some(1) && node.record.stands_back());
        assert_eq!(node.history.trial.drain, None);
        // The next one is tried anew, and counts once it is ready again.
        node.turn();
        assert!(node.runs(1) && node.runs(2) && node.ports == Some(1));
        for _ in 0..20 {
            node.now = node.now.after(Duration::from_secs(1));
            node.turn();
        }
        assert!(node.record.update.is_none() && node.ports == Some(2));
    }
}

#[test]
fn what_has_done_its_work_is_not_given_up_for_the_one_before() {
    let mut node = switched();
    node.record.spec.restart.policy = crate::spec::RestartPolicy::OnFailure;
    ends(&mut node, 2, 0);
    assert!(matches!(decided(&node), Step::Finish(_)));
}

#[test]
fn a_port_that_was_taken_between_the_look_and_the_switch_leads_back() {
    let mut node = switched();
    assert_eq!(decided(&node), Step::HandOver(instance(1)));
    node.history
        .record_observation(&node.record, &node.seen, node.now, |_| Duration::ZERO);
    let (reason, wait) = (Reason::PortTaken, Duration::from_secs(9));
    let message = "8080 is taken".to_owned();
    node.history
        .record_failure(Cause::Start, reason, message, node.now, wait);
    assert_eq!(decided(&node), Step::GiveBack(instance(1)));
    node.step();
    assert!(node.record.stands_back() && node.ports == Some(1));
    // It waits as it would have, and the next failure waits longer.
    assert!(matches!(decided(&node), Step::Wait(_)));
    node.now = node.now.after(wait);
    assert_eq!(decided(&node), Step::Switch);
    node.history.record_switch();
    assert_eq!((node.history.attempts, &node.history.backoff), (1, &None));
}

#[test]
fn one_that_takes_its_time_to_end_holds_up_no_start_of_the_other() {
    let mut node = switched();
    node.step();
    node.now = node.now.after(GRACE);
    assert_eq!(decided(&node), Step::Signal(instance(1)));
    node.history.record_signal(instance(1), node.now);
    let killed_at = node.now.after(GRACE);
    assert_eq!(decided(&node), Step::Wait(killed_at));
    // What has its signal may not serve any more, and is not gone back to.
    ends(&mut node, 2, 1);
    assert_eq!(decided(&node), Step::Launch);
    node.step();
    assert!(node.runs(1) && node.runs(2));
    assert_eq!(decided(&node), Step::Wait(killed_at));
    node.now = killed_at;
    assert_eq!(decided(&node), Step::Remove(instance(1)));
}

#[test]
fn one_that_has_ended_by_its_signal_is_removed_at_once() {
    let mut node = switched();
    node.step();
    node.now = node.now.after(GRACE);
    node.history.record_signal(instance(1), node.now);
    ends(&mut node, 1, 143);
    assert_eq!(decided(&node), Step::Remove(instance(1)));
}

#[test]
fn a_newer_body_begins_no_grace_anew() {
    let mut node = switched();
    node.step();
    let since = node.history.trial.drain.unwrap().since;
    node.now = node.now.after(Duration::from_secs(1));
    node.step();
    node.deploy(deploy(4, "start-first", "running"));
    node.record.spec.stop.timeout = Duration::from_mins(60);
    node.step();
    let drain = node.history.trial.drain.unwrap();
    assert_eq!(
        (drain.of, drain.since, drain.grace),
        (1, since, Some(GRACE))
    );
    node.now = since.after(GRACE);
    assert_eq!(decided(&node), Step::Signal(instance(1)));
}

#[test]
fn what_serves_is_started_again_while_an_older_trial_is_still_to_go() {
    let mut node = Node::new(1);
    node.turn();
    node.deploy(deploy(2, "start-first", "running"));
    node.turn();
    assert!(node.runs(2));
    node.deploy(deploy(4, "start-first", "running"));
    ends(&mut node, 1, 1);
    assert_eq!(decided(&node), Step::Revive(instance(1)));
}

#[test]
fn of_one_that_is_tried_it_is_told_how_it_ended_also_while_it_runs_again() {
    let mut node = Node::new(1);
    node.turn();
    node.deploy(deploy(2, "start-first", "running"));
    node.turn();
    let told = |node: &Node| {
        let (record, around) = (&node.record, &Surroundings::NONE);
        let phase = Phase::of(record.id, Some(record), &node.seen, &node.history, around);
        let condition = crate::status::condition(record, &phase, &node.history, None, None);
        (condition.status, condition.reason)
    };
    assert_eq!(told(&node), (crate::status::Status::Running, None));
    ends(&mut node, 2, 3);
    node.turn();
    assert!(node.runs(2));
    let expected = (crate::status::Status::Running, Some(Reason::Exited));
    assert_eq!(told(&node), expected);
    for _ in 0..9 {
        node.now = node.now.after(Duration::from_secs(1));
        node.turn();
    }
    assert_eq!(
        told(&node),
        (crate::status::Status::Running, None),
        "it counts"
    );
}

#[test]
fn one_that_may_be_started_again_only_so_often_is_not_revived_for_ever() {
    let mut node = Node::new(1);
    node.record.spec.restart.max_retries = Some(1);
    node.turn();
    node.deploy(deploy(2, "start-first", "running"));
    node.step();
    for _ in 0..20 {
        if node.runs(1) {
            ends(&mut node, 1, 1);
        }
        node.step();
        node.now = node.now.after(Duration::from_secs(1));
    }
    let revivals = node.trace.iter().filter(|line| line.contains("revive"));
    let starts = revivals.count();
    assert_eq!(starts, 2, "{}", node.trace.join("\n"));
}

#[test]
fn what_is_put_in_the_place_of_one_that_is_removed_takes_no_address_that_is_still_had() {
    let mut node = switched();
    let own = node
        .record
        .update
        .as_ref()
        .unwrap()
        .former
        .assignment
        .address;
    node.record.removing = true;
    let update = node.record.updated_to(&deploy(4, "start-first", "running"));
    let update = update.unwrap();
    assert_eq!(
        (update.stage, update.is_beside),
        (UpdateStage::Leaving, false)
    );
    assert_eq!(update.former.assignment.address, own);
    node.record.update = None;
    let update = node.record.updated_to(&deploy(4, "start-first", "running"));
    assert_eq!(update, None);
}

#[test]
fn what_has_no_address_holds_that_of_the_one_that_still_goes() {
    let node = switched();
    let body = json!({"name": "a", "image": "b", "network": "none", "update": {"strategy": "start-first"}});
    let update = node.record.updated_to(&parse::deploy(&body).unwrap());
    let update = update.unwrap();
    assert_eq!(update.stage, UpdateStage::Leaving);
    let address = |record: &Record| record.assignment.address;
    let had = node.record.update.as_ref().unwrap();
    assert_eq!(address(&update.former), address(&had.former));
}

#[test]
fn a_body_that_was_never_started_is_followed_without_a_gap() {
    let mut node = Node::new(1);
    node.turn();
    // Both strategies: the one before runs on until the image is there, which may be never.
    node.deploy(deploy(1, "stop-first", "running"));
    assert!(!node.record.stands_back());
    node.deploy(deploy(2, "start-first", "running"));
    let update: &Update = node.record.update.as_ref().unwrap();
    assert!(update.is_beside && update.former.generation == 1);
    for _ in 0..20 {
        node.turn();
        node.now = node.now.after(Duration::from_secs(1));
    }
    assert!(node.record.update.is_none() && node.ports == Some(3));
}

#[test]
fn programs_and_files_are_those_of_the_instance_that_serves() {
    let mut node = Node::new(1);
    node.turn();
    node.deploy(deploy(2, "start-first", "running"));
    node.turn();
    let serving = |node: &Node| node.seen.serving_instance(&node.record);
    assert_eq!(serving(&node), Some(1));
    ends(&mut node, 1, 1);
    assert_eq!(serving(&node), Some(2), "nothing else runs");
    let node = switched();
    assert_eq!(serving(&node), Some(2));
    let shown = |node: &Node| {
        let is_relieved = |instance| node.history.trial.drain_of(instance).is_some();
        node.seen.serving_generation(&node.record, is_relieved)
    };
    assert_eq!(shown(&node), Some(1), "its ports have not moved");
    let mut node = node;
    node.step();
    assert_eq!(shown(&node), Some(2));
}

#[test]
fn the_address_is_that_of_what_serves_until_another_one_does() {
    let mut node = Node::new(1);
    node.turn();
    let first = node.record.assignment.address;
    node.deploy(deploy(2, "start-first", "running"));
    let second = node.record.assignment.address;
    let address = |node: &Node, runs| node.record.served_place(runs).address;
    assert_eq!(address(&node, Some(1)), first);
    node.deploy(deploy(2, "stop-first", "running"));
    assert_eq!(
        node.record.update.as_ref().unwrap().stage,
        UpdateStage::Leaving
    );
    assert_eq!(address(&node, Some(1)), first);
    assert_eq!(address(&node, Some(3)), second);
}
