use std::time::SystemTime;

use super::*;
use crate::desired::tests::record;
use crate::observed::Instance;

fn seen(task: Task) -> Seen {
    Seen {
        instances: [(1, Instance { task })].into(),
    }
}

fn exit(at: u64) -> Task {
    Task::Stopped(Exit {
        code: 3,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
        out_of_memory: false,
    })
}

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

fn doubling(n: u32) -> Duration {
    Duration::from_secs(1 << n)
}

#[test]
fn the_first_restart_is_immediate_and_the_next_wait_longer_and_longer() {
    let (record, mut history) = (record("a", 1), History::default());
    let mut waits = Vec::new();
    for n in 0..4 {
        history.record_start(at(100 * n));
        history.record_observation(&record, &seen(exit(n)), at(100 * n + 1), doubling);
        waits.push(
            history
                .backoff
                .clone()
                .unwrap()
                .retry_at
                .since(at(100 * n + 1))
                .as_secs(),
        );
    }
    assert_eq!(waits, [0, 1, 2, 4]);
    assert_eq!(history.restart_count, 3);
}

#[test]
fn one_end_counts_once_however_often_it_is_seen() {
    let (record, mut history) = (record("a", 1), History::default());
    for _ in 0..5 {
        history.record_observation(&record, &seen(exit(1)), at(1), doubling);
    }
    assert_eq!(history.exits, 1);
}

#[test]
fn a_healthy_life_forgets_what_was_before() {
    let (record, mut history) = (record("a", 1), History::default());
    for n in 0..3 {
        history.record_start(at(n));
        history.record_observation(&record, &seen(exit(n)), at(n), doubling);
    }
    history.record_start(at(1000));
    history.record_observation(&record, &seen(exit(99)), at(1600), doubling);
    assert_eq!(
        (history.exits, history.backoff.unwrap().retry_at),
        (1, at(1600))
    );
}

#[test]
fn a_life_that_began_before_the_agent_counts_from_its_beginning() {
    let (record, mut history) = (record("a", 1), History::default().of(&record("a", 1)));
    history.exits = 3;
    history.record_observation(
        &record,
        &seen(Task::Running {
            pid: 1,
            since: Some(at(10)),
        }),
        at(700),
        doubling,
    );
    assert_eq!(history.started, Some(at(10)));
    history.record_observation(&record, &seen(exit(1)), at(701), doubling);
    assert_eq!(history.exits, 1);
}

#[test]
fn the_end_of_what_was_to_end_is_no_setback() {
    let (mut record, mut history) = (record("a", 1), History::default());
    history.record_start(at(1));
    record.run = RunState::Stopped;
    history.record_observation(&record, &seen(exit(1)), at(2), doubling);
    assert_eq!((history.exits, &history.backoff), (0, &None));
    history.record_failure(
        Cause::End,
        Reason::StopFailed,
        String::new(),
        at(3),
        Duration::from_secs(1),
    );
    history.record_observation(&record, &seen(exit(1)), at(4), doubling);
    assert!(history.backoff.is_some());
    history.record_stop();
    assert_eq!(history.backoff, None, "it has stopped after all");
}

#[test]
fn a_task_that_vanished_counts_as_an_end() {
    let (record, mut history) = (record("a", 1), History::default());
    history.record_observation(
        &record,
        &seen(Task::Running {
            pid: 1,
            since: None,
        }),
        at(1),
        doubling,
    );
    history.record_observation(&record, &seen(Task::Absent), at(2), doubling);
    history.record_observation(&record, &seen(Task::Absent), at(3), doubling);
    assert_eq!(
        (history.exits, history.ended.map(|exit| exit.code)),
        (1, Some(137))
    );
}

#[test]
fn each_way_to_end_has_its_reason_until_it_is_a_crash_loop() {
    let exit = |code, out_of_memory| Exit {
        code,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        out_of_memory,
    };
    for (exit, reason) in [
        (exit(1, false), Reason::Exited),
        (exit(0, false), Reason::ExitedCleanly),
        (exit(139, false), Reason::Signaled),
        (exit(255, false), Reason::Exited),
        (exit(137, true), Reason::OutOfMemory),
        (Exit::LOST, Reason::ShimLost),
    ] {
        assert_eq!(explain(&exit, 1).0, reason, "{exit:?}");
        let loops = if reason == Reason::OutOfMemory {
            reason
        } else {
            Reason::CrashLoop
        };
        assert_eq!(explain(&exit, CRASH_LOOP_EXITS).0, loops, "{exit:?}");
    }
}

#[test]
fn a_new_generation_starts_with_a_clean_slate() {
    let (mut record, mut history) = (record("a", 1), History::default());
    history.record_observation(&record, &seen(exit(1)), at(1), doubling);
    record.generation = 2;
    history.record_observation(&record, &seen(exit(1)), at(2), doubling);
    assert_eq!(
        history,
        History {
            generation: 2,
            ..History::default()
        }
    );
}

#[test]
fn a_setback_holds_up_only_steps_of_its_kind() {
    let mut history = History::default();
    history.record_failure(
        Cause::Start,
        Reason::CreateFailed,
        String::new(),
        at(1),
        Duration::from_secs(5),
    );
    assert_eq!(history.waits(Cause::Start, true, at(5)), Some(at(6)));
    assert_eq!(history.waits(Cause::End, false, at(5)), None);
    assert_eq!(history.waits(Cause::Start, false, at(6)), None);
    history.backoff.as_mut().unwrap().cause = Cause::Exit;
    assert_eq!(
        (
            history.waits(Cause::Start, true, at(5)),
            history.waits(Cause::Start, false, at(5))
        ),
        (None, Some(at(6)))
    );
}
