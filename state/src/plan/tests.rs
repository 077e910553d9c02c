use crate::surroundings::Surroundings;
use std::time::{Duration, SystemTime};

use super::*;
use crate::desired::tests::record;
use crate::history::Cause;
use crate::observed::{Exit, Instance};
use crate::reason::Reason;
use crate::spec::RestartPolicy;

fn decided(
    id: ContainerId,
    record: Option<&Record>,
    seen: &Seen,
    history: &History,
    now: BootTime,
) -> Step {
    decide(id, record, seen, history, &Surroundings::NONE, now).step
}

const RUNNING: Task = Task::Running {
    pid: 7,
    since: None,
};

fn seen(instances: &[(u64, Task)]) -> Seen {
    let instances = instances
        .iter()
        .map(|(generation, task)| (*generation, Instance::from(task.clone())));
    Seen {
        instances: instances.collect(),
    }
}

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

fn finished(code: u32, reason: Reason) -> Step {
    Step::Finish(Finished {
        code,
        reason,
        at_ms: 0,
    })
}

#[track_caller]
fn check(change: impl FnOnce(&mut Record), instances: &[(u64, Task)], expected: &Step) {
    let mut record = record("a", 1);
    change(&mut record);
    let next = decided(
        record.id,
        Some(&record),
        &seen(instances),
        &History::default(),
        BootTime::default(),
    );
    assert_eq!(&next, expected);
}

#[test]
fn what_should_run_is_pulled_launched_and_left_alone() {
    check(|r| r.image_digest = None, &[], &Step::Pull);
    check(|_| (), &[], &Step::Launch);
    check(|_| (), &[(1, Task::Absent)], &Step::Launch);
    check(|_| (), &[(1, Task::Created { pid: 1 })], &Step::Launch);
    check(|_| (), &[(1, RUNNING)], &Step::Settled);
    check(|r| r.image_digest = None, &[(1, RUNNING)], &Step::Settled);
}

#[test]
fn what_came_to_a_cordoned_node_is_not_started_and_what_is_there_goes_on() {
    check(|r| r.cordoned = true, &[], &Step::Settled);
    check(
        |r| (r.cordoned, r.image_digest) = (true, None),
        &[],
        &Step::Settled,
    );
    check(|r| r.cordoned = true, &[(1, Task::Absent)], &Step::Launch);
    check(
        |r| (r.cordoned, r.removing) = (true, true),
        &[],
        &Step::Forget,
    );
}

#[test]
fn a_change_fetches_the_image_before_it_takes_the_old_one_away() {
    check(
        |r| (r.generation, r.image_digest) = (2, None),
        &[(1, RUNNING)],
        &Step::Pull,
    );
    check(
        |r| r.generation = 2,
        &[(1, RUNNING)],
        &Step::Remove(name(1)),
    );
    check(
        |r| r.generation = 2,
        &[(1, RUNNING), (2, Task::Absent)],
        &Step::Remove(name(1)),
    );
    check(|r| r.generation = 2, &[(2, RUNNING)], &Step::Settled);
}

#[test]
fn what_should_be_stopped_is_stopped_and_kept() {
    let stop = |r: &mut Record| r.run = RunState::Stopped;
    check(stop, &[], &Step::Settled);
    check(stop, &[(1, Task::Absent)], &Step::Settled);
    check(stop, &[(1, RUNNING)], &Step::Stop(name(1)));
    check(stop, &[(1, stopped(0))], &Step::Stop(name(1)));
    check(stop, &[(0, RUNNING)], &Step::Remove(name(0)));
}

#[test]
fn what_is_removed_goes_generation_by_generation_and_is_forgotten_last() {
    let remove = |r: &mut Record| r.removing = true;
    check(
        remove,
        &[(1, RUNNING), (2, RUNNING)],
        &Step::Remove(name(2)),
    );
    check(remove, &[(1, Task::Absent)], &Step::Remove(name(1)));
    check(remove, &[], &Step::Forget);
    let orphan = decided(
        ContainerId::from_bits(1),
        None,
        &seen(&[(3, RUNNING)]),
        &History::default(),
        BootTime::default(),
    );
    assert_eq!(orphan, Step::Remove(name(3)));
}

#[test]
fn the_restart_policy_decides_what_an_end_means() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, code, expected) in [
        (Always, 0, Step::Launch),
        (Always, 1, Step::Launch),
        (OnFailure, 0, finished(0, Reason::Completed)),
        (OnFailure, 1, Step::Launch),
        (Never, 0, finished(0, Reason::Completed)),
        (Never, 1, finished(1, Reason::Exited)),
        (Never, 143, finished(143, Reason::Signaled)),
    ] {
        check(
            |r| r.spec.restart.policy = policy,
            &[(1, stopped(code))],
            &expected,
        );
    }
}

