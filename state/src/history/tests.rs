use std::time::SystemTime;

use super::*;
use crate::desired::Finished;
use crate::desired::tests::record;
use crate::observed::{CarriedSpec, Instance};

fn seen(task: Task) -> Seen {
    Seen {
        instances: [(1, Instance::from(task))].into(),
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
fn a_change_of_live_parts_waits_for_nothing_and_forgets_no_run() {
    let (mut record, mut history) = (record("a", 1), History::default());
    for n in 0..4 {
        history.record_start(at(10 * n));
        history.record_observation(&record, &seen(exit(n)), at(10 * n + 1), doubling);
    }
    let before = history.clone();
    (record.generation, record.made_at) = (2, Some(1));
    history.record_observation(&record, &seen(exit(3)), at(40), doubling);
    assert_eq!(
        (history.exits, history.attempts, &history.backoff),
        (0, 0, &None)
    );
    // The end that was counted is not counted again, and its restart still counts as one.
    assert_eq!(history.ended, before.ended);
    assert_eq!(
        (history.last_exit.clone(), history.restart_count),
        (before.last_exit, 3)
    );
    history.record_start(at(41));
    let running = Task::Running {
        pid: 7,
        since: None,
    };
    history.record_observation(&record, &seen(running), at(42), doubling);
    (record.generation, record.made_at) = (3, Some(1));
    history.record_observation(&record, &seen(exit(50)), at(50), doubling);
    let run = Some(Duration::from_secs(9));
    assert_eq!(
        (history.restart_count, history.exits, history.last_run),
        (4, 0, run)
    );
    // Nor is waited out what ended it before it was brought up to the record.
    assert_eq!(history.backoff, None);
    let carries = Some(CarriedSpec::of(&record));
    let of_last = |task| Seen {
        instances: [(
            1,
            Instance {
                carries: carries.clone(),
                ..Instance::from(task)
            },
        )]
        .into(),
    };
    history.record_start(at(51));
    history.record_observation(&record, &of_last(exit(52)), at(52), doubling);
    let waits = history.backoff.is_some();
    assert_eq!((waits, history.exits), (true, 1));
    // Of another instance nothing is known.
    (record.generation, record.made_at) = (4, None);
    let history = history.of(&record);
    assert_eq!(
        (history.restart_count, history.exits, history.last_run),
        (0, 0, None)
    );
    (record.generation, record.made_at) = (5, Some(4));
    assert_eq!(history.of(&record).made_at, Some(4));
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
    history.record_stop(None, BootTime::default());
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
fn a_task_whose_end_was_stored_before_it_was_deleted_is_not_lost() {
    let (mut record, mut history) = (record("a", 1), History::default());
    let running = Task::Running {
        pid: 1,
        since: Some(at(0)),
    };
    history.record_observation(&record, &seen(running), at(1), doubling);
    // The agent was killed after the deletion, and its history is from before.
    record.finished = Some(Finished {
        code: 0,
        reason: Reason::Completed,
        at_ms: 7,
    });
    history.record_observation(&record, &seen(Task::Absent), at(2), doubling);
    let known = record.finished.as_ref().map(Exit::stored);
    assert_eq!((history.last_exit, history.exits), (known, 0));
    assert_eq!(
        (history.started, history.last_run),
        (None, Some(Duration::from_secs(2)))
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
        let record = record("a", 1);
        assert_eq!(explain(&record, &exit, 1, None).0, reason, "{exit:?}");
        let loops = if reason == Reason::OutOfMemory {
            reason
        } else {
            Reason::CrashLoop
        };
        assert_eq!(
            explain(&record, &exit, CRASH_LOOP_EXITS, None).0,
            loops,
            "{exit:?}"
        );
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

fn looked(task: Task, kills: u64) -> Seen {
    let memory_kills = Some(kills);
    Seen {
        instances: [(
            1,
            Instance {
                memory_kills,
                ..Instance::from(task)
            },
        )]
        .into(),
    }
}

fn killed(second: u64) -> Task {
    Task::Stopped(Exit {
        code: Exit::KILLED,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        out_of_memory: false,
    })
}

const RUNNING: Task = Task::Running {
    pid: 1,
    since: None,
};

#[test]
fn an_end_is_for_memory_only_if_the_kernel_killed_one_since_the_look_before() {
    for (kills_while_running, kills_at_end, reason) in [
        (0, 0, Reason::Signaled),
        (0, 1, Reason::OutOfMemory),
        (1, 1, Reason::Signaled),
        (1, 2, Reason::OutOfMemory),
        // A control group that was made anew.
        (3, 1, Reason::Signaled),
    ] {
        let (record, mut history) = (record("a", 1), History::default());
        history.record_start(at(1));
        let look = looked(RUNNING, kills_while_running);
        history.record_observation(&record, &look, at(2), doubling);
        let end = killed(3);
        history.record_observation(&record, &looked(end.clone(), kills_at_end), at(3), doubling);
        let case = (kills_while_running, kills_at_end);
        assert_eq!(
            history.last_exit.as_ref().unwrap().reason(),
            reason,
            "{case:?}"
        );
        assert_eq!(history.backoff.as_ref().unwrap().reason, reason, "{case:?}");
        let Task::Stopped(found) = &end else {
            unreachable!()
        };
        assert_eq!(history.known_exit(found).reason(), reason, "{case:?}");
        let again =
            history.record_observation(&record, &looked(end, kills_at_end), at(4), doubling);
        assert_eq!((again, history.exits), (0, 1), "one end counts once");
    }
}

#[test]
fn each_kill_for_memory_counts_once_over_all_runs_of_a_generation() {
    let (mut record, mut history) = (record("a", 1), History::default());
    let look = |history: &mut History, record: &Record, task, kills, second| {
        history.record_observation(record, &looked(task, kills), at(second), doubling)
    };
    let counts = [
        look(&mut history, &record, RUNNING, 2, 1),
        look(&mut history, &record, RUNNING, 2, 2),
        look(&mut history, &record, killed(3), 3, 3),
    ];
    assert_eq!(counts, [2, 0, 1]);
    history.record_start(at(4));
    assert_eq!(look(&mut history, &record, RUNNING, 1, 5), 1);
    assert_eq!(
        (history.memory_kills.total, history.memory_kills.last),
        (4, Some(at(5)))
    );
    record.generation = 2;
    look(&mut history, &record, RUNNING, 0, 6);
    assert_eq!(history.memory_kills, MemoryKills::default());
}

#[test]
fn a_failure_that_was_overcome_is_still_told_and_another_boot_forgets_only_its_time() {
    let mut history = History::default();
    let why = "no such tag".to_owned();
    history.record_failure(
        Cause::Start,
        Reason::ImageNotFound,
        why,
        at(1),
        Duration::ZERO,
    );
    history.record_start(at(2));
    assert_eq!(history.backoff, None);
    let failure = history.last_failure.clone().unwrap();
    assert_eq!(
        (failure.reason, failure.at),
        (Reason::ImageNotFound, Some(at(1)))
    );
    let stored = StoredHistory {
        boot_id: "one".to_owned(),
        history,
    };
    let failure = stored.in_boot("two").last_failure.unwrap();
    assert_eq!((failure.reason, failure.at), (Reason::ImageNotFound, None));
}

#[test]
fn a_kill_without_a_limit_is_the_nodes_want_of_memory() {
    let mut record = record("a", 1);
    let exit = Exit {
        out_of_memory: true,
        ..Exit::LOST
    };
    let exit = Exit {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        ..exit
    };
    assert!(how_it_ended(&record, &exit).contains("the node ran out of memory"));
    record.spec.resources.memory = Some(crate::quantity::ByteCount(1 << 24));
    assert!(how_it_ended(&record, &exit).contains("more memory than its limit"));
}

#[test]
fn the_number_of_an_exit_is_written_as_one_says_it() {
    let said = [1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111].map(words::ordinal);
    let expected = [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_stop_keeps_how_and_when_the_container_ended_and_how_long_it_ran() {
    let mut history = History::default();
    history.record_start(BootTime(Duration::from_secs(100)));
    let exit = Exit {
        code: 143,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(7),
        out_of_memory: false,
    };
    history.record_stop(Some(exit.clone()), BootTime(Duration::from_secs(160)));
    assert_eq!(history.last_exit, Some(exit.clone()));
    assert_eq!(history.last_run, Some(Duration::from_secs(60)));
    assert_eq!((history.started, history.exits), (None, 0));
    // The same end told again, or a stop of what did not run, changes nothing of that.
    history.record_stop(Some(exit.clone()), BootTime(Duration::from_secs(900)));
    history.record_stop(None, BootTime(Duration::from_secs(901)));
    assert_eq!(
        (history.last_exit, history.last_run),
        (Some(exit), Some(Duration::from_secs(60)))
    );
}

#[test]
fn a_generation_that_is_gone_back_to_gives_up_its_ports_anew() {
    let (mut next, former) = (record("a", 1), record("a", 1));
    next.generation = 2;
    let update = |stage| {
        Some(crate::desired::update::Update {
            stage,
            is_beside: true,
            serving: None,
            former: Box::new(former.clone()),
        })
    };
    use crate::desired::update::UpdateStage::{Switched, Trying};
    let mut history = History::default();
    let (instance, seen) = (former.instance(), Seen::default());
    for (stage, drains) in [(Switched, true), (Trying, false)] {
        next.update = update(stage);
        if drains {
            history.trial.record_connections(instance, Some(3), at(1));
        }
        history.record_observation(&next, &seen, at(2), doubling);
        assert_eq!(history.trial.drain_of(instance).is_some(), drains);
    }
}
