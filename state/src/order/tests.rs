use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::desired::Finished;
use crate::desired::tests::record;
use crate::observed::{Exit, Instance, Task};
use crate::reason::Reason;

const NOW: BootTime = BootTime(Duration::from_secs(100));

/// A container that waits for these.
fn waiting(after: &Value) -> Record {
    let body = json!({"name": "web", "image": "nginx", "after": after});
    let spec = crate::spec::parse::deploy(&body).unwrap().spec;
    Record {
        spec,
        ..record("web", 1)
    }
}

fn running() -> Seen {
    let task = Task::Running {
        pid: 7,
        since: None,
    };
    Seen {
        instances: [(1, Instance::from(task))].into(),
    }
}

fn stopped(code: u32) -> Seen {
    let task = Task::Stopped(Exit {
        code,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        out_of_memory: false,
    });
    Seen {
        instances: [(1, Instance::from(task))].into(),
    }
}

/// A container as the looks at it left it, one after the other.
fn other(record: Record, looks: &[Seen]) -> Other {
    let mut history = History::default();
    for seen in looks {
        let wait = |_| Duration::from_secs(1);
        history.record_observation(&record, seen, NOW, wait);
    }
    Other {
        suspension: None,
        record: Arc::new(record),
        seen: looks.last().cloned().unwrap_or_default(),
        history,
        activity: None,
    }
}

/// The sentence about a wait for `db`; empty: it is over.
fn told(condition: &str, db: Option<&Other>) -> String {
    let record = waiting(&json!([{"name": "db", "condition": condition}]));
    let find = |name: &ContainerName| db.filter(|_| name.as_str() == "db").cloned();
    let waits = waits(&record, &History::default(), find, NOW);
    waits.map_or_else(String::new, |mut waits| {
        let without_words = waits.message();
        tell(&mut waits, find, NOW);
        let told = waits.message();
        assert!(told.starts_with(&without_words) && told != without_words);
        told
    })
}

fn db(change: impl FnOnce(&mut Record)) -> Record {
    let mut db = record("db", 2);
    change(&mut db);
    db
}

fn finished(code: u32) -> Option<Finished> {
    Some(Finished {
        code,
        reason: Reason::Exited,
        at_ms: 0,
    })
}

#[test]
fn each_condition_is_met_by_its_state_and_any_other_is_told() {
    let plain = || db(|_| ());
    let due = other(plain(), &[]);
    let runs = other(plain(), &[running()]);
    let crashed = other(plain(), &[running(), stopped(1)]);
    let done = other(db(|db| db.finished = finished(0)), &[running(), stopped(0)]);
    let failed = other(db(|db| db.finished = finished(3)), &[]);
    let at_rest = other(db(|db| db.run = RunState::Stopped), &[]);
    let leaving = other(db(|db| db.removing = true), &[running()]);
    let unresolved = other(db(|db| db.image_digest = None), &[]);
    let cordoned = other(db(|db| db.cordoned = true), &[]);
    for (found, [started, ready, completed]) in [
        (None, ["is no container of this node"; 3]),
        (Some(due), ["is pending"; 3]),
        (Some(runs), ["", "", "runs, and never completes"]),
        (
            Some(crashed),
            [
                "",
                "is restarting (Exited: ended with exit code 1)",
                "is restarting",
            ],
        ),
        (Some(done), ["", "is stopped", ""]),
        (
            Some(failed),
            [
                "",
                "is failed (Exited: ended with exit code 3",
                "exit code 3",
            ],
        ),
        (
            Some(at_rest),
            ["is stopped (StopRequested: the container was asked to stop)"; 3],
        ),
        (Some(leaving), ["is removing"; 3]),
        (Some(unresolved), ["is pending"; 3]),
        (Some(cordoned), ["is pending (NodeCordoned"; 3]),
    ] {
        for (condition, expected) in [
            ("started", started),
            ("ready", ready),
            ("completed", completed),
        ] {
            let said = told(condition, found.as_ref());
            assert!(
                said.contains(expected),
                "{condition}, {expected:?}: {said:?}"
            );
            assert_eq!(
                said.is_empty(),
                expected.is_empty(),
                "{condition}: {said:?}"
            );
        }
    }
    assert_eq!(
        told("ready", None),
        "waits for db to be ready, which is no container of this node"
    );
}

