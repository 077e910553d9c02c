//! Restart and retry history of one container: exits, failed attempts, and the backoff in force.
//!
//! Nothing here reads a clock or throws dice: the time and the length of a wait come in as
//! arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::desired::{Record, RunState};
use crate::health::HealthState;
use crate::id::InstanceName;
use crate::observed::{Exit, Seen, Task};
use crate::reason::Reason;
use crate::time::BootTime;
use trial::Trial;

mod ends;
mod failure;
mod health;
mod memory_kills;
mod stored;
mod suspension;
pub mod trial;
mod words;

pub use failure::PastFailure;
pub use memory_kills::MemoryKills;
pub use stored::StoredHistory;
use words::explain;
pub(crate) use words::{how_it_ended, how_it_was_ended};

/// Length of a healthy run: exits and failures before it no longer count.
pub const HEALTHY_AFTER: Duration = Duration::from_mins(10);

/// Exits in a row that make a crash loop.
pub const CRASH_LOOP_EXITS: u32 = 5;

/// The kind of event that a backoff follows, and so the kind of step that it holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The container's process exited by itself.
    Exit,
    /// Pulling the image or starting the container failed.
    Start,
    /// Stopping, removing or forgetting the container failed.
    End,
}

/// The last failure or exit that is not overcome yet, and when the next attempt may be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Kind of the event.
    pub cause: Cause,
    /// Reason code of the event.
    pub reason: Reason,
    /// Description of the event, in a sentence.
    pub message: String,
    /// Earliest time of the next attempt.
    #[serde(rename = "until")]
    pub retry_at: BootTime,
}

/// Restart and retry history of one instance of a container.
///
/// Stored over restarts of the agent as [`StoredHistory`]; a new field has a default and is left
/// out of the stored form while it has it (see [`crate::spec`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    generation: u64,
    /// Generation that the instance was made as, where it is another; see [`Record::made_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_at: Option<u64>,
    /// Restarts after an exit.
    pub restart_count: u32,
    /// Exits in a row without a healthy run between them.
    pub exits: u32,
    /// Failed steps in a row.
    pub attempts: u32,
    /// The backoff in force. `None`: nothing failed, or it was overcome.
    #[serde(rename = "setback")]
    pub backoff: Option<Backoff>,
    /// The exit that no restart has followed yet.
    pub ended: Option<Exit>,
    /// Number of the run ([`Record::run_number`]) that this exit is of.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    ended_run: u64,
    /// The last exit that was counted, so that each counts once.
    pub last_exit: Option<Exit>,
    /// Start of the current run, as far as this agent saw it.
    pub started: Option<BootTime>,
    /// Processes that the kernel killed for want of memory.
    #[serde(default, skip_serializing_if = "MemoryKills::is_none")]
    pub memory_kills: MemoryKills,
    /// Length of the run that ended last, as far as this agent saw its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<Duration>,
    /// The last step that failed, also once it was overcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<PastFailure>,
    /// Whether the instance was started in this boot: from then on it waits for no other container.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    is_let_start: bool,
    /// Whether it waits for no other container any more in this boot, also before its start: what was
    /// ended for it is not ended in vain.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    is_let_go: bool,
    /// First moment in this boot at which it waited for other containers. `None`: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<BootTime>,
    /// Whether it was stopped, or not started, since CHaS did not answer, and was not started since.
    #[serde(default, skip_serializing_if = "crate::spec::is_default")]
    is_suspended: bool,
    /// The trial of this generation, while an update to it is under way.
    #[serde(default, skip_serializing_if = "is_trial_over")]
    pub trial: Trial,
    /// Health of the current run. `None`: the container has no probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthState>,
    /// The answer of its probe for which the run that ended last was stopped. `None`: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_for: Option<String>,
}

fn is_trial_over(trial: &Trial) -> bool {
    *trial == Trial::default()
}

impl History {
    /// The history of the record's own generation: an empty one where `self` is of an earlier
    /// instance, whose failures say nothing about this one. Of an earlier generation of the same
    /// instance nothing is waited out: a limit may be what ended it.
    #[must_use]
    pub fn of(self, record: &Record) -> Self {
        let (generation, made_at) = (record.generation, record.made_at);
        if self.generation == generation {
            return self;
        }
        let is_same = self.made_at.unwrap_or(self.generation) == record.instance().generation;
        let before = match is_same {
            true => self,
            false => self.of_other_instance(record),
        };
        Self {
            generation,
            made_at,
            exits: 0,
            attempts: 0,
            backoff: None,
            ..before
        }
    }

