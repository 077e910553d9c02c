//! Followers of what is desired, beside the reconciler: schedules, drains, and tags that move.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::journal::Journal;
use crate::reconcile::{Handle, follow_drain, follow_schedules, follow_tags};
use crate::writer::Writer;

/// Starts them, until the stop.
pub(super) fn start(
    config: &Config,
    (writer, handle, journal): (&Writer, &Handle, &Journal),
    (stop, tracker): (&CancellationToken, &TaskTracker),
) {
    let stopping = stop.clone();
    let scheduling = follow_schedules(writer.clone(), handle.clone(), journal.clone());
    tracker.spawn(async move { stopping.run_until_cancelled(scheduling).await });
    let stopping = stop.clone();
    let draining = follow_drain(writer.clone(), handle.clone());
    tracker.spawn(async move { stopping.run_until_cancelled(draining).await });
    if let Some(interval) = config.registry.follow_interval {
        let stopping = stop.clone();
        let following = follow_tags(writer.clone(), handle.clone(), interval);
        tracker.spawn(async move { stopping.run_until_cancelled(following).await });
    }
}
