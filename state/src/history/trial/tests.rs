//! Runs of the generation before, and what is known of an instance that is gone back to.

use std::time::{Duration, SystemTime};

use crate::desired::Record;
use crate::desired::tests::record;
use crate::desired::update::{Update, UpdateStage};
use crate::history::History;
use crate::observed::{Exit, Seen, Task};
use crate::time::BootTime;

const RUNNING: Task = Task::Running {
    pid: 1,
    since: None,
};

fn at(second: u64) -> BootTime {
    BootTime::default().after(Duration::from_secs(second))
}

fn ended(second: u64) -> Task {
    Task::Stopped(Exit {
        code: 1,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        out_of_memory: false,
    })
}

fn seen(tasks: &[(u64, Task)]) -> Seen {
    let instances = tasks.iter().cloned();
    Seen {
        instances: instances.map(|(made, task)| (made, task.into())).collect(),
    }
}

/// Generation 2, on trial beside generation 1.
fn tried() -> Record {
    Record {
        update: Some(Update {
            stage: UpdateStage::Trying,
            is_beside: true,
            serving: None,
            former: Box::new(record("a", 1)),
        }),
        generation: 2,
        ..record("a", 1)
    }
}

fn look(history: &mut History, record: &Record, tasks: &[(u64, Task)], second: u64) {
    let wait = |exits: u32| Duration::from_secs(1_u64 << exits);
    history.record_observation(record, &seen(tasks), at(second), wait);
}

#[test]
fn a_start_of_the_generation_before_counts_also_if_its_answer_was_lost() {
    for is_told in [true, false] {
        let (record, mut history) = (tried(), History::default());
        look(&mut history, &record, &[(1, RUNNING)], 1);
        let mut waits = Vec::new();
        for second in [10, 20, 30] {
            look(&mut history, &record, &[(1, ended(second))], second);
            waits.push(history.trial.former.retry_at.since(at(second)).as_secs());
            if is_told {
                history.trial.record_revival(at(second + 1));
            }
            // The agent is killed, or containerd away, once the process runs.
            let stored = serde_json::to_string(&history).unwrap();
            history = serde_json::from_str(&stored).unwrap();
            look(&mut history, &record, &[(1, RUNNING)], second + 2);
            look(&mut history, &record, &[(1, RUNNING)], second + 3);
        }
        assert_eq!(waits, [0, 1, 2], "{is_told}");
        assert_eq!(history.trial.former.starts, 3);
    }
}

#[test]
fn a_start_that_failed_and_was_one_all_the_same_counts_once() {
    let (record, mut history) = (tried(), History::default());
    look(&mut history, &record, &[(1, RUNNING)], 1);
    look(&mut history, &record, &[(1, ended(2))], 2);
    history
        .trial
        .record_failed_revival(at(3), Duration::from_secs(1));
    look(&mut history, &record, &[(1, RUNNING)], 4);
    assert_eq!(history.trial.former.starts, 1);
}

#[test]
fn an_instance_that_was_started_in_this_boot_waits_for_nobody_before_and_after_a_trial() {
    let (former, next) = (record("a", 1), tried());
    let mut history = History::default();
    look(&mut history, &former, &[(1, RUNNING)], 1);
    // Its shim is killed, and meanwhile the next generation comes.
    look(&mut history, &next, &[(1, Task::Absent)], 2);
    assert!(!history.is_let_go(&next), "it was never started itself");
    assert!(history.of_former(&former).is_let_go(&former));
    // The next one is given up while the one before is still down.
    let back = Record {
        made_at: Some(1),
        update: Some(Update {
            stage: UpdateStage::Leaving,
            is_beside: false,
            serving: None,
            former: Box::new(next.without_update()),
        }),
        generation: 3,
        ..record("a", 1)
    };
    look(&mut history, &back, &[(1, Task::Absent)], 3);
    assert!(history.is_let_go(&back));
    let anew = Record {
        made_at: None,
        ..back
    };
    assert!(!history.of(&anew).is_let_go(&anew), "another instance");
}