    /// Counts what a look found: an exit that is new arms the backoff. `delay` answers the wait
    /// after so many exits in a row before this one. Answers how many processes the kernel killed
    /// for want of memory since the look before.
    pub fn record_observation(
        &mut self,
        record: &Record,
        seen: &Seen,
        now: BootTime,
        delay: impl Fn(u32) -> Duration,
    ) -> u64 {
        *self = std::mem::take(self).of(record);
        let has_failed = self.backoff.is_some();
        self.trial
            .record_observation((record, seen), (has_failed, self.is_suspended), now, &delay);
        let killed_before = self.memory_kills.total;
        let is_at_rest = record.run == RunState::Stopped || record.is_between_runs();
        if is_at_rest || record.removing {
            (self.exits, self.ended, self.waiting_since) = (0, None, None);
            // What rests starts nothing, and yet may have to wait before its image is asked about.
            let asks = record.is_tag_unchecked() || record.image_digest.is_none();
            self.keep_backoff(|cause| cause == Cause::End || (asks && cause == Cause::Start));
        }
        self.forget_finished(record);
        let instance = seen.instance(record);
        self.note_check(record, instance);
        let kills = instance.and_then(|instance| instance.memory_kills);
        let is_to_restart = seen.awaits_restart(record);
        // No task outlives its boot. The history may: a kill loses the end of it.
        let task = instance.map(|instance| &instance.task);
        // What has ended while it was to rest is not started for that, and may have to wait again.
        self.is_let_start |= match task {
            Some(Task::Running { .. }) => true,
            Some(Task::Stopped(_)) => !self.is_suspended,
            Some(Task::Created { .. } | Task::Unresponsive | Task::Absent) | None => false,
        };
        match instance.map(|instance| &instance.task) {
            // An agent that has just started learns the start time from the process itself.
            Some(Task::Running { since, .. }) => {
                self.note_run(*since, now);
                if let Some(kills) = kills {
                    self.memory_kills.note(kills, now);
                }
            }
            Some(Task::Stopped(exit)) if !self.is_counted(exit) => {
                let grown = kills.map_or(0, |kills| self.memory_kills.note(kills, now));
                let mut exit = exit.clone();
                // The kernel killed one since the last look, and this process was killed.
                exit.out_of_memory |= exit.code == Exit::KILLED && grown > 0;
                self.record_exit((record, is_to_restart), exit, now, delay);
            }
            Some(Task::Absent) | None if self.started.is_some() => match &record.finished {
                // Its end was stored, and the task deleted since: by an agent that was killed before
                // it stored its history.
                Some(finished) => self.record_stop(Some(Exit::stored(finished)), now),
                None => self.record_exit((record, is_to_restart), Exit::LOST, now, delay),
            },
            Some(Task::Stopped(_) | Task::Created { .. } | Task::Unresponsive | Task::Absent)
            | None => {}
        }
        // What ended it may be what has changed since: the next start has it.
        if seen.is_behind(record) && self.is_waiting_after_exit() {
            (self.exits, self.backoff) = (0, None);
        }
        self.memory_kills.total - killed_before
    }

    fn is_waiting_after_exit(&self) -> bool {
        let backoff = self.backoff.as_ref();
        backoff.is_some_and(|backoff| backoff.cause == Cause::Exit)
    }

