//! Trial of a generation: since when it is tried, and how the one before fares meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::HEALTHY_AFTER;
use crate::desired::Record;
use crate::id::InstanceName;
use crate::observed::{Exit, Seen, Task};
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
}

/// Runs of the generation before while it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerRuns {
    /// Starts since the update began.
    pub starts: u32,
    /// Last end that was counted.
    pub last_exit: Option<Exit>,
    /// Earliest time of the next start.
    pub retry_at: BootTime,
    /// Since when it runs. `None`: its last end is counted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub up_since: Option<BootTime>,
}

impl Trial {
    /// Takes in a look. `delay` answers the wait after so many starts in a row.
    pub(crate) fn record_observation(
        &mut self,
        (record, seen): (&Record, &Seen),
        has_failed: bool,
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
        self.former
            .record_observation(seen.task(&update.former), now, delay);
    }

    /// Notes that the generation before was started again.
    pub fn record_revival(&mut self, now: BootTime) {
        self.former.starts = self.former.starts.saturating_add(1);
        self.former.up_since = Some(now);
    }

    /// Notes that the generation before could not be started; it is not tried again for `wait`.
    pub fn record_failed_revival(&mut self, now: BootTime, wait: Duration) {
        self.record_revival(now);
        (self.former.up_since, self.former.retry_at) = (None, now.after(wait));
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
        });
    }

    /// The trial as it is true in another boot.
    pub(crate) fn in_other_boot(&mut self) {
        (self.since, self.drain) = (None, None);
        (self.former.retry_at, self.former.up_since) = (BootTime::default(), None);
    }
}

impl FormerRuns {
    /// Takes in a look: each end counts once, also that of a task which is gone without one.
    fn record_observation(
        &mut self,
        task: &Task,
        now: BootTime,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        let is_news = match task {
            Task::Running { since, .. } => {
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
    }
}
