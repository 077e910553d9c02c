//! Every stage, and what all its readers make of it.

use crate::surroundings::Surroundings;
use std::time::{Duration, SystemTime};

use super::*;
use crate::desired::tag_check::{TagAnswer, TagCheck, TagOutcome};
use crate::desired::tests::record;
use crate::observed::Instance;
use crate::plan::decide;
use crate::status::{Activity, Status, condition};
use crate::time::BootTime;

const RUNNING: Task = Task::Running {
    pid: 7,
    since: None,
};
const CREATED: Task = Task::Created { pid: 7 };

fn stopped(code: u32) -> Task {
    Task::Stopped(Exit {
        code,
        at: SystemTime::UNIX_EPOCH,
        out_of_memory: false,
    })
}

fn name(generation: u64) -> InstanceName {
    InstanceName {
        id: ContainerId::from_bits(1),
        generation,
    }
}

fn ended(code: u32, reason: Reason) -> Finished {
    Finished {
        code,
        reason,
        at_ms: 0,
    }
}

/// A generation, and its task.
type Found = (u64, fn() -> Task);

/// What a row of the table says of one container.
struct Row {
    change: fn(&mut Record),
    instances: &'static [Found],
    stage: Stage,
    step: &'static str,
    why: &'static str,
    status: Status,
    /// Settled, as asked for, and running for the guard.
    verdicts: (bool, bool, bool),
}

fn absent() -> Task {
    Task::Absent
}

fn running() -> Task {
    RUNNING
}

fn unresponsive() -> Task {
    Task::Unresponsive
}

fn created() -> Task {
    CREATED
}

fn exit_0() -> Task {
    stopped(0)
}

fn exit_3() -> Task {
    stopped(3)
}

fn never(record: &mut Record) {
    record.spec.restart.policy = RestartPolicy::Never;
}

fn finish(record: &mut Record) {
    record.finished = Some(ended(0, Reason::Completed));
}

fn asked(record: &mut Record) {
    record.tag_check = Some(TagCheck::by_change(1));
}

fn answered(record: &mut Record) {
    record.tag_check = Some(TagCheck {
        asked: 1,
        answer: Some(TagAnswer {
            at_ms: 0,
            before: record.image_digest.clone(),
            outcome: TagOutcome::Digest("sha256:00".to_owned()),
        }),
    });
}

/// Generation 2, which changes live parts of generation 1 only.
fn live(record: &mut Record) {
    (record.generation, record.made_at) = (2, Some(1));
}

