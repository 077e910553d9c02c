use crate::surroundings::Surroundings;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::desired::RunState;
use crate::desired::tag_check::TagCheck;
use crate::desired::tests::record;
use crate::history::Cause;
use crate::observed::Exit;
use crate::reason::Reason;
use crate::spec::RestartPolicy;

fn seen(instances: &[(u64, Task)]) -> Seen {
    let instances = instances
        .iter()
        .map(|(generation, task)| (*generation, Instance::from(task.clone())));
    Seen {
        instances: instances.collect(),
    }
}

const RUNNING: Task = Task::Running {
    pid: 7,
    since: None,
};

fn ended() -> Task {
    Task::Stopped(Exit {
        code: 3,
        at: SystemTime::UNIX_EPOCH,
        out_of_memory: false,
    })
}

#[track_caller]
fn check(change: impl FnOnce(&mut Record), instances: &[(u64, Task)], expected: &[(&str, &str)]) {
    let mut record = record("a", 1);
    change(&mut record);
    let planned = plan(
        record.id,
        Some(&record),
        &seen(instances),
        &History::default(),
        &Surroundings::NONE,
        BootTime::default(),
    );
    let shown: Vec<_> = planned
        .iter()
        .map(|planned| (planned.step.as_str(), planned.why.as_str()))
        .collect();
    assert_eq!(shown.len(), expected.len(), "{shown:?}");
    for ((word, why), (expected, part)) in shown.iter().zip(expected) {
        assert!(word == expected && why.contains(part), "{shown:?}");
    }
}

#[test]
fn a_plan_is_every_step_with_its_reason() {
    check(|_| (), &[(1, RUNNING)], &[]);
    check(
        |r| r.image_digest = None,
        &[],
        &[("pull", "nginx"), ("launch", "generation 1 is to run")],
    );
    let changed = |r: &mut Record| (r.generation, r.image_digest) = (2, None);
    let all = [
        ("pull", "generation 2"),
        ("remove", "generation 2 takes its place"),
        ("launch", "generation 2"),
    ];
    check(changed, &[(1, RUNNING)], &all);
    check(
        |r| r.run = RunState::Stopped,
        &[(1, RUNNING)],
        &[("stop", "to be stopped")],
    );
    let live = |r: &mut Record| (r.generation, r.made_at) = (2, Some(1));
    check(live, &[(1, RUNNING)], &[("adjust", "generation 2")]);
    check(
        live,
        &[(1, ended())],
        &[("adjust", "2"), ("launch", "code 3")],
    );
    check(live, &[], &[("launch", "generation 2")]);
    let asked = |r: &mut Record| r.tag_check = Some(TagCheck::by_change(1));
    check(asked, &[(1, RUNNING)], &[("pull", "stands for now")]);
    check(
        |r| (asked(r), r.restart_pending = true).0,
        &[(1, RUNNING)],
        &[
            ("pull", "nginx"),
            ("stop", "restart"),
            ("launch", "restart"),
        ],
    );
    check(
        |r| r.restart_pending = true,
        &[(1, RUNNING)],
        &[("stop", "restart"), ("launch", "restart")],
    );
    check(
        |r| r.removing = true,
        &[(1, RUNNING)],
        &[
            ("remove", "to be removed"),
            ("forget", "nothing of the container is left"),
        ],
    );
    check(|_| (), &[(1, ended())], &[("launch", "exit code 3")]);
    let never = |r: &mut Record| r.spec.restart.policy = RestartPolicy::Never;
    check(
        never,
        &[(1, ended())],
        &[("finish", "leaves it so (Exited)"), ("stop", "is deleted")],
    );
    let orphan = plan(
        ContainerId::from_bits(1),
        None,
        &seen(&[(3, RUNNING)]),
        &History::default(),
        &Surroundings::NONE,
        BootTime::default(),
    );
    assert_eq!(
        (orphan.len(), orphan[0].why.as_str()),
        (1, "no record asks for it (any more)")
    );
}

#[test]
fn a_plan_ends_with_what_is_waited_for() {
    let (record, mut history) = (record("a", 1), History::default().of(&record("a", 1)));
    history.record_failure(
        Cause::Start,
        Reason::CreateFailed,
        "no room".to_owned(),
        BootTime::default(),
        Duration::from_secs(9),
    );
    let planned = plan(
        record.id,
        Some(&record),
        &Seen::default(),
        &history,
        &Surroundings::NONE,
        BootTime::default(),
    );
    let until = BootTime(Duration::from_secs(9));
    assert_eq!(
        (planned.len(), &planned[0].step, planned[0].why.as_str()),
        (1, &Step::Wait(until), "CreateFailed: no room")
    );
}

fn task() -> impl Strategy<Value = Task> {
    prop_oneof![
        Just(Task::Absent),
        Just(Task::Created { pid: 1 }),
        Just(RUNNING),
        Just(ended())
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_plan_begins_with_the_next_step_and_ends_where_nothing_is_to_be_done(
        instances in proptest::collection::btree_map(1..4u64, task(), 0..4),
        (stopped, removing, restart, resolved, exists) in any::<(bool, bool, bool, bool, bool)>(),
        policy in prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)],
    ) {
        let mut record = record("a", 1);
        (record.generation, record.removing, record.restart_pending) = (2, removing, restart);
        record.run = if stopped { RunState::Stopped } else { RunState::Running };
        record.image_digest = resolved.then(String::new);
        record.spec.restart.policy = policy;
        let wanted = exists.then_some(&record);
        let found = seen(&instances.into_iter().collect::<Vec<_>>());
        let (mut history, now) = (History::default(), BootTime::default());
        if exists {
            history.record_observation(&record, &found, now, |_| Duration::ZERO);
        }
        let planned = plan(record.id, wanted, &found, &history, &Surroundings::NONE, now);
        let next = decide(record.id, wanted, &found, &history, &Surroundings::NONE, now).step;
        prop_assert_eq!(planned.first().map_or(&Step::Settled, |first| &first.step), &next);
        prop_assert!(planned.len() < STEPS_MAX, "it comes to an end: {:?}", planned);
        // Nothing to do means that a fresh look finds what is wanted, and only that.
        if planned.is_empty() {
            let runs: Vec<_> = found.instances.iter().filter(|(_, i)| i.task != Task::Absent).map(|(g, _)| *g).collect();
            let wanted_to_run = exists && !stopped;
            prop_assert_eq!(runs, if wanted_to_run { vec![2] } else { vec![] });
            prop_assert!(found.instances.keys().all(|generation| exists && *generation == 2) && !(exists && removing));
        }
    }
}
