//! What happened to one container lately: how often it ended, what failed, and until when to wait for it.
//!
//! It is what turns facts into patience. Nothing here reads a clock or throws dice: the time and the length of a wait
//! come in as arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::desired::{Record, RunState};
use crate::observed::{Exit, Seen, Task};
use crate::reason::Reason;

/// Time since the node's boot (`CLOCK_BOOTTIME`): no step of the wall clock moves it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// The point `wait` later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A container that ran this long had a healthy life: what went wrong before it counts no more.
pub const HEALTHY_AFTER: Duration = Duration::from_mins(10);

/// This many ends in a row are a crash loop.
pub const CRASH_LOOP_EXITS: u32 = 5;

/// What is being waited out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The container's process ended by itself.
    Exit,
    /// Fetching the image or starting the container failed.
    Start,
    /// Stopping, removing or forgetting it failed.
    End,
}

/// The last thing that went wrong, and until when nothing is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// What kind of thing.
    pub cause: Cause,
    /// Its code.
    pub reason: Reason,
    /// What happened, in a sentence.
    pub message: String,
    /// When it is tried again.
    pub until: BootTime,
}

/// What is remembered of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    generation: u64,
    /// How often it was started again after it had ended.
    pub restart_count: u32,
    /// Ends in a row without a healthy life between them.
    pub exits: u32,
    /// Steps that failed in a row.
    pub attempts: u32,
    /// What went wrong last and is not yet overcome.
    pub setback: Option<Setback>,
    /// How its process ended, until it is started again.
    pub ended: Option<Exit>,
    /// The last end that was taken in, so that each counts once.
    pub last_exit: Option<Exit>,
    /// Since when it runs, as far as this agent saw.
    pub started: Option<BootTime>,
}

impl Memory {
    /// What is remembered of the record's own generation: nothing, until a look was taken at it. What went wrong with an
    /// earlier one says nothing of this.
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

    /// Takes in what a look found. `delay` answers how long to wait after so many ends in a row before this one.
    pub fn look(
        &mut self,
        record: &Record,
        seen: &Seen,
        now: BootTime,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        *self = std::mem::take(self).of(record);
        if record.run == RunState::Stopped || record.removing {
            (self.exits, self.ended) = (0, None);
            self.setback = self
                .setback
                .take()
                .filter(|setback| setback.cause == Cause::End);
        }
        let task = seen
            .instances
            .get(&record.generation)
            .map(|instance| &instance.task);
        match task {
            // An agent that has just started learns it from the process itself.
            Some(Task::Running { since, .. }) => {
                self.started.get_or_insert(since.unwrap_or(now));
            }
            Some(Task::Stopped(exit)) if self.last_exit.as_ref() != Some(exit) => {
                self.end(record, exit.clone(), now, delay);
            }
            Some(Task::Absent) | None if self.started.is_some() => {
                self.end(record, Exit::LOST, now, delay);
            }
            Some(Task::Stopped(_) | Task::Created { .. } | Task::Absent) | None => {}
        }
    }

    fn end(
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
        self.setback = Some(Setback {
            cause: Cause::Exit,
            reason,
            message,
            until: now.after(wait),
        });
        self.ended = Some(exit);
    }

    /// Notes that a step failed and must not be tried again for `wait`.
    pub fn failed(
        &mut self,
        cause: Cause,
        reason: Reason,
        message: String,
        now: BootTime,
        wait: Duration,
    ) {
        self.attempts = self.attempts.saturating_add(1);
        self.setback = Some(Setback {
            cause,
            reason,
            message,
            until: now.after(wait),
        });
    }

    /// Notes that the image is there.
    pub fn pulled(&mut self) {
        self.attempts = 0;
        self.setback = self
            .setback
            .take()
            .filter(|setback| setback.cause == Cause::Exit);
    }

    /// Notes that it was started.
    pub fn launched(&mut self, now: BootTime) {
        if self.ended.take().is_some() {
            self.restart_count = self.restart_count.saturating_add(1);
        }
        (self.attempts, self.setback, self.started) = (0, None, Some(now));
    }

    /// Notes that its process was ended on purpose.
    pub fn stopped(&mut self) {
        (self.attempts, self.started, self.ended) = (0, None, None);
        self.setback = self
            .setback
            .take()
            .filter(|setback| setback.cause != Cause::End);
    }

    /// Whether what is remembered forbids a step of this kind now, and until when. A restart that a person asked for
    /// does not wait out the ends before it.
    #[must_use]
    pub fn waits(&self, cause: Cause, restart_pending: bool, now: BootTime) -> Option<BootTime> {
        let setback = self.setback.as_ref()?;
        let applies = match setback.cause {
            Cause::Exit => cause == Cause::Start && !restart_pending,
            Cause::Start | Cause::End => cause == setback.cause,
        };
        (applies && now < setback.until).then_some(setback.until)
    }
}

/// What is remembered, as it is kept over a restart of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The boot that its times are of (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// What is remembered.
    pub memory: Memory,
}

impl Remembered {
    /// As it is true in this boot: another one ended every process, and every wait with it.
    #[must_use]
    pub fn in_boot(self, boot_id: &str) -> Memory {
        let mut memory = self.memory;
        if self.boot_id != boot_id {
            memory.started = None;
            if let Some(setback) = &mut memory.setback {
                setback.until = BootTime::default();
            }
        }
        memory
    }
}

fn explain(exit: &Exit, exits: u32) -> (Reason, String) {
    let reason = exit.reason();
    let how = match (reason, exit.signal()) {
        (Reason::OutOfMemory, _) => {
            let message =
                "used more memory than its limit, and the kernel killed it; raise resources.memory";
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
