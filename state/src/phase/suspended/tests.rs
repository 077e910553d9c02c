use std::time::{Duration, SystemTime};

use super::*;
use crate::contact::Silence;
use crate::cordon::CordonedBy;
use crate::desired::update::{Update, UpdateStage};
use crate::desired::{RunState, tests::record};
use crate::observed::{Exit, Instance};
use crate::phase::Phase;
use crate::plan::{Step, decide, plan};
use crate::reason::Reason;
use crate::spec::RestartPolicy;
use crate::status::{Status, condition};
use crate::surroundings::Suspension;
use crate::time::BootTime;

const NOW: BootTime = BootTime(Duration::from_secs(1000));
const RUNNING: Task = Task::Running {
    pid: 7,
    since: None,
};

const fn around(is_certain: bool) -> Surroundings {
    Surroundings {
        waits: None,
        former_waits: None,
        suspension: Some(Suspension::Silent(Silence {
            stop_after: Duration::from_mins(1),
            in_force: Duration::from_mins(1),
            is_certain,
        })),
        spares_unhealthy: false,
        cordon: CordonedBy {
            chas: false,
            operator: false,
        },
    }
}

fn stopped(code: u32) -> Task {
    Task::Stopped(Exit {
        code,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        out_of_memory: false,
    })
}

/// A change of a record, what is seen, and the step that follows.
type Row<'a> = (fn(&mut Record), &'a [(u64, Task)], Step);

fn seen(instances: &[(u64, Task)]) -> Seen {
    let found = instances.iter().cloned();
    Seen {
        instances: found.map(|(at, task)| (at, task.into())).collect(),
    }
}

fn step(record: &Record, seen: &Seen, history: &History, around: &Surroundings) -> Step {
    decide(record.id, Some(record), seen, history, around, NOW).step
}

fn suspend(generation: u64) -> Step {
    let id = record("web", 1).id;
    Step::Suspend(InstanceName { id, generation })
}

/// Generation 2, which is tried beside generation 1.
fn tried() -> Record {
    let former = Box::new(record("web", 1));
    let update = Update {
        stage: UpdateStage::Trying,
        is_beside: true,
        serving: None,
        former,
    };
    Record {
        generation: 2,
        update: Some(update),
        ..record("web", 1)
    }
}

#[test]
fn all_that_has_a_task_is_stopped_and_nothing_is_started_or_removed() {
    let plain = |_: &mut Record| ();
    let later = |record: &mut Record| (record.generation, record.image_digest) = (2, None);
    let asked = |record: &mut Record| record.restart_pending = true;
    let rows: [Row<'_>; 10] = [
        (plain, &[], Step::Settled),
        (plain, &[(1, Task::Absent)], Step::Settled),
        (plain, &[(1, RUNNING)], suspend(1)),
        (plain, &[(1, Task::Unresponsive)], suspend(1)),
        (plain, &[(1, Task::Created { pid: 7 })], suspend(1)),
        (plain, &[(1, stopped(3))], suspend(1)),
        (later, &[(1, RUNNING)], suspend(1)),
        (later, &[(1, Task::Absent)], Step::Settled),
        (later, &[], Step::Settled),
        (asked, &[(1, RUNNING)], suspend(1)),
    ];
    for (change, instances, expected) in rows {
        let mut record = record("web", 1);
        change(&mut record);
        let found = step(
            &record,
            &seen(instances),
            &History::default(),
            &around(true),
        );
        assert_eq!(found, expected, "{instances:?}");
    }
}

#[test]
fn orders_and_ends_come_before_the_silence() {
    let rows: [Row<'_>; 4] = [
        (|record| record.run = RunState::Stopped, &[], Step::Settled),
        (|record| record.removing = true, &[], Step::Forget),
        (|record| record.cordoned = true, &[], Step::Settled),
        (|record| record.is_uncertain = true, &[], Step::Settled),
    ];
    for (change, instances, expected) in rows {
        let mut record = record("web", 1);
        change(&mut record);
        let found = step(
            &record,
            &seen(instances),
            &History::default(),
            &around(true),
        );
        assert_eq!(found, expected);
    }
    // A job that has done its work is done, and one that was ended for the silence is not.
    let mut job = record("web", 1);
    job.spec.restart.policy = RestartPolicy::Never;
    let (ended, mut history) = (seen(&[(1, stopped(0))]), History::default());
    let found = step(&job, &ended, &history, &around(true));
    assert!(matches!(found, Step::Finish(_)), "{found}");
    history = history.of(&job);
    history.record_suspension();
    assert_eq!(step(&job, &ended, &history, &around(true)), suspend(1));
    history.record_observation(&job, &ended, NOW, |_| Duration::from_secs(9));
    assert_eq!((history.exits, &history.backoff), (0, &None));
    // An agent that was killed in the middle finds it ended, and starts it after the next answer.
    let found = step(&job, &ended, &history, &Surroundings::NONE);
    assert_eq!(found, Step::Launch);
    history.record_start(NOW);
    assert!(!history.is_suspended());
}