#[test]
fn retries_end_when_they_are_used_up() {
    let mut record = record("a", 1);
    record.spec.restart.max_retries = Some(2);
    for (exits, expected) in [
        (2, Step::Launch),
        (3, finished(1, Reason::RetriesExhausted)),
    ] {
        let mut history = History::default();
        history.exits = exits;
        assert_eq!(
            decided(
                record.id,
                Some(&record),
                &seen(&[(1, stopped(1))]),
                &history,
                BootTime::default()
            ),
            expected
        );
    }
}

#[test]
fn what_finished_gives_its_shim_back_and_stays_ended() {
    let done = |r: &mut Record| {
        r.finished = Some(Finished {
            code: 0,
            reason: Reason::Completed,
            at_ms: 0,
        });
    };
    check(done, &[(1, stopped(0))], &Step::Stop(name(1)));
    check(done, &[(1, Task::Absent)], &Step::Settled);
}

#[test]
fn a_restart_that_was_asked_for_stops_it_and_starts_it_whatever_the_policy() {
    let ask =
        |r: &mut Record| (r.restart_pending, r.spec.restart.policy) = (true, RestartPolicy::Never);
    check(ask, &[(1, RUNNING)], &Step::Stop(name(1)));
    check(ask, &[(1, Task::Absent)], &Step::Launch);
    check(ask, &[(1, stopped(0))], &Step::Launch);
}

#[test]
fn a_restarted_container_that_ends_is_started_again_though_the_disk_takes_no_note_of_the_restart() {
    let mut record = record("a", 1);
    record.ask_restart(0);
    let (mut history, wait) = (History::default(), Duration::from_secs(8));
    let mut next = |task: Task, second: u64| {
        let now = BootTime(Duration::from_secs(second));
        let instance = Instance {
            restart: record.restarts_asked,
            ..Instance::from(task)
        };
        let seen = Seen {
            instances: [(1, instance)].into(),
        };
        history.record_observation(&record, &seen, now, |_| wait);
        let step = decided(record.id, Some(&record), &seen, &history, now);
        if step == Step::NoteRestart {
            let (reason, nothing) = (Reason::StateUnwritable, String::new());
            history.record_failure(Cause::End, reason, nothing, now, Duration::from_mins(5));
        }
        step
    };
    let stopped_at = |second| {
        Task::Stopped(Exit {
            code: 1,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            out_of_memory: false,
        })
    };
    assert_eq!(next(RUNNING, 1), Step::NoteRestart);
    assert_eq!(next(stopped_at(2), 2), Step::Launch);
    assert_eq!(next(RUNNING, 3), Step::NoteRestart);
    let until = BootTime(Duration::from_secs(4) + wait);
    assert_eq!(
        next(stopped_at(4), 4),
        Step::Wait(until),
        "and waits as ever"
    );
    assert_eq!(next(stopped_at(4), 12), Step::Launch);
}

#[test]
fn a_wait_holds_up_a_start_but_never_a_removal() {
    let mut record = record("a", 1);
    let mut history = History::default();
    history.record_failure(
        Cause::Start,
        Reason::CreateFailed,
        String::new(),
        BootTime::default(),
        Duration::from_secs(9),
    );
    let until = BootTime(Duration::from_secs(9));
    assert_eq!(
        decided(
            record.id,
            Some(&record),
            &Seen::default(),
            &history,
            BootTime::default()
        ),
        Step::Wait(until)
    );
    assert_eq!(
        decided(record.id, Some(&record), &Seen::default(), &history, until),
        Step::Launch
    );
    record.removing = true;
    assert_eq!(
        decided(
            record.id,
            Some(&record),
            &seen(&[(1, RUNNING)]),
            &history,
            BootTime::default()
        ),
        Step::Remove(name(1))
    );
}

#[test]
fn nothing_is_ended_for_a_successor_that_is_denied_or_whose_image_is_not_to_be_had() {
    let now = BootTime::default();
    let mut next = record("a", 1);
    next.generation = 2;
    let mut asked = record("a", 1);
    asked.restart_pending = true;
    for (reason, holds) in [
        (Reason::PolicyDenied, true),
        (Reason::RegistryUnreachable, true),
        (Reason::DiskFull, true),
        (Reason::ImageLost, true),
        (Reason::StopFailed, false),
    ] {
        let mut history = History::default();
        let wait = Duration::from_secs(9);
        history.record_failure(Cause::Start, reason, String::new(), now, wait);
        let running = seen(&[(1, RUNNING)]);
        for (record, step) in [
            (&next, Step::Remove(name(1))),
            (&asked, Step::Stop(name(1))),
        ] {
            let expected = match holds {
                true => Step::Wait(now.after(wait)),
                false => step,
            };
            let found = decided(record.id, Some(record), &running, &history, now);
            assert_eq!(found, expected, "{reason}");
        }
        // What is to go goes.
        let mut gone = record("a", 1);
        gone.removing = true;
        let found = decided(gone.id, Some(&gone), &running, &history, now);
        assert_eq!(found, Step::Remove(name(1)), "{reason}");
    }
}