#[rustfmt::skip]
fn table() -> Vec<Row> {
    let row = |change, instances, stage, (step, why), status, verdicts| Row { change, instances, stage, step, why, status, verdicts };
    const YES: (bool, bool, bool) = (true, true, true);
    const AT_REST: (bool, bool, bool) = (true, true, false);
    const TO_DO: (bool, bool, bool) = (false, false, true);
    const TO_END: (bool, bool, bool) = (false, false, false);
    vec![
        row(|_| (), &[(1, running)], Stage::Running, ("nothing", "as desired"), Status::Running, YES),
        row(|r| r.image_digest = None, &[(1, running)], Stage::Running, ("nothing", "as desired"), Status::Running, YES),
        row(|_| (), &[], Stage::Due, ("launch", "generation 1 is to run"), Status::Pending, TO_DO),
        row(|_| (), &[(1, absent)], Stage::Due, ("launch", "generation 1 is to run"), Status::Pending, TO_DO),
        row(|_| (), &[(1, exit_3)], Stage::Due, ("launch", "exit code 3"), Status::Pending, TO_DO),
        row(|_| (), &[(1, created)], Stage::Created, ("launch", "was not started"), Status::Pending, TO_DO),
        row(|r| r.image_digest = None, &[], Stage::Unresolved, ("pull", "not resolved"), Status::Pending, TO_DO),
        row(|r| (r.generation, r.image_digest) = (2, None), &[(1, running)], Stage::Unresolved, ("pull", "generation 2"), Status::Pending, TO_DO),
        row(asked, &[(1, running)], Stage::TagUnchecked, ("pull", "nginx:latest stands for now"), Status::Running, TO_DO),
        row(|r| { asked(r); r.restart_pending = true }, &[(1, running)], Stage::TagUnchecked, ("pull", "stands for"), Status::Running, TO_DO),
        row(|r| { asked(r); r.image_digest = None }, &[], Stage::TagUnchecked, ("pull", "stands for"), Status::Pending, TO_DO),
        row(|r| { asked(r); r.generation = 2 }, &[(1, running)], Stage::Replacing(name(1)), ("remove", "generation 2 takes its place"), Status::Pending, TO_DO),
        row(asked, &[], Stage::Due, ("launch", "is to run"), Status::Pending, TO_DO),
        row(|r| { asked(r); r.restart_pending = true }, &[], Stage::TagUnchecked, ("pull", "stands for"), Status::Pending, TO_DO),
        row(asked, &[(1, created)], Stage::Created, ("launch", "was not started"), Status::Pending, TO_DO),
        row(|r| { asked(r); r.run = RunState::Stopped }, &[(1, running)], Stage::Stopping, ("stop", "to be stopped"), Status::Stopping, TO_END),
        row(|r| { asked(r); r.run = RunState::Stopped }, &[(0, absent)], Stage::Retiring(name(0)), ("remove", "takes its place"), Status::Stopped, TO_END),
        row(|r| { asked(r); r.run = RunState::Stopped }, &[(1, absent)], Stage::TagUnchecked, ("pull", "stands for"), Status::Stopped, TO_END),
        row(|r| { asked(r); finish(r) }, &[], Stage::TagUnchecked, ("pull", "stands for"), Status::Stopped, TO_END),
        row(|r| { asked(r); r.cordoned = true }, &[], Stage::Cordoned(CordonedBy::default()), ("nothing", "as desired"), Status::Pending, (true, false, false)),
        row(|r| { asked(r); r.is_uncertain = true }, &[(1, running)], Stage::Uncertain, ("nothing", "left as it is"), Status::Running, (true, false, true)),
        row(|r| { asked(r); r.removing = true }, &[(1, running)], Stage::Removing(name(1)), ("remove", "to be removed"), Status::Removing, TO_END),
        row(answered, &[(1, running)], Stage::Running, ("nothing", "as desired"), Status::Running, YES),
        row(|r| r.generation = 2, &[(1, running)], Stage::Replacing(name(1)), ("remove", "generation 2 takes its place"), Status::Pending, TO_DO),
        row(|r| r.generation = 2, &[(1, running), (2, running)], Stage::Replacing(name(1)), ("remove", "generation 2"), Status::Running, TO_DO),
        row(live, &[(1, running)], Stage::Adjusting(name(1)), ("adjust", "generation 2 changes only"), Status::Running, TO_DO),
        row(|r| { live(r); r.image_digest = None }, &[(1, running)], Stage::Adjusting(name(1)), ("adjust", "generation 2"), Status::Running, TO_DO),
        row(live, &[(1, created)], Stage::Adjusting(name(1)), ("adjust", "generation 2"), Status::Pending, TO_DO),
        row(live, &[(1, exit_3)], Stage::Adjusting(name(1)), ("adjust", "generation 2"), Status::Pending, TO_DO),
        row(live, &[(1, absent)], Stage::Adjusting(name(1)), ("adjust", "generation 2"), Status::Pending, TO_DO),
        row(live, &[], Stage::Due, ("launch", "generation 2 is to run"), Status::Pending, TO_DO),
        row(live, &[(1, unresponsive)], Stage::Unresponsive, ("nothing", "does not answer"), Status::Running, (true, false, true)),
        row(live, &[(0, running), (1, running)], Stage::Replacing(name(0)), ("remove", "takes its place"), Status::Running, TO_DO),
        row(live, &[(2, running)], Stage::Replacing(name(2)), ("remove", "takes its place"), Status::Pending, TO_DO),
        row(|r| { live(r); asked(r) }, &[(1, running)], Stage::TagUnchecked, ("pull", "stands for"), Status::Running, TO_DO),
        row(|r| { live(r); r.restart_pending = true }, &[(1, running)], Stage::RestartRequested, ("stop", "a restart"), Status::Running, TO_DO),
        row(|r| { live(r); never(r) }, &[(1, exit_0)], Stage::Ended(ended(0, Reason::Completed)), ("finish", "leaves it so"), Status::Stopped, TO_DO),
        row(|r| { live(r); r.run = RunState::Stopped }, &[(1, running)], Stage::Stopping, ("stop", "to be stopped"), Status::Stopping, TO_END),
        row(|r| { live(r); r.run = RunState::Stopped }, &[(1, absent)], Stage::Stopped, ("nothing", "as desired"), Status::Stopped, AT_REST),
        row(|r| { live(r); r.removing = true }, &[(1, running)], Stage::Removing(name(1)), ("remove", "to be removed"), Status::Removing, TO_END),
        row(|r| { live(r); r.is_uncertain = true }, &[(1, running)], Stage::Uncertain, ("nothing", "left as it is"), Status::Running, (true, false, true)),
        row(|r| r.restart_pending = true, &[(1, running)], Stage::RestartRequested, ("stop", "a restart"), Status::Running, TO_DO),
        row(|_| (), &[(1, unresponsive)], Stage::Unresponsive, ("nothing", "does not answer"), Status::Running, (true, false, true)),
        row(|r| r.image_digest = None, &[(1, unresponsive)], Stage::Unresponsive, ("nothing", "does not answer"), Status::Running, (true, false, true)),
        row(|r| r.restart_pending = true, &[(1, unresponsive)], Stage::RestartRequested, ("stop", "a restart"), Status::Pending, TO_DO),
        row(|r| r.generation = 2, &[(1, unresponsive)], Stage::Replacing(name(1)), ("remove", "generation 2"), Status::Pending, TO_DO),
        row(|r| r.run = RunState::Stopped, &[(1, unresponsive)], Stage::Stopping, ("stop", "to be stopped"), Status::Stopping, TO_END),
        row(|r| r.removing = true, &[(1, unresponsive)], Stage::Removing(name(1)), ("remove", "to be removed"), Status::Removing, TO_END),
        row(|r| { r.restart_pending = true; never(r) }, &[(1, exit_0)], Stage::Due, ("launch", "a restart"), Status::Pending, TO_DO),
        row(never, &[(1, exit_0)], Stage::Ended(ended(0, Reason::Completed)), ("finish", "leaves it so (Completed)"), Status::Stopped, TO_DO),
        row(never, &[(1, exit_3)], Stage::Ended(ended(3, Reason::Exited)), ("finish", "leaves it so (Exited)"), Status::Failed, TO_DO),
        row(finish, &[(1, exit_0)], Stage::Stopping, ("stop", "ended and stays so"), Status::Stopped, TO_END),
        row(finish, &[(1, absent)], Stage::Finished, ("nothing", "as desired"), Status::Stopped, AT_REST),
        row(|r| { finish(r); r.run = RunState::Stopped }, &[], Stage::Finished, ("nothing", "as desired"), Status::Stopped, AT_REST),
        row(|r| r.run = RunState::Stopped, &[], Stage::Stopped, ("nothing", "as desired"), Status::Stopped, AT_REST),
        row(|r| r.run = RunState::Stopped, &[(1, running)], Stage::Stopping, ("stop", "to be stopped"), Status::Stopping, TO_END),
        row(|r| r.run = RunState::Stopped, &[(0, running)], Stage::Retiring(name(0)), ("remove", "takes its place"), Status::Stopped, TO_END),
        row(|r| r.cordoned = true, &[], Stage::Cordoned(CordonedBy::default()), ("nothing", "as desired"), Status::Pending, (true, false, false)),
        row(|r| r.cordoned = true, &[(1, absent)], Stage::Due, ("launch", "generation 1"), Status::Pending, (false, false, false)),
        row(|r| r.is_uncertain = true, &[], Stage::Uncertain, ("nothing", "left as it is"), Status::Pending, (true, false, true)),
        row(|r| (r.is_uncertain, r.removing) = (true, true), &[(1, running)], Stage::Uncertain, ("nothing", "left as it is"), Status::Running, (true, false, true)),
        row(|r| r.removing = true, &[(1, running), (2, absent)], Stage::Removing(name(2)), ("remove", "to be removed"), Status::Removing, TO_END),
        row(|r| (r.removing, r.cordoned) = (true, true), &[], Stage::Removed, ("forget", "nothing of the container"), Status::Removing, TO_END),
    ]
}

