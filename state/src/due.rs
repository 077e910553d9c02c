//! Times of a schedule that have come, or have passed: what is to be done about them. Pure; the wall
//! time is an argument, and nothing else of the agent decides by it.
//!
//! A clock that is set back gives no time a second run: until it is past the last one that was dealt
//! with, nothing is due. One that is set forward passes over times, which count as missed.

use std::time::Duration;

use crate::desired::{Record, RunState};
use crate::spec::{Concurrency, MissedRuns};

/// Lateness within which a run is on time: an agent may be restarted meanwhile.
const ON_TIME_MS: u64 = 60_000;
/// Distance of the last time in the future beyond which the clock was wrong then, and is not now.
const SET_BACK_MS: u64 = 24 * 3_600_000;
/// Time before which the clock of a node has not been set: the year 2026.
const UNSET_MS: u64 = 1_767_225_600_000;

/// Consequence of times that have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Time until which all are dealt with then, milliseconds since 1970.
    pub until_ms: u64,
    /// Time for which a run begins. `None`: none does.
    pub begins_ms: Option<u64>,
    /// Whether the time is left out, since a run is under way.
    pub is_skipped: bool,
    /// Whether times have passed while nobody could run it.
    pub is_missed: bool,
}

/// Times that are due for the container at this wall time, milliseconds since 1970. `None`: nothing.
#[must_use]
pub fn due(record: &Record, now_ms: u64) -> Option<Due> {
    let schedule = record.spec.schedule.as_ref()?;
    let is_frozen = record.removing || record.is_uncertain || record.cordoned;
    if is_frozen || now_ms < UNSET_MS {
        return None;
    }
    let dealt_with = |until_ms| Due {
        until_ms,
        ..Due::default()
    };
    let Some(job) = &record.job else {
        return Some(dealt_with(now_ms));
    };
    if job.until_ms > now_ms {
        return (job.until_ms - now_ms > SET_BACK_MS).then(|| dealt_with(now_ms));
    }
    let times = schedule.timetable()?;
    let first = times.next_after(job.until_ms).filter(|at| *at <= now_ms)?;
    let last = times.last_until(now_ms).unwrap_or(first).max(first);
    if record.run == RunState::Stopped {
        return Some(dealt_with(last));
    }
    let late_ms = now_ms - last;
    let is_on_time = late_ms <= ON_TIME_MS;
    let is_made_up = schedule.missed == MissedRuns::RunOnce
        && schedule
            .missed_within
            .is_none_or(|within| Duration::from_millis(late_ms) <= within);
    let is_in_the_way = job.run.is_some() && schedule.concurrency == Concurrency::Skip;
    let is_due = is_on_time || is_made_up;
    Some(Due {
        until_ms: last,
        begins_ms: (is_due && !is_in_the_way).then_some(last),
        is_skipped: is_on_time && is_in_the_way,
        is_missed: !is_on_time || first < last,
    })
}

/// The time of the next run, milliseconds since 1970. `None`: the container has no schedule, or is not
/// to run.
#[must_use]
pub fn next_run(record: &Record, now_ms: u64) -> Option<u64> {
    let schedule = record.spec.schedule.as_ref()?;
    if record.run == RunState::Stopped || record.removing {
        return None;
    }
    let until_ms = record.job.as_ref().map_or(0, |job| job.until_ms);
    let is_wrong = until_ms > now_ms.saturating_add(SET_BACK_MS);
    let since = if is_wrong {
        now_ms
    } else {
        until_ms.max(now_ms)
    };
    schedule.timetable()?.next_after(since)
}

#[cfg(test)]
mod tests;
