use serde_json::{Value, json};

use super::*;
use crate::desired::Finished;
use crate::desired::job::{Job, RunResult};
use crate::desired::tests::record;
use crate::reason::Reason;

/// 03:30 in Berlin on 10 March 2026, and a day.
const TIME: u64 = 1_773_109_800_000;
const DAY: u64 = 24 * 3_600_000;
const MINUTE: u64 = 60_000;

fn job(more: &Value, until_ms: u64) -> Record {
    let mut schedule = json!({"cron": "30 3 * * *", "timezone": "Europe/Berlin"});
    schedule
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let body =
        json!({"name": "a", "image": "x", "restart": {"policy": "never"}, "schedule": schedule});
    let spec = crate::spec::parse::deploy(&body).unwrap().spec;
    let job = Some(Job::from(until_ms));
    Record {
        spec,
        job,
        ..record("a", 1)
    }
}

fn with_run(mut record: Record) -> Record {
    record.begin_run(Some(1), 0);
    record
}

#[track_caller]
fn check(record: &Record, now_ms: u64, begins: Option<u64>, is_skipped: bool, is_missed: bool) {
    let due = due(record, now_ms).unwrap();
    let found = (due.begins_ms, due.is_skipped, due.is_missed);
    assert_eq!(found, (begins, is_skipped, is_missed), "{due:?}");
    // Once it is dealt with, it is due no more, also when the clock goes back over it.
    let mut after = record.clone();
    after.job.as_mut().unwrap().until_ms = due.until_ms;
    for back_ms in [0, 1, MINUTE, 3 * 3_600_000, DAY - 200 * MINUTE] {
        assert_eq!(super::due(&after, now_ms - back_ms), None, "{back_ms} back");
    }
}

#[test]
fn a_time_that_has_come_begins_one_run_and_a_late_one_is_missed() {
    let (skips, makes_up) = (json!({}), json!({"missed": "run-once"}));
    let within = json!({"missed": "run-once", "missed_within": "2h"});
    let before = TIME - 5 * MINUTE;
    assert_eq!(due(&job(&skips, before), TIME - 1), None);
    check(&job(&skips, before), TIME, Some(TIME), false, false);
    check(
        &job(&skips, before),
        TIME + MINUTE,
        Some(TIME),
        false,
        false,
    );
    check(&job(&skips, before), TIME + MINUTE + 1, None, false, true);
    check(
        &job(&makes_up, before),
        TIME + 5 * MINUTE,
        Some(TIME),
        false,
        true,
    );
    check(
        &job(&within, before),
        TIME + 120 * MINUTE,
        Some(TIME),
        false,
        true,
    );
    check(
        &job(&within, before),
        TIME + 121 * MINUTE,
        None,
        false,
        true,
    );
    // A step forward over many of them is one occasion.
    let last = TIME + 9 * DAY;
    check(&job(&skips, before), last, Some(last), false, true);
    check(
        &job(&makes_up, before),
        last + 5 * MINUTE,
        Some(last),
        false,
        true,
    );
}

#[test]
fn a_run_under_way_is_left_alone_or_replaced() {
    let before = TIME - MINUTE;
    check(&with_run(job(&json!({}), before)), TIME, None, true, false);
    let replacing = with_run(job(&json!({"concurrency": "replace"}), before));
    check(&replacing, TIME, Some(TIME), false, false);
    let mut replaced = replacing;
    replaced.begin_run(Some(TIME), 0);
    assert!(replaced.restart_pending);
    let past = &replaced.job.as_ref().unwrap().past;
    assert_eq!((past.len(), past[0].result), (1, RunResult::Replaced));
}

#[test]
fn who_is_not_to_run_runs_nothing_and_a_wrong_clock_decides_nothing() {
    let before = TIME - MINUTE;
    let mut stopped = job(&json!({"missed": "run-once"}), before);
    stopped.run = RunState::Stopped;
    check(&stopped, TIME, None, false, false);
    assert_eq!(next_run(&stopped, TIME), None);
    for change in [
        |record: &mut Record| record.cordoned = true,
        |record: &mut Record| record.removing = true,
        |record: &mut Record| record.is_uncertain = true,
    ] {
        let mut record = job(&json!({}), before);
        change(&mut record);
        assert_eq!(due(&record, TIME), None);
    }
    // Not set yet; and one that was years ahead when the last time was dealt with.
    assert_eq!(due(&job(&json!({}), 0), 86_400_000), None);
    let ahead = job(&json!({}), TIME + 900 * DAY);
    let begun_anew = due(&ahead, TIME).unwrap();
    assert_eq!((begun_anew.until_ms, begun_anew.begins_ms), (TIME, None));
    assert_eq!(next_run(&ahead, TIME), Some(TIME + DAY));
    // A record from another copy, without its runs.
    let mut unknown = job(&json!({}), before);
    unknown.job = None;
    assert_eq!(due(&unknown, TIME).unwrap().begins_ms, None);
}

#[test]
fn runs_end_with_a_result_and_the_last_ones_are_kept() {
    let mut record = job(&json!({"history": 3}), TIME);
    assert!(record.is_between_runs());
    for code in [0, 1, 0, 2, 3] {
        record.begin_run(Some(TIME), 0);
        assert!(!record.is_between_runs() && !record.restart_pending);
        let end = Finished {
            code,
            reason: Reason::Exited,
            at_ms: TIME + u64::from(code),
        };
        record.finish_run(&end, Some(7));
        record.finished = Some(end);
    }
    assert!(record.is_between_runs());
    let job = record.job.as_ref().unwrap();
    let codes: Vec<_> = job.past.iter().map(|run| run.code.unwrap()).collect();
    assert_eq!(codes, [0, 2, 3]);
    assert_eq!(job.last_success_ms, Some(TIME));
    record.begin_run(None, 0);
    record.stop_run();
    assert_eq!(record.job.unwrap().past[2].result, RunResult::Stopped);
}
