//! Trial of a generation: since when it is tried, and how the one before fares meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Cause, HEALTHY_AFTER, History, explain};
use crate::desired::Record;
use crate::id::InstanceName;
use crate::observed::{Exit, Seen, Task};
use crate::reason::Reason;
use crate::spec::is_default;
use crate::time::BootTime;

/// Trial of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// First start, or first failure, in this boot.
    #[serde(default, skip_serializing_if = "is_default")]
    pub since: Option<BootTime>,
    /// Connections of an instance, once another one serves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub drain: Option<Drain>,
    /// Ends of the generation before while it serves.
    #[serde(default, skip_serializing_if = "is_default")]
    pub former: FormerRuns,
}

/// Connections of an instance that serves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Generation that the instance was made as.
    pub of: u64,
    /// Time since which new connections go to the next generation.
    pub since: BootTime,
    /// Last look.
    pub looked_at: BootTime,
    /// Connections at that look. `None`: they could not be counted.
    pub connections: Option<usize>,
    /// First look of those, without another between, that found none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quiet_since: Option<BootTime>,
    /// The instance's own `stop.timeout`, which a later generation does not change. `None`: nobody has asked yet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grace: Option<Duration>,
    /// Time at which it was sent its stop signal. `None`: it was not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signalled_at: Option<BootTime>,
}

/// Runs of the generation before while it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerRuns {
    /// Generation that the instance was made as.
    #[serde(default, skip_serializing_if = "is_default")]
    of: u64,
    /// Starts since the update began.
    pub starts: u32,
    /// Last end that was counted.
    pub last_exit: Option<Exit>,
    /// Earliest time of the next start.
    pub retry_at: BootTime,
    /// Since when it runs. `None`: its last end is counted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub up_since: Option<BootTime>,
    /// Whether a start is counted if it runs again: its last end is, and nobody has told of a start since.
    #[serde(default, skip_serializing_if = "is_default")]
    counts_start: bool,
    /// Whether it was started in this boot: from then on it waits for no other container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_let_start: bool,
    /// First moment in this boot at which it waited for other containers. `None`: it did not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub waiting_since: Option<BootTime>,
}

impl Trial {
    /// Takes in a look. `delay` answers the wait after so many starts in a row.
    pub(crate) fn record_observation(
        &mut self,
        (record, seen): (&Record, &Seen),
        (has_failed, is_suspended): (bool, bool),
        now: BootTime,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        let Some(update) = &record.update else {
            *self = Self::default();
            return;
        };
        if seen.instance(record).is_some() || has_failed {
            self.since.get_or_insert(now);
        }
        // Gone back to, or tried to be replaced again, it has the host ports, and gives them up anew.
        let serving = record.serving().instance().generation;
        self.drain = self.drain.filter(|drain| drain.of != serving);
        if let Some(drain) = &mut self.drain {
            let mut ended = record.with_former();
            let ended = ended.find(|record| record.instance().generation == drain.of);
            drain.grace = ended.map(|ended| ended.spec.stop.timeout).or(drain.grace);
        }
        let of = update.former.instance().generation;
        if self.former.of != of {
            self.former = FormerRuns::begun(of);
        }
        let task = seen.task(&update.former);
        // What has ended while it was to rest is not started for that, and may have to wait again.
        let is_started = match task {
            Task::Running { .. } => true,
            Task::Stopped(_) => !is_suspended,
            Task::Created { .. } | Task::Unresponsive | Task::Absent => false,
        };
        self.former.is_let_start |= is_started;
        self.former.record_observation(task, now, delay);
    }

    /// Notes that the generation before was started again.
    pub fn record_revival(&mut self, now: BootTime) {
        self.former.count_start();
        (self.former.up_since, self.former.is_let_start) = (Some(now), true);
        self.former.waiting_since = None;
    }

    /// Notes that the generation before could not be started, or given the host ports; it is not tried
    /// again for `wait`.
    pub fn record_failed_revival(&mut self, now: BootTime, wait: Duration) {
        self.former.count_start();
        (self.former.up_since, self.former.retry_at) = (None, now.after(wait));
    }

    /// Notes that the generation before waits for others.
    pub const fn record_waiting(&mut self, now: BootTime) {
        if self.former.waiting_since.is_none() {
            self.former.waiting_since = Some(now);
        }
    }

    /// Notes that the generation before has the host ports again: it is relieved anew, if it ever is.
    pub const fn record_give_back(&mut self) {
        self.drain = None;
    }

    /// Notes how many connections an instance still has that serves no more; `None`: nobody knows.
    pub fn record_connections(
        &mut self,
        instance: InstanceName,
        connections: Option<usize>,
        now: BootTime,
    ) {
        let before = self.drain.filter(|drain| drain.of == instance.generation);
        self.drain = Some(Drain {
            of: instance.generation,
            since: before.map_or(now, |drain| drain.since),
            looked_at: now,
            connections,
            quiet_since: (connections == Some(0))
                .then(|| before.and_then(|before| before.quiet_since).unwrap_or(now)),
            grace: before.and_then(|before| before.grace),
            signalled_at: before.and_then(|before| before.signalled_at),
        });
    }