#[test]
fn every_stage_is_read_the_same_by_all() {
    for Row {
        change,
        instances,
        stage,
        step,
        why,
        status,
        verdicts,
    } in table()
    {
        let mut record = record("a", 1);
        change(&mut record);
        let instances = instances
            .iter()
            .map(|(generation, task)| (*generation, Instance::from(task())));
        let seen = Seen {
            instances: instances.collect(),
        };
        let history = History::default();
        let decision = decide(
            record.id,
            Some(&record),
            &seen,
            &history,
            &Surroundings::NONE,
            BootTime::default(),
        );
        let phase = &decision.phase;
        assert_eq!(phase.stage, stage);
        assert_eq!(decision.step.as_str(), step, "{stage:?}");
        let said = decision.why(Some(&record), &seen, &history);
        assert!(said.contains(why), "{stage:?}: {said}");
        let found = condition(&record, phase, &history, None, None).status;
        assert_eq!(found, status, "{stage:?}");
        let found = (
            phase.is_settled(),
            phase.is_as_asked(),
            crate::guard::runs(&record),
        );
        assert_eq!(found, verdicts, "{stage:?}");
        assert_eq!(
            phase.is_settled(),
            decision.step == crate::plan::Step::Settled,
            "{stage:?}"
        );
        let own = record.made_at.unwrap_or(record.generation);
        let own = seen.instances.get(&own).map(|instance| &instance.task);
        assert_eq!(phase.is_running, own == Some(&RUNNING), "{stage:?}");
    }
}