#[test]
fn one_that_waits_itself_is_told_as_that() {
    let mut db = db(|_| ());
    db.spec = waiting(&json!([{"name": "migrate", "condition": "completed"}])).spec;
    let said = told("started", Some(&other(db, &[])));
    assert_eq!(
        said,
        "waits for db to be started, which waits itself, for migrate"
    );
}

#[test]
fn a_failed_start_is_told_with_its_reason() {
    let mut db = other(db(|_| ()), &[Seen::default()]);
    let (cause, wait) = (crate::history::Cause::Start, Duration::from_secs(9));
    db.history.record_failure(
        cause,
        Reason::PortTaken,
        "port 80 is taken".to_owned(),
        NOW,
        wait,
    );
    let said = told("started", Some(&db));
    assert!(
        said.ends_with("is failed (PortTaken: port 80 is taken)"),
        "{said}"
    );
}

#[test]
fn an_earlier_generation_of_the_other_counts_for_nothing() {
    let mut found = other(db(|_| ()), &[running()]);
    assert_eq!(told("ready", Some(&found)), "");
    let next = Record {
        generation: 2,
        ..Record::clone(&found.record)
    };
    found.record = Arc::new(next.clone());
    assert!(!told("ready", Some(&found)).is_empty());
    assert!(!told("started", Some(&found)).is_empty());
    // A live change goes on in the same instance.
    found.record = Arc::new(Record {
        made_at: Some(1),
        ..next
    });
    assert_eq!(told("ready", Some(&found)), "");
    assert_eq!(told("started", Some(&found)), "");
}

#[test]
fn a_wait_ends_after_its_time_and_never_begins_again_in_a_boot() {
    let record = waiting(&json!([
        {"name": "db", "condition": "ready", "timeout": "5m"},
        {"name": "cache", "condition": "ready", "timeout": "1m"},
    ]));
    let mut history = History::default();
    history.record_observation(&record, &Seen::default(), NOW, |_| Duration::ZERO);
    history.record_waiting(NOW);
    let at = |secs| NOW.after(Duration::from_secs(secs));
    let nobody = |_: &ContainerName| None;
    let open = |history: &History, now| {
        let waits = waits(&record, history, nobody, now);
        let names = |waits: Waits| {
            waits
                .entries
                .iter()
                .map(|e| e.name.to_string())
                .collect::<Vec<_>>()
        };
        (
            waits.as_ref().and_then(|waits| waits.until),
            waits.map(names).unwrap_or_default(),
        )
    };
    let both = vec!["db".to_owned(), "cache".to_owned()];
    assert_eq!(open(&history, at(59)), (Some(at(300)), both));
    assert_eq!(
        open(&history, at(60)),
        (Some(at(300)), vec!["db".to_owned()])
    );
    assert_eq!(open(&history, at(300)), (None, Vec::new()));
    assert_eq!(given_up(&record, &history, nobody, at(60)).len(), 1);
    assert_eq!(given_up(&record, &history, nobody, at(300)).len(), 2);
    // Its own start ends it, whatever becomes of it and of the others.
    history.record_start(at(2));
    assert_eq!(open(&history, at(3)).1, Vec::<String>::new());
    history.record_observation(&record, &stopped(1), at(4), |_| Duration::ZERO);
    assert_eq!(open(&history, at(5)).1, Vec::<String>::new());
    let stored = |boot_id: &str| crate::history::StoredHistory {
        boot_id: boot_id.to_owned(),
        history: history.clone(),
    };
    assert_eq!(
        open(&stored("a").in_boot("a"), at(6)).1,
        Vec::<String>::new()
    );
    assert_eq!(open(&stored("a").in_boot("b"), at(6)).1.len(), 2);
}