    /// The connections of this instance, once another one serves.
    #[must_use]
    pub fn drain_of(&self, instance: InstanceName) -> Option<Drain> {
        self.drain.filter(|drain| drain.of == instance.generation)
    }

    /// Notes that an instance was sent its stop signal.
    pub(crate) fn record_signal(&mut self, instance: InstanceName, now: BootTime) {
        if let Some(drain) = self.drain.as_mut()
            && drain.of == instance.generation
        {
            drain.signalled_at = Some(now);
        }
    }

    /// The trial as it is true in another boot.
    pub(crate) fn in_other_boot(&mut self) {
        (self.since, self.drain) = (None, None);
        (self.former.retry_at, self.former.up_since) = (BootTime::default(), None);
        (self.former.is_let_start, self.former.waiting_since) = (false, None);
        self.former.counts_start = false;
    }
}

impl History {
    /// Reason and sentence for the last end of a generation that is tried. `None`: it has not ended.
    pub(crate) fn how_trial_ended(&self, record: &Record) -> Option<(Reason, String)> {
        let exit = self.last_exit.as_ref().filter(|_| self.exits > 0)?;
        Some(explain(record, exit, self.exits, self.ended_for.as_deref()))
    }

    /// Notes that the instance was sent its stop signal.
    pub fn record_signal(&mut self, instance: InstanceName, now: BootTime) {
        self.trial.record_signal(instance, now);
        self.attempts = 0;
        self.keep_backoff(|cause| cause != Cause::End);
    }

    /// Notes that the record's generation counts. Failures go on to be counted until it has its ports.
    pub fn record_switch(&mut self) {
        self.keep_backoff(|cause| cause == Cause::Exit);
    }

    /// The history of the record's instance, where `self` is that of another one: whose failures say
    /// nothing about it. What was started in this boot waits for nobody, whether it is gone back to, or
    /// is the generation before from now on.
    pub(super) fn of_other_instance(self, record: &Record) -> Self {
        let (own, next) = (
            self.made_at.unwrap_or(self.generation),
            record.instance().generation,
        );
        let mut trial = Trial {
            since: None,
            ..self.trial
        };
        let is_back = trial.former.of == next;
        let (is_let_start, waiting_since) = match is_back {
            true => (trial.former.is_let_start, trial.former.waiting_since),
            false => (false, None),
        };
        let former = record
            .update
            .as_ref()
            .map(|update| update.former.instance());
        if former.is_some_and(|former| former.generation == own) {
            trial.former = FormerRuns {
                is_let_start: self.is_let_start,
                waiting_since: self.waiting_since,
                ..FormerRuns::begun(own)
            };
        }
        Self {
            is_let_start,
            waiting_since,
            trial,
            ..Self::default()
        }
    }

    /// History of the generation before as far as it waits for others.
    pub(crate) fn of_former(&self, former: &Record) -> Self {
        Self {
            generation: former.generation,
            made_at: former.made_at,
            is_let_start: self.trial.former.is_let_start,
            waiting_since: self.trial.former.waiting_since,
            ..Self::default()
        }
    }
}

impl FormerRuns {
    /// Runs of the instance that was made as this generation, of which nothing is known.
    fn begun(of: u64) -> Self {
        Self {
            of,
            ..Self::default()
        }
    }

    const fn count_start(&mut self) {
        self.starts = self.starts.saturating_add(1);
        self.counts_start = false;
    }

    /// Takes in a look: each end counts once, also that of a task which is gone without one.
    fn record_observation(
        &mut self,
        task: &Task,
        now: BootTime,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        let is_news = match task {
            Task::Running { since, .. } => {
                // The answer to its start was lost, or the agent that had asked for it.
                if self.counts_start {
                    self.count_start();
                }
                self.up_since.get_or_insert(since.unwrap_or(now));
                return;
            }
            Task::Unresponsive => return,
            Task::Stopped(exit) => {
                let last = self.last_exit.replace(exit.clone());
                !last.is_some_and(|last| last.is_same_end(exit))
            }
            Task::Absent | Task::Created { .. } => self.up_since.is_some(),
        };
        if !is_news {
            return;
        }
        let since = self.up_since.take();
        if since.is_some_and(|since| now.since(since) >= HEALTHY_AFTER) {
            self.starts = 0;
        }
        let wait = match self.starts {
            0 => Duration::ZERO,
            starts => delay(starts - 1),
        };
        self.retry_at = now.after(wait);
        self.counts_start = true;
    }
}

#[cfg(test)]
mod tests;
