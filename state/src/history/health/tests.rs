use std::time::SystemTime;

use super::*;
use crate::desired::tests::record;
use crate::history::Cause;
use crate::observed::{Seen, Task};
use crate::reason::Reason;
use crate::spec::{Health, Probe};

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

fn check(on_failure: OnFailure) -> HealthCheck {
    HealthCheck {
        on_failure,
        ..HealthCheck::of(Probe::Tcp { port: 80 })
    }
}

fn probed(on_failure: OnFailure) -> Record {
    let mut record = record("a", 1);
    record.spec.health = Some(Health::Check(check(on_failure)));
    record
}

fn seen(task: Task) -> Seen {
    Seen {
        instances: [(1, Instance::from(task))].into(),
    }
}

fn running(since: u64) -> Seen {
    seen(Task::Running {
        pid: 7,
        since: Some(at(since)),
    })
}

fn exit(code: u32, second: u64) -> Exit {
    Exit {
        code,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        out_of_memory: false,
    }
}

fn look(history: &mut History, record: &Record, seen: &Seen, second: u64) {
    history.record_observation(record, seen, at(second), |_| Duration::from_secs(9));
}

fn answer(history: &mut History, record: &Record, is_success: bool, second: u64) -> VerdictChange {
    let check = record.spec.health.as_ref().and_then(Health::check).unwrap();
    let started = history.started.unwrap();
    let answer = ProbeAnswer {
        is_success,
        text: "HTTP 503".to_owned(),
        at: at(second),
    };
    history.record_answer(check, started, &answer)
}

/// A history of a container that started at 10 s, and whose probe has failed three times.
fn unhealthy(record: &Record) -> History {
    let mut history = History::default();
    look(&mut history, record, &running(10), 11);
    for second in 12..15 {
        answer(&mut history, record, false, second);
    }
    assert!(history.is_unhealthy());
    history
}

#[test]
fn without_a_probe_it_is_ready_since_its_start_and_with_one_since_the_probe_says_so() {
    let (plain, probed) = (record("a", 1), probed(OnFailure::None));
    let mut history = History::default();
    look(&mut history, &plain, &running(10), 11);
    assert_eq!(history.ready_since(), Some(at(10)));
    let mut history = History::default();
    look(&mut history, &probed, &running(10), 11);
    assert_eq!(history.ready_since(), None);
    answer(&mut history, &probed, true, 12);
    assert_eq!(history.ready_since(), Some(at(12)));
    look(&mut history, &probed, &seen(Task::Stopped(exit(1, 20))), 20);
    assert_eq!(history.ready_since(), None);
    history.record_start(at(21));
    look(&mut history, &probed, &running(21), 22);
    assert_eq!(history.ready_since(), None, "a new run begins anew");
}

#[test]
fn an_image_has_a_say_where_the_spec_has_none_and_it_is_not_ready_before_that_is_known() {
    let mut record = record("a", 1);
    let mut history = History::default();
    history.record_start(at(10));
    history.await_look();
    assert_eq!(history.ready_since(), None);
    let mut with_check = running(10);
    let image_check = Some(std::sync::Arc::new(check(OnFailure::None)));
    with_check.instances.get_mut(&1).unwrap().image_check = image_check;
    let mut other = history.clone();
    look(&mut other, &record, &running(10), 11);
    assert_eq!(other.ready_since(), Some(at(10)));
    look(&mut history, &record, &with_check, 11);
    assert_eq!(history.ready_since(), None);
    record.spec.health = Some(Health::None);
    look(&mut history, &record, &with_check, 12);
    assert_eq!(history.ready_since(), Some(at(10)), "it was switched off");
}

