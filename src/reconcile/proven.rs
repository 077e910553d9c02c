//! Note of the generations that ran long enough for their images to be worth keeping.

use std::collections::BTreeMap;
use std::time::Duration;

use state::desired::Record;
use state::desired::set::Desired;
use state::id::ContainerId;
use state::observed::{Seen, Task};

use super::Reconciler;
use crate::runtime::Runtime;

/// A generation that ran so long is worth going back to: one that crashes at its start does not.
const PROVEN_AFTER: Duration = Duration::from_mins(1);

impl<R: Runtime> Reconciler<R> {
    /// Notes of which generations the images are worth keeping for the way back: once for each, and
    /// away from the steps of a deploy.
    pub(super) async fn note_proven(
        &self,
        desired: &Desired,
        managed: &BTreeMap<ContainerId, Seen>,
    ) {
        let now = self.board.clock.now();
        let is_proven = |record: &Record| {
            let task = managed.get(&record.id).map(|seen| seen.task(record));
            let lasts = matches!(task, Some(Task::Running { since: Some(since), .. }) if now.since(*since) >= PROVEN_AFTER);
            // One that never worked is nothing to go back to, however long it runs.
            lasts && self.board.known(record.id).history.ready_since().is_some()
        };
        let proven: Vec<_> = desired
            .records()
            .filter(|record| !record.is_proven && !record.removing && !record.restart_pending)
            .filter(|record| is_proven(record))
            .map(|record| (record.instance(), record.image_digest.clone()))
            .collect();
        if proven.is_empty() {
            return;
        }
        let noted = self
            .writer
            .write(move |store| store.note_proven(&proven))
            .await;
        if let Err(error) = noted {
            tracing::debug!(%error, "proven generations not noted; trying again with the next resync");
        }
    }
}
