//! Order of starts: whom a container waits for at its first start, and why. Pure; facts about the
//! others come in as an argument.
//!
//! A container waits once in a boot, and once for each instance: [`History::is_let_go`] ends it. A
//! drain of the node is as the end of a boot.
//! What happens to the others later is nothing to it.

use std::sync::Arc;

use crate::desired::{Record, RunState};
use crate::history::History;
use crate::id::ContainerName;
use crate::observed::{Seen, Task};
use crate::phase::{Phase, Stage};
use crate::reason::Reason;
use crate::spec::{After, AfterCondition, RestartPolicy};
use crate::status::{Activity, Status, condition};
use crate::surroundings::{Surroundings, Suspension, Waits, WaitsEntry};
use crate::text::shown;
use crate::time::BootTime;

pub mod circle;

/// Characters of the sentence about one that is waited for.
const WHY_CHARS_MAX: usize = 200;

/// All that is known of a container that another one waits for.
#[derive(Clone, Debug)]
pub struct Other {
    /// Record.
    pub record: Arc<Record>,
    /// Last look.
    pub seen: Seen,
    /// History, of whichever generation.
    pub history: History,
    /// Step under way.
    pub activity: Option<Activity>,
    /// Cause for which it is not to run for a while. `None`: it may.
    pub suspension: Option<Suspension>,
}

/// The containers that this one waits for. `None`: it waits for none, or its turn to wait is over.
/// `find` answers what is known of the container with a name; `None`: there is none. Without the words
/// about each, which [`tell`] finds.
#[must_use]
pub fn waits(
    record: &Record,
    history: &History,
    find: impl Fn(&ContainerName) -> Option<Other>,
    now: BootTime,
) -> Option<Waits> {
    let entries: Vec<_> = open(record, history, &find, now)
        .map(|(after, _)| WaitsEntry {
            name: after.name.clone(),
            condition: after.condition,
            why: None,
            until: ends_at(after, history, now),
        })
        .collect();
    let untils: Option<Vec<_>> = entries.iter().map(|entry| entry.until).collect();
    let until = untils.and_then(|untils| untils.into_iter().max());
    let next = entries.iter().filter_map(|entry| entry.until).min();
    (!entries.is_empty()).then_some(Waits {
        entries,
        until,
        next,
    })
}

/// Finds the words about each container that is waited for: costly, so only where they are shown.
pub fn tell(waits: &mut Waits, find: impl Fn(&ContainerName) -> Option<Other>, now: BootTime) {
    for entry in &mut waits.entries {
        let other = find(&entry.name);
        entry.why = Some(why(entry.condition, other.as_ref(), &find, now));
    }
}

/// The containers that the generation before waits for, while it serves. `None`: it waits for none, or
/// does not serve. `free` answers it without those that wait for it, if there are any.
#[must_use]
pub fn former_waits(
    record: &Record,
    history: &History,
    find: impl Fn(&ContainerName) -> Option<Other> + Copy,
    free: impl Fn(&Record) -> Option<Record>,
    now: BootTime,
) -> Option<Waits> {
    let former = record.stands_back().then(|| record.serving())?;
    let history = history.of_former(former);
    let waiting = waits(former, &history, find, now)?;
    match free(former) {
        Some(left) => waits(&left, &history, find, now),
        None => Some(waiting),
    }
}

/// Whether the container waits for others: [`waits`] without its words.
#[must_use]
pub fn is_waiting(
    record: &Record,
    history: &History,
    find: impl Fn(&ContainerName) -> Option<Other>,
    now: BootTime,
) -> bool {
    open(record, history, &find, now).next().is_some()
}

/// Conditions of a container that are not met, and were not waited for as long as the spec says.
fn open<'a>(
    record: &'a Record,
    history: &'a History,
    find: &'a impl Fn(&ContainerName) -> Option<Other>,
    now: BootTime,
) -> impl Iterator<Item = (&'a After, Option<Other>)> {
    let is_over = history.is_let_go(record);
    let after = record.spec.after.iter().filter(move |_| !is_over);
    after
        .filter(move |after| ends_at(after, history, now).is_none_or(|end| now < end))
        .map(move |after| (after, find(&after.name)))
        .filter(|(after, other)| !other.as_ref().is_some_and(|other| is_met(after, other)))
}

