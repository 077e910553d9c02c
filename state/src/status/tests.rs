use crate::surroundings::Surroundings;
use std::time::{Duration, SystemTime};

use super::*;
use crate::desired::tests::record;
use crate::desired::{Finished, RunState};
use crate::observed::{Exit, Instance, Seen, Task};

#[track_caller]
fn check(
    change: impl FnOnce(&mut Record, &mut History),
    task: Task,
    activity: Option<Activity>,
    expected: (Status, Option<Reason>),
) {
    let (mut record, mut history) = (record("a", 1), History::default());
    change(&mut record, &mut history);
    let seen = Seen {
        instances: [(1, Instance::from(task))].into(),
    };
    let phase = Phase::of(
        record.id,
        Some(&record),
        &seen,
        &history,
        &Surroundings::NONE,
    );
    let condition = condition(&record, &phase, &history, activity, None);
    assert_eq!((condition.status, condition.reason), expected);
    assert_eq!(condition.reason.is_some(), condition.message.is_some());
}

const RUNNING: Task = Task::Running {
    pid: 1,
    since: None,
};

fn fail(history: &mut History, cause: Cause, reason: Reason) {
    history.record_failure(
        cause,
        reason,
        "why".to_owned(),
        BootTime::default(),
        Duration::from_secs(1),
    );
}

#[test]
fn the_word_is_the_one_in_json() {
    for status in Status::ALL {
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
    }
}

#[test]
fn the_usual_way_is_pending_pulling_creating_running() {
    check(|_, _| (), Task::Absent, None, (Status::Pending, None));
    check(
        |_, _| (),
        Task::Absent,
        Some(Activity::Pulling),
        (Status::Pulling, None),
    );
    check(
        |_, _| (),
        Task::Absent,
        Some(Activity::Creating),
        (Status::Creating, None),
    );
    check(
        |_, _| (),
        RUNNING,
        Some(Activity::Creating),
        (Status::Running, None),
    );
    check(|_, _| (), RUNNING, None, (Status::Running, None));
}

#[test]
fn what_failed_says_why_while_it_waits_and_while_it_tries_again() {
    let bad = |_: &mut Record, m: &mut History| fail(m, Cause::Start, Reason::ImageNotFound);
    check(
        bad,
        Task::Absent,
        None,
        (Status::Failed, Some(Reason::ImageNotFound)),
    );
    check(
        bad,
        Task::Absent,
        Some(Activity::Pulling),
        (Status::Pulling, Some(Reason::ImageNotFound)),
    );
}

#[test]
fn what_ended_is_restarting_or_done() {
    let exit = || {
        Task::Stopped(Exit {
            code: 1,
            at: SystemTime::UNIX_EPOCH,
            out_of_memory: true,
        })
    };
    check(
        |_, m| fail(m, Cause::Exit, Reason::OutOfMemory),
        exit(),
        None,
        (Status::Restarting, Some(Reason::OutOfMemory)),
    );
    let finish = |code| {
        move |r: &mut Record, _: &mut History| {
            r.finished = Some(Finished {
                code,
                reason: Reason::Completed,
                at_ms: 0,
            });
        }
    };
    check(
        finish(0),
        Task::Absent,
        None,
        (Status::Stopped, Some(Reason::Completed)),
    );
    check(
        finish(2),
        Task::Absent,
        None,
        (Status::Failed, Some(Reason::Completed)),
    );
}

#[test]
fn what_a_cordoned_node_does_not_start_says_so() {
    let (record, history) = (
        Record {
            cordoned: true,
            ..record("a", 1)
        },
        History::default(),
    );
    let phase = Phase::of(
        record.id,
        Some(&record),
        &Seen::default(),
        &history,
        &Surroundings::NONE,
    );
    let condition = condition(&record, &phase, &history, None, None);
    assert_eq!(
        (condition.status, condition.reason),
        (Status::Pending, Some(Reason::NodeCordoned))
    );
}

