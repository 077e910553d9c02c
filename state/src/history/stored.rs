//! A history as it is stored over a restart of the agent.

use serde::{Deserialize, Serialize};

use super::History;
use crate::desired::Record;
use crate::time::BootTime;

/// A container's history as it is kept over a restart of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHistory {
    /// The boot that the times are of (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The history.
    #[serde(rename = "memory")]
    pub history: History,
}

impl History {
    /// Whether the history is that of the record's instance.
    pub(crate) fn is_of(&self, record: &Record) -> bool {
        self.made_at.unwrap_or(self.generation) == record.instance().generation
    }

    /// Whether the instance was started, as far as is known.
    pub(crate) const fn was_started(&self) -> bool {
        self.started.is_some() || self.is_let_start || self.last_exit.is_some()
    }
}

impl StoredHistory {
    /// The history as it is true in this boot: another boot ended every process and every wait.
    #[must_use]
    pub fn in_boot(self, boot_id: &str) -> History {
        let mut history = self.history;
        if self.boot_id != boot_id {
            history.started = None;
            (history.is_let_start, history.is_let_go) = (false, false);
            history.waiting_since = None;
            history.end_health();
            history.trial.in_other_boot();
            (history.memory_kills.in_run, history.memory_kills.last) = (0, None);
            if let Some(failure) = &mut history.last_failure {
                failure.at = None;
            }
            if let Some(backoff) = &mut history.backoff {
                backoff.retry_at = BootTime::default();
            }
        }
        history
    }
}