#[test]
fn what_nothing_asks_for_is_a_leftover_until_it_is_gone() {
    let id = ContainerId::from_bits(1);
    let seen = Seen {
        instances: [(3, Instance::from(RUNNING))].into(),
    };
    let stage =
        |seen: &Seen| Phase::of(id, None, seen, &History::default(), &Surroundings::NONE).stage;
    assert_eq!(stage(&seen), Stage::Leftover(name(3)));
    assert_eq!(stage(&Seen::default()), Stage::Gone);
}

#[test]
fn retries_are_used_up_at_their_number() {
    let mut record = record("a", 1);
    record.spec.restart.max_retries = Some(2);
    let seen = Seen {
        instances: [(1, Instance::from(stopped(1)))].into(),
    };
    for (exits, stage) in [
        (2, Stage::Due),
        (3, Stage::Ended(ended(1, Reason::RetriesExhausted))),
    ] {
        let mut history = History::default();
        history.exits = exits;
        assert_eq!(
            Phase::of(
                record.id,
                Some(&record),
                &seen,
                &history,
                &Surroundings::NONE
            )
            .stage,
            stage
        );
    }
}

#[test]
fn what_is_being_done_shows_in_the_status_alone() {
    let (record, history) = (record("a", 1), History::default());
    let phase = Phase::of(
        record.id,
        Some(&record),
        &Seen::default(),
        &history,
        &Surroundings::NONE,
    );
    for (activity, status) in [
        (Activity::Pulling, Status::Pulling),
        (Activity::Creating, Status::Creating),
        (Activity::Stopping, Status::Stopping),
    ] {
        let found = condition(&record, &phase, &history, Some(activity), Some("away")).status;
        assert_eq!(found, status);
    }
    let unreachable = condition(&record, &phase, &history, None, Some("away"));
    assert_eq!(unreachable.reason, Some(Reason::RuntimeUnavailable));
    let mut waiting = history.clone();
    let (now, wait) = (BootTime::default(), Duration::from_secs(9));
    waiting.record_failure(Cause::Start, Reason::CreateFailed, String::new(), now, wait);
    let failed = condition(&record, &phase, &waiting, None, Some("away"));
    assert_eq!(
        (failed.status, failed.reason),
        (Status::Failed, Some(Reason::CreateFailed))
    );
}

#[test]
fn a_restart_that_its_process_tells_of_is_noted_and_not_done_again() {
    let mut record = record("a", 1);
    record.ask_restart(0);
    record.ask_restart(0);
    never(&mut record);
    let stage = |record: &Record, (restart, task): (u64, Task)| {
        let instance = Instance {
            restart,
            ..Instance::from(task)
        };
        let seen = Seen {
            instances: [(1, instance)].into(),
        };
        let mut history = History::default();
        history.record_start(BootTime::default());
        history.record_observation(record, &seen, BootTime::default(), |_| Duration::ZERO);
        Phase::of(
            record.id,
            Some(record),
            &seen,
            &history,
            &Surroundings::NONE,
        )
        .stage
    };
    assert_eq!(stage(&record, (1, RUNNING)), Stage::RestartRequested);
    assert_eq!(stage(&record, (1, stopped(0))), Stage::Due);
    assert_eq!(stage(&record, (1, CREATED)), Stage::Created);
    // Killed after the label and before the start: nothing ran.
    assert_eq!(stage(&record, (2, CREATED)), Stage::Created);
    assert_eq!(stage(&record, (2, Task::Absent)), Stage::Due);
    // Killed after the start: what ran, ran once.
    assert_eq!(stage(&record, (2, RUNNING)), Stage::Restarted);
    let done = Stage::Ended(ended(0, Reason::Completed));
    assert_eq!(
        stage(&record, (2, stopped(0))),
        done,
        "its end is noted with it"
    );
    let mut noted = record.clone();
    noted.note_restarted(1);
    assert!(noted.restart_pending, "another was asked for since");
    noted.note_restarted(2);
    assert_eq!(stage(&noted, (2, RUNNING)), Stage::Running);
    assert_eq!(stage(&noted, (2, stopped(0))), done);
    // As an agent of an older version has stored it.
    record.restarts_asked = 0;
    assert_eq!(stage(&record, (0, RUNNING)), Stage::RestartRequested);
    // And asked again by this one: the label bears the number of the restart before.
    let mut again = noted.clone();
    again.restarts_asked = 0;
    again.ask_restart(2 * again.seq.max(1));
    assert_eq!(stage(&again, (2, RUNNING)), Stage::RestartRequested);
}
