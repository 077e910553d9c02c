//! Restart and retry history of one container: exits, failed attempts, and the backoff in force.
//!
//! Nothing here reads a clock or throws dice: the time and the length of a wait come in as
//! arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::desired::{Record, RunState};
use crate::observed::{Exit, Seen, Task};
use crate::reason::Reason;
use crate::time::BootTime;

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

/// Restart and retry history of one generation of a container.
///
/// Stored over restarts of the agent as [`StoredHistory`]; a new field has a default and is left
/// out of the stored form while it has it (see [`crate::spec`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    generation: u64,
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
    /// The last exit that was counted, so that each counts once.
    pub last_exit: Option<Exit>,
    /// Start of the current run, as far as this agent saw it.
    pub started: Option<BootTime>,
}

impl History {
    /// The history of the record's own generation: an empty one where `self` is of an earlier
    /// generation, whose failures say nothing about this one.
    #[must_use]
    pub fn of(self, record: &Record) -> Self {
        if self.generation == record.generation {
            self
        } else {
            Self {
                generation: record.generation,
                ..Self::default()
            }
        }
    }

    /// Counts what a look found: an exit that is new arms the backoff. `delay` answers the wait
    /// after so many exits in a row before this one.
    pub fn record_observation(
        &mut self,
        record: &Record,
        seen: &Seen,
        now: BootTime,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        *self = std::mem::take(self).of(record);
        if record.run == RunState::Stopped || record.removing {
            (self.exits, self.ended) = (0, None);
            self.keep_backoff(|cause| cause == Cause::End);
        }
        match seen
            .instances
            .get(&record.generation)
            .map(|instance| &instance.task)
        {
            // An agent that has just started learns the start time from the process itself.
            Some(Task::Running { since, .. }) => {
                self.started.get_or_insert(since.unwrap_or(now));
            }
            Some(Task::Stopped(exit)) if self.last_exit.as_ref() != Some(exit) => {
                self.record_exit(record, exit.clone(), now, delay);
            }
            Some(Task::Absent) | None if self.started.is_some() => {
                self.record_exit(record, Exit::LOST, now, delay);
            }
            Some(Task::Stopped(_) | Task::Created { .. } | Task::Absent) | None => {}
        }
    }

    fn record_exit(
        &mut self,
        record: &Record,
        exit: Exit,
        now: BootTime,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        let lived = self
            .started
            .take()
            .map_or(Duration::ZERO, |started| now.since(started));
        self.last_exit = Some(exit.clone());
        if record.run == RunState::Stopped || record.removing || record.restart_pending {
            return;
        }
        if lived >= HEALTHY_AFTER {
            self.exits = 0;
        }
        let wait = if self.exits == 0 {
            Duration::ZERO
        } else {
            delay(self.exits - 1)
        };
        self.exits = self.exits.saturating_add(1);
        let (reason, message) = explain(&exit, self.exits);
        self.backoff = Some(Backoff {
            cause: Cause::Exit,
            reason,
            message,
            retry_at: now.after(wait),
        });
        self.ended = Some(exit);
    }

    /// Counts a failed step, which is not tried again for `wait`.
    pub fn record_failure(
        &mut self,
        cause: Cause,
        reason: Reason,
        message: String,
        now: BootTime,
        wait: Duration,
    ) {
        self.attempts = self.attempts.saturating_add(1);
        self.backoff = Some(Backoff {
            cause,
            reason,
            message,
            retry_at: now.after(wait),
        });
    }

    /// Notes that the image is on the node.
    pub fn record_pull(&mut self) {
        self.attempts = 0;
        self.keep_backoff(|cause| cause == Cause::Exit);
    }

    /// Notes that the container was started.
    pub fn record_start(&mut self, now: BootTime) {
        if self.ended.take().is_some() {
            self.restart_count = self.restart_count.saturating_add(1);
        }
        (self.attempts, self.backoff, self.started) = (0, None, Some(now));
    }

    /// Notes that the container was stopped on purpose.
    pub fn record_stop(&mut self) {
        (self.attempts, self.started, self.ended) = (0, None, None);
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

/// A container's history as it is kept over a restart of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHistory {
    /// The boot that the times are of (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The history.
    #[serde(rename = "memory")]
    pub history: History,
}

impl StoredHistory {
    /// The history as it is true in this boot: another boot ended every process and every wait.
    #[must_use]
    pub fn in_boot(self, boot_id: &str) -> History {
        let mut history = self.history;
        if self.boot_id != boot_id {
            history.started = None;
            if let Some(backoff) = &mut history.backoff {
                backoff.retry_at = BootTime::default();
            }
        }
        history
    }
}

fn explain(exit: &Exit, exits: u32) -> (Reason, String) {
    let reason = exit.reason();
    let how = match (reason, exit.signal()) {
        (Reason::OutOfMemory, _) => {
            let message = "used more memory than its limit, and the kernel killed it; \
                           raise resources.memory";
            return (reason, message.to_owned());
        }
        (Reason::ShimLost, _) => {
            "was lost together with its containerd-shim-runc-v2, which somebody ended".to_owned()
        }
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (_, None) => format!("ended with exit code {}", exit.code),
    };
    if exits >= CRASH_LOOP_EXITS {
        (
            Reason::CrashLoop,
            format!("{how}, for the {exits}th time in a row; its log says more"),
        )
    } else {
        (reason, how)
    }
}

#[cfg(test)]
mod tests;
