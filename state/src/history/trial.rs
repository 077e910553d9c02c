//! Trial of a generation: since when it is tried, and how the one before fares meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
        let Task::Stopped(exit) = seen.task(&update.former) else {
            return;
        };
        let last = self.former.last_exit.as_ref();
        if !last.is_some_and(|last| last.is_same_end(exit)) {
            self.former.last_exit = Some(exit.clone());
            let wait = match self.former.starts {
                0 => Duration::ZERO,
                starts => delay(starts - 1),
            };
            self.former.retry_at = now.after(wait);
        }
    }

    /// Notes that the generation before was started again.
    pub fn record_revival(&mut self) {
        self.former.starts = self.former.starts.saturating_add(1);
    }

    /// Notes that the generation before could not be started; it is not tried again for `wait`.
    pub fn record_failed_revival(&mut self, now: BootTime, wait: Duration) {
        self.record_revival();
        self.former.retry_at = now.after(wait);
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
        });
    }

    /// The trial as it is true in another boot.
    pub(crate) fn in_other_boot(&mut self) {
        (self.since, self.drain) = (None, None);
        self.former.retry_at = BootTime::default();
    }
}