#[test]
fn before_the_agent_has_asked_what_runs_goes_on_and_nothing_is_begun() {
    let asked = |record: &mut Record| record.restart_pending = true;
    let later = |record: &mut Record| record.generation = 2;
    let rows: [Row<'_>; 5] = [
        (|_| (), &[(1, RUNNING)], Step::Settled),
        (asked, &[(1, RUNNING)], Step::Settled),
        (later, &[(1, RUNNING)], Step::Settled),
        (|_| (), &[(1, Task::Absent)], Step::Settled),
        (|_| (), &[(1, stopped(3))], suspend(1)),
    ];
    for (change, instances, expected) in rows {
        let mut record = record("web", 1);
        change(&mut record);
        let found = step(
            &record,
            &seen(instances),
            &History::default(),
            &around(false),
        );
        assert_eq!(found, expected, "{instances:?}");
    }
}

#[test]
fn an_update_rests_with_both_of_its_generations_and_its_trial_begins_anew() {
    let record = tried();
    let mut both = seen(&[(1, RUNNING), (2, RUNNING)]);
    let mut history = History::default().of(&record);
    history.record_observation(&record, &both, BootTime(Duration::ZERO), |_| Duration::ZERO);
    let steps: Vec<_> = plan(
        record.id,
        Some(&record),
        &both,
        &history,
        &around(true),
        NOW,
    )
    .into_iter()
    .map(|planned| planned.step)
    .collect();
    assert_eq!(steps, [suspend(2), suspend(1)]);
    history.record_suspension();
    for generation in [2, 1] {
        let name = record.instance();
        let name = InstanceName { generation, ..name };
        both.instances
            .insert(generation, Instance::from(Task::Absent));
        history.record_suspended(name, None, NOW);
    }
    // Long after its deadline.
    let late = BootTime(Duration::from_hours(1));
    let found = decide(
        record.id,
        Some(&record),
        &both,
        &history,
        &around(true),
        late,
    );
    assert_eq!(found.step, Step::Settled);
    assert!(found.phase.is_settled() && !found.phase.is_as_asked());
    let back = decide(
        record.id,
        Some(&record),
        &both,
        &history,
        &Surroundings::NONE,
        late,
    );
    assert_eq!(back.step.as_str(), "revive", "{}", back.step);
    let up = seen(&[(1, RUNNING), (2, Task::Absent)]);
    let back = decide(
        record.id,
        Some(&record),
        &up,
        &history,
        &Surroundings::NONE,
        late,
    );
    assert_eq!(back.step, Step::Launch);
    history.record_start(late);
    assert_eq!(history.trial.since, Some(late));
}

#[test]
fn what_serves_rests_also_where_its_trial_failed_for_good() {
    let mut record = tried();
    record.spec.restart.policy = RestartPolicy::Never;
    let failed = seen(&[(1, RUNNING), (2, stopped(3))]);
    let history = History::default().of(&record);
    assert_eq!(
        step(&record, &failed, &history, &around(false)),
        Step::Settled
    );
    let steps = plan(
        record.id,
        Some(&record),
        &failed,
        &history,
        &around(true),
        NOW,
    );
    let steps: Vec<_> = steps.into_iter().map(|planned| planned.step).collect();
    assert_eq!(steps, [suspend(2), suspend(1)]);
}

#[test]
fn it_is_told_as_stopped_with_the_reason() {
    let (record, history) = (record("web", 1), History::default());
    let shown = |instances, around: &Surroundings| {
        let phase = Phase::of(record.id, Some(&record), &seen(instances), &history, around);
        condition(&record, &phase, &history, None, None)
    };
    let rest = shown(&[(1, Task::Absent)], &around(true));
    assert_eq!(
        (rest.status, rest.reason, rest.is_settled()),
        (Status::Stopped, Some(Reason::Disconnected), false)
    );
    let message = rest.message.unwrap();
    assert!(
        message.contains("on_disconnect.stop_after (1m)"),
        "{message}"
    );
    let stopping = shown(&[(1, RUNNING)], &around(true));
    assert_eq!(stopping.status, Status::Stopping);
    assert_eq!(stopping.reason, Some(Reason::Disconnected));
    let held = shown(&[(1, RUNNING)], &around(false));
    assert_eq!((held.status, held.reason), (Status::Running, None));
}