#[test]
fn whoever_is_let_go_waits_no_more_before_its_start_and_the_first_time_out_is_looked_at() {
    let record = waiting(&json!([
        {"name": "migrate", "condition": "completed"},
        {"name": "db", "condition": "ready", "timeout": "5m"},
        {"name": "cache", "timeout": "9m"},
    ]));
    let mut history = History::default();
    history.record_observation(&record, &Seen::default(), NOW, |_| Duration::ZERO);
    history.record_waiting(NOW);
    let nobody = |_: &ContainerName| None;
    let found = waits(&record, &history, nobody, NOW).unwrap();
    assert_eq!(
        (found.until, found.next),
        (None, Some(NOW.after(Duration::from_mins(5))))
    );
    assert!(is_waiting(&record, &history, nobody, NOW));
    history.record_let_go();
    assert!(!is_waiting(&record, &history, nobody, NOW));
    assert!(!history.is_let_start(&record));
    let next = Record {
        generation: 2,
        ..record
    };
    assert!(
        is_waiting(&next, &history.of(&next), nobody, NOW),
        "another instance waits"
    );
}

/// The database on its way to another generation beside the one that serves.
fn updating() -> Record {
    let former = db(|_| {});
    let mut next = Record {
        generation: 2,
        image_digest: None,
        ..former.clone()
    };
    next.update = Some(crate::desired::update::Update {
        stage: crate::desired::update::UpdateStage::Trying,
        is_beside: true,
        serving: None,
        former: Box::new(former),
    });
    next
}

#[test]
fn a_trial_that_goes_nowhere_holds_nobody_while_the_one_before_serves() {
    for condition in ["started", "ready"] {
        assert!(!told(condition, Some(&other(updating(), &[]))).is_empty());
        assert_eq!(told(condition, Some(&other(updating(), &[running()]))), "");
    }
    let ended = other(updating(), &[running(), stopped(1)]);
    assert_eq!(told("started", Some(&ended)), "");
    assert!(!told("ready", Some(&ended)).is_empty());
    assert!(!told("completed", Some(&ended)).is_empty());
}

#[test]
fn what_serves_waits_at_a_cold_boot_as_any_start_does() {
    let after = json!([{"name": "db", "condition": "started", "timeout": "60s"}]);
    let mut next = updating();
    let former = next.update.as_mut().unwrap();
    former.former.spec = waiting(&after).spec;
    let find = |_: &ContainerName| None;
    let mut history = History::default();
    let former_waits = |history: &History, now| former_waits(&next, history, find, |_| None, now);
    let waits = former_waits(&history, NOW).unwrap();
    let seen = Seen::default();
    let delay = |_: u32| Duration::from_secs(1);
    history.record_observation(&next, &seen, NOW, delay);
    history.trial.record_waiting(NOW);
    let around = Surroundings {
        former_waits: Some(waits),
        ..Surroundings::NONE
    };
    let decided = |around: &Surroundings, history: &History| {
        let record = Some(&next);
        crate::plan::decide(next.id, record, &seen, history, around, NOW).step
    };
    assert_eq!(decided(&around, &history), crate::plan::Step::Pull);
    let revive = crate::plan::Step::Revive(next.serving().instance());
    assert_eq!(decided(&Surroundings::NONE, &history), revive);
    let end = NOW.after(Duration::from_secs(60));
    assert_eq!(former_waits(&history, end), None, "for so long at most");
    history.trial.record_revival(NOW);
    assert_eq!(former_waits(&history, NOW), None, "once in a boot");
}

#[test]
fn what_serves_does_not_wait_for_those_that_wait_for_it() {
    let after = json!([{"name": "db", "condition": "started"}]);
    let mut next = updating();
    next.update.as_mut().unwrap().former.spec = waiting(&after).spec;
    let (history, find) = (History::default(), |_: &ContainerName| None);
    let free = |former: &Record| {
        let mut left = former.clone();
        left.spec.after.clear();
        Some(left)
    };
    assert!(former_waits(&next, &history, find, |_| None, NOW).is_some());
    assert_eq!(former_waits(&next, &history, find, free, NOW), None);
}
