//! End of loggers: of a container that is removed, and of those that outlived theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use state::id::ContainerId;
use tokio::time::Instant;

use super::Loggers;
use crate::lock::lock;
use crate::logs::confine;
use crate::logs::process::{self, LoggerProcess};

/// Time for a logger to write the last words of a container that is removed.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Loggers {
    /// Waits for the end of a container's loggers, and kills those that somebody else keeps alive
    /// by an open pipe: they would make its directory again. Only once the container is gone.
    pub(crate) async fn end(&self, id: ContainerId) {
        let deadline = Instant::now() + LAST_WORDS;
        let mut pause = Duration::from_millis(1);
        loop {
            let left = self.loggers_of(id);
            if left.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                left.iter().for_each(kill);
                break;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        lock(&self.0.kept).retain(|name, _| name.id != id);
        self.set_alarms();
        self.take_away_groups();
    }

    /// Takes away the control groups of loggers that have ended, beside whatever else goes on.
    fn take_away_groups(&self) {
        let namespace = self.0.namespace.clone();
        let tracker = &self.0.tracker;
        tracker.spawn_blocking(move || confine::take_away_empty(&namespace));
    }

    fn loggers_of(&self, id: ContainerId) -> Vec<LoggerProcess> {
        let kept = lock(&self.0.kept);
        let of_id = kept.iter().filter(|(name, _)| name.id == id);
        of_id.filter_map(|(_, kept)| kept.logger.clone()).collect()
    }

    /// Ends the loggers of containers that are not `known`, and answers a line for each, and the
    /// containers that a logger runs for. One that is found for the first time may be that of a
    /// container that was deployed just now, and is left to the next sweep.
    pub(crate) async fn sweep(
        &self,
        known: &BTreeSet<ContainerId>,
    ) -> (Vec<String>, BTreeSet<ContainerId>) {
        self.take_away_groups();
        let all = tokio::task::spawn_blocking(process::all).await;
        let mut own = all.unwrap_or_default();
        own.retain(|logger| logger.is_below(&self.0.logs));
        let busy = own.iter().map(|logger| logger.instance.id).collect();
        own.retain(|logger| !known.contains(&logger.instance.id));
        let before = std::mem::replace(&mut *lock(&self.0.suspects), own.clone());
        own.retain(|logger| before.contains(logger));
        own.iter().for_each(kill);
        let lines = own
            .iter()
            .map(|logger| format!("logger of {}", logger.instance));
        (lines.collect(), busy)
    }
}

fn kill(logger: &LoggerProcess) {
    match logger.kill() {
        Ok(()) => {
            tracing::warn!(instance = %logger.instance, pid = logger.pid, "logger outlived its container, killed");
        }
        Err(error) => {
            tracing::warn!(instance = %logger.instance, %error, "logger not killed");
        }
    }
}