#[test]
fn stopping_ends_as_stopped_and_removing_stays_removing() {
    let stop = |r: &mut Record, _: &mut History| r.run = RunState::Stopped;
    check(
        stop,
        RUNNING,
        Some(Activity::Stopping),
        (Status::Stopping, None),
    );
    check(
        stop,
        Task::Absent,
        None,
        (Status::Stopped, Some(Reason::StopRequested)),
    );
    check(
        |r, _| r.removing = true,
        RUNNING,
        None,
        (Status::Removing, None),
    );
    let stuck = |r: &mut Record, m: &mut History| {
        r.removing = true;
        fail(m, Cause::End, Reason::RemoveFailed);
    };
    check(
        stuck,
        RUNNING,
        None,
        (Status::Removing, Some(Reason::RemoveFailed)),
    );
}

#[test]
fn what_used_up_its_restarts_for_memory_says_so_with_its_remedy() {
    let (mut record, mut history) = (record("a", 1), History::default());
    record.spec.resources.memory = Some(crate::quantity::ByteCount(1 << 24));
    record.spec.restart.max_retries = Some(1);
    let exit = Exit {
        code: Exit::KILLED,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        out_of_memory: true,
    };
    history.last_exit = Some(exit);
    record.finished = Some(Finished {
        code: Exit::KILLED,
        reason: Reason::RetriesExhausted,
        at_ms: 1000,
    });
    let phase = Phase::of(
        record.id,
        Some(&record),
        &Seen::default(),
        &history,
        &Surroundings::NONE,
    );
    let condition = condition(&record, &phase, &history, None, None);
    assert_eq!(condition.reason, Some(Reason::RetriesExhausted));
    let message = condition.message.unwrap();
    assert!(message.contains("more memory than its limit"), "{message}");
    assert!(message.contains("max_retries (1)"), "{message}");
    assert!(remedy(Reason::RetriesExhausted, &history).contains("resources.memory"));
    history.last_exit = None;
    let plain = remedy(Reason::RetriesExhausted, &history);
    assert_eq!(plain, Reason::RetriesExhausted.remedy());
}

#[test]
fn a_job_that_ended_never_waits_for_a_restart_that_does_not_come() {
    use crate::spec::RestartPolicy;
    for (policy, code, expected) in [
        (
            RestartPolicy::Never,
            0,
            (Status::Stopped, Reason::Completed),
        ),
        (
            RestartPolicy::OnFailure,
            0,
            (Status::Stopped, Reason::Completed),
        ),
        (RestartPolicy::Never, 3, (Status::Failed, Reason::Exited)),
        (
            RestartPolicy::OnFailure,
            3,
            (Status::Restarting, Reason::Exited),
        ),
        (
            RestartPolicy::Always,
            0,
            (Status::Restarting, Reason::ExitedCleanly),
        ),
    ] {
        let (mut record, mut history) = (record("a", 1), History::default());
        record.spec.restart.policy = policy;
        let exit = Exit {
            code,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(9),
            out_of_memory: false,
        };
        let seen = Seen {
            instances: [(1, Instance::from(Task::Stopped(exit)))].into(),
        };
        history.record_start(BootTime::default());
        history.record_observation(&record, &seen, BootTime::default(), |_| Duration::ZERO);
        let phase = Phase::of(
            record.id,
            Some(&record),
            &seen,
            &history,
            &Surroundings::NONE,
        );
        let condition = condition(&record, &phase, &history, None, None);
        assert_eq!(
            (condition.status, condition.reason),
            (expected.0, Some(expected.1))
        );
    }
}

#[test]
fn what_was_started_and_does_not_answer_is_not_settled() {
    let of = |status, reason| Condition {
        reason,
        ..Condition::plain(status)
    };
    for (status, reason, is_settled) in [
        (Status::Running, None, true),
        // Its last failure, while it is tried again.
        (Status::Running, Some(Reason::CrashLoop), true),
        (Status::Running, Some(Reason::ShimUnresponsive), false),
        (Status::Stopped, Some(Reason::StopRequested), true),
        (Status::Failed, Some(Reason::PortTaken), false),
    ] {
        assert_eq!(
            of(status, reason).is_settled(),
            is_settled,
            "{status:?} {reason:?}"
        );
    }
}