/// Names of the containers that are waited for no more although their conditions are not met, once
/// nothing else is waited for.
#[must_use]
pub fn given_up(
    record: &Record,
    history: &History,
    find: impl Fn(&ContainerName) -> Option<Other>,
    now: BootTime,
) -> Vec<ContainerName> {
    if history.is_let_go(record) {
        return Vec::new();
    }
    let unmet = |after: &&After| !find(&after.name).is_some_and(|other| is_met(after, &other));
    let names = record.spec.after.iter().filter(unmet);
    names
        .filter(|after| ends_at(after, history, now).is_some_and(|end| end <= now))
        .map(|after| after.name.clone())
        .collect()
}

/// The time at which it is waited for no more: counted from the first moment of waiting.
fn ends_at(after: &After, history: &History, now: BootTime) -> Option<BootTime> {
    let since = history.waiting_since.unwrap_or(now);
    after.timeout.map(|timeout| since.after(timeout))
}

fn is_met(after: &After, other: &Other) -> bool {
    let record = &*other.record;
    if record.removing || record.is_uncertain {
        return false;
    }
    let history = other.history.clone().of(record);
    let is_finished = record.finished.is_some();
    let is_to_run = record.run == RunState::Running && other.suspension.is_none();
    // What does not answer is neither started nor stopped, after a drain too: it counts as it did before.
    let is_silent = matches!(other.seen.task(record.serving()), Task::Unresponsive);
    if record.stands_back() {
        // Whoever waits for it waits for what serves; the next generation is only tried.
        let is_started = history.trial.former.is_let_start || is_silent;
        return match after.condition {
            AfterCondition::Started => is_to_run && is_started,
            AfterCondition::Ready => is_to_run && is_started && phase(other).is_former_up,
            AfterCondition::Completed => false,
        };
    }
    match after.condition {
        AfterCondition::Started => {
            is_finished || (is_to_run && (is_silent || history.is_let_start(record)))
        }
        // The last look may be older than its stop.
        AfterCondition::Ready => {
            let is_up = history.is_let_start(record) && phase(other).is_running;
            is_to_run && is_up && history.ready_since().is_some()
        }
        AfterCondition::Completed => record
            .finished
            .as_ref()
            .is_some_and(|end| end.code == 0 && end.reason != Reason::RetriesExhausted),
    }
}

fn phase(other: &Other) -> Phase {
    let (record, history) = (&*other.record, other.history.clone().of(&other.record));
    let around = Surroundings {
        suspension: other.suspension,
        ..Surroundings::NONE
    };
    Phase::of(record.id, Some(record), &other.seen, &history, &around)
}

/// The state of a container whose condition is not met, in a phrase.
fn why(
    awaited: AfterCondition,
    other: Option<&Other>,
    find: &impl Fn(&ContainerName) -> Option<Other>,
    now: BootTime,
) -> String {
    let Some(other) = other else {
        return "is no container of this node".to_owned();
    };
    let record = &*other.record;
    let history = other.history.clone().of(record);
    let phase = phase(other);
    let is_before_start = matches!(
        phase.stage,
        Stage::Created | Stage::Due | Stage::Replacing(_)
    );
    if is_before_start {
        let its_own = open(record, &history, find, now);
        let names: Vec<_> = its_own.map(|(after, _)| after.name.as_str()).collect();
        if !names.is_empty() {
            return format!("waits itself, for {}", names.join(", "));
        }
    }
    let condition = condition(record, &phase, &history, other.activity, None);
    let word = match (condition.status, awaited) {
        (Status::Running, AfterCondition::Completed)
            if record.spec.restart.policy == RestartPolicy::Always =>
        {
            "runs, and never completes by its restart policy (always)".to_owned()
        }
        (Status::Running, AfterCondition::Completed) => "runs".to_owned(),
        (Status::Running, AfterCondition::Ready) => "runs, and is not ready".to_owned(),
        (status, _) => format!("is {}", status.as_str()),
    };
    let cause = match (condition.reason, condition.message) {
        (Some(reason), Some(message)) => format!(" ({reason}: {message})"),
        (Some(reason), None) => format!(" ({reason})"),
        (None, _) => String::new(),
    };
    shown(&format!("{word}{cause}"), WHY_CHARS_MAX).into_owned()
}

#[cfg(test)]
mod tests;