    fn record_exit(
        &mut self,
        (record, is_to_restart): (&Record, bool),
        exit: Exit,
        now: BootTime,
        delay: impl Fn(u32) -> Duration,
    ) {
        self.last_run = self.started.take().map(|started| now.since(started));
        let lived = self.last_run.unwrap_or_default();
        self.last_exit = Some(exit.clone());
        self.memory_kills.in_run = 0;
        let health = self.health.as_ref();
        let has_worked = health.is_none_or(HealthState::has_succeeded);
        self.ended_for = self.unhealthy_end(record);
        self.end_health();
        let is_asked = record.run == RunState::Stopped
            || record.is_between_runs()
            || record.removing
            || is_to_restart;
        if is_asked || self.is_suspended {
            return;
        }
        if lived >= HEALTHY_AFTER && has_worked {
            self.exits = 0;
        }
        let wait = if self.exits == 0 {
            Duration::ZERO
        } else {
            delay(self.exits - 1)
        };
        self.exits = self.exits.saturating_add(1);
        let (reason, message) = explain(record, &exit, self.exits, self.ended_for.as_deref());
        self.backoff = Some(Backoff {
            cause: Cause::Exit,
            reason,
            message,
            retry_at: now.after(wait),
        });
        (self.ended, self.ended_run) = (Some(exit), record.run_number());
    }

    /// Notes that the instance was brought up to the record, or has the place that it is to have.
    pub fn record_adjustment(&mut self) {
        self.attempts = 0;
        self.keep_backoff(|cause| cause == Cause::Exit);
    }

    /// Notes that a restart is stored as done, which an agent before had begun.
    pub fn record_note(&mut self) {
        self.attempts = 0;
        let is_running = self.started.is_some();
        self.ended = self.ended.take().filter(|_| !is_running);
        self.keep_backoff(|cause| cause != Cause::End && !is_running);
    }

    /// Notes that the container was started.
    pub fn record_start(&mut self, now: BootTime) {
        if self.ended.take().is_some() {
            self.restart_count = self.restart_count.saturating_add(1);
        }
        (self.attempts, self.backoff, self.started) = (0, None, Some(now));
        (self.memory_kills.in_run, self.ended_for) = (0, None);
        self.end_health();
        (self.is_let_start, self.waiting_since) = (true, None);
        self.end_suspension(now);
    }

    /// Whether the record's instance was started in this boot.
    #[must_use]
    pub fn is_let_start(&self, record: &Record) -> bool {
        let own = self.made_at.unwrap_or(self.generation);
        self.is_let_start && own == record.instance().generation
    }

    /// Whether the record's instance waits for no other container any more in this boot.
    #[must_use]
    pub fn is_let_go(&self, record: &Record) -> bool {
        let own = self.made_at.unwrap_or(self.generation);
        (self.is_let_go || self.is_let_start) && own == record.instance().generation
    }

    /// Notes that the container waits for others no more.
    pub const fn record_let_go(&mut self) {
        self.is_let_go = true;
    }

    /// Notes that the container waits for others.
    pub const fn record_waiting(&mut self, now: BootTime) {
        if self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
    }

    /// Notes that the container was stopped on purpose, and how it ended, if that is known.
    pub fn record_stop(&mut self, ended: Option<Exit>, now: BootTime) {
        if let Some(exit) = ended.filter(|exit| !self.is_counted(exit)) {
            self.last_run = self.started.map(|started| now.since(started));
            self.last_exit = Some(exit);
        }
        (self.attempts, self.started, self.ended) = (0, None, None);
        (self.memory_kills.in_run, self.ended_for) = (0, None);
        self.end_health();
        self.keep_backoff(|cause| cause != Cause::End);
    }

    /// Notes that everything of an instance was removed. The end of one that is replaced says nothing
    /// about the container.
    pub fn record_removal(&mut self, instance: InstanceName, now: BootTime) {
        if instance.generation == self.made_at.unwrap_or(self.generation) {
            return self.record_stop(None, now);
        }
        self.attempts = 0;
        self.keep_backoff(|cause| cause != Cause::End);
    }

    fn keep_backoff(&mut self, applies: impl FnOnce(Cause) -> bool) {
        self.backoff = self.backoff.take().filter(|backoff| applies(backoff.cause));
    }

    /// The time before which no step of this kind may be done. `None`: it may be done now.
    ///
    /// A restart that a person asked for does not wait out the exits before it.
    #[must_use]
    pub fn waits(&self, cause: Cause, restart_pending: bool, now: BootTime) -> Option<BootTime> {
        let backoff = self.backoff.as_ref()?;
        let applies = match backoff.cause {
            Cause::Exit => cause == Cause::Start && !restart_pending,
            Cause::Start | Cause::End => cause == backoff.cause,
        };
        (applies && now < backoff.retry_at).then_some(backoff.retry_at)
    }
}

#[cfg(test)]
mod tests;