#[test]
fn another_check_another_run_and_another_boot_begin_anew_and_the_same_goes_on() {
    let record = probed(OnFailure::None);
    let ready = || {
        let mut history = History::default();
        look(&mut history, &record, &running(10), 11);
        answer(&mut history, &record, true, 12);
        history
    };
    let mut history = ready();
    look(&mut history, &record, &running(10), 900);
    assert_eq!(history.ready_since(), Some(at(12)));
    let mut changed = record.clone();
    if let Some(Health::Check(check)) = &mut changed.spec.health {
        check.retries = 9;
    }
    look(&mut history, &changed, &running(10), 901);
    assert_eq!(history.ready_since(), Some(at(12)), "only a number");
    if let Some(Health::Check(check)) = &mut changed.spec.health {
        check.probe = Probe::Tcp { port: 81 };
    }
    look(&mut history, &changed, &running(10), 902);
    assert_eq!(history.ready_since(), None);
    // The agent was killed after it had started the process anew, and before it had saved that.
    let mut history = ready();
    look(&mut history, &record, &running(500), 501);
    assert_eq!(
        (history.ready_since(), history.started),
        (None, Some(at(500)))
    );
    let stored = |boot: &str| super::super::StoredHistory {
        boot_id: boot.to_owned(),
        history: ready(),
    };
    assert_eq!(stored("a").in_boot("a").ready_since(), Some(at(12)));
    assert_eq!(stored("a").in_boot("b").ready_since(), None);
    assert!(!stored("a").in_boot("b").is_unhealthy());
}

#[test]
fn an_answer_about_another_run_or_to_another_check_counts_for_nothing() {
    let record = probed(OnFailure::None);
    let mut history = History::default();
    look(&mut history, &record, &running(10), 11);
    let late = ProbeAnswer {
        is_success: true,
        text: String::new(),
        at: at(12),
    };
    let own = check(OnFailure::None);
    let other = HealthCheck::of(Probe::Tcp { port: 81 });
    for (check, started) in [(&own, at(9)), (&other, at(10))] {
        assert_eq!(
            history.record_answer(check, started, &late),
            VerdictChange::None
        );
        assert_eq!(history.ready_since(), None);
    }
    assert_ne!(
        history.record_answer(&own, at(10), &late),
        VerdictChange::None
    );
}

#[test]
fn only_what_is_to_be_restarted_for_its_health_is() {
    let (told, ended) = (probed(OnFailure::None), probed(OnFailure::Restart));
    assert!(!unhealthy(&told).is_to_restart(&told));
    let mut history = unhealthy(&ended);
    assert!(history.is_to_restart(&ended));
    answer(&mut history, &ended, true, 16);
    assert!(!history.is_to_restart(&ended));
}

#[test]
fn a_stop_for_its_health_counts_as_an_exit_with_its_reason_also_when_only_a_look_finds_it() {
    let record = probed(OnFailure::Restart);
    let wait = |_| Duration::from_secs(9);
    let mut noted = unhealthy(&record);
    noted.record_unhealthy_stop(&record, Some(exit(0, 15)), at(15), wait);
    let mut found = unhealthy(&record);
    look(&mut found, &record, &seen(Task::Stopped(exit(0, 15))), 15);
    for history in [noted, found] {
        let backoff = history.backoff.clone().unwrap();
        assert_eq!(
            (backoff.cause, backoff.reason),
            (Cause::Exit, Reason::Unhealthy)
        );
        let why = "its probe failed 3 times in a row: HTTP 503";
        assert_eq!(backoff.message, format!("was stopped since {why}"));
        assert_eq!(history.ended_for.as_deref(), Some(why));
        assert_eq!((history.exits, history.started), (1, None));
        assert!(!history.is_unhealthy());
    }
    // Nothing is known of the end: the next look counts it.
    let mut lost = unhealthy(&record);
    lost.record_unhealthy_stop(&record, None, at(15), wait);
    look(&mut lost, &record, &seen(Task::Absent), 16);
    assert_eq!(lost.backoff.unwrap().reason, Reason::Unhealthy);
    // A stop that a person asked for is none of it.
    let mut stopped = record.clone();
    stopped.run = RunState::Stopped;
    let mut history = unhealthy(&record);
    assert!(!history.is_to_restart(&stopped));
    history.record_unhealthy_stop(&stopped, Some(exit(0, 15)), at(15), wait);
    assert_eq!(
        (history.exits, history.backoff, history.ended_for),
        (0, None, None)
    );
    // A run that never worked is no healthy one, however long it lasted.
    let mut slow = unhealthy(&record);
    for second in [2000, 4000] {
        slow.record_unhealthy_stop(&record, Some(exit(0, second)), at(second), wait);
        slow.record_start(at(second + 1));
        look(&mut slow, &record, &running(second + 1), second + 2);
        for later in 3..6 {
            answer(&mut slow, &record, false, second + later);
        }
    }
    assert_eq!(slow.exits, 2);
}
