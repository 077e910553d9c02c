//! Looks at an operator's files, of which nobody tells when they change.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Interval, MissedTickBehavior};

/// Interval between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Times of the looks at a file: now, with an interval, and whenever one is asked for.
#[derive(Debug)]
pub(super) struct Looks {
    ticks: Interval,
    due: Arc<Notify>,
}

impl Looks {
    pub(super) fn new(due: Arc<Notify>) -> Self {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, due }
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.ticks.tick() => {}
            () = self.due.notified() => {}
        }
    }
}
