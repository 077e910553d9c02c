//! Runs of containers with a schedule, stored before they begin.

use super::{Store, StoreError};
use crate::due::{Due, due};
use crate::id::ContainerId;

impl Store {
    /// Deals with the times of the container's schedule that have come at this wall time, and answers
    /// what is due. It is synced to the disk then: no time has two runs, whenever the agent dies.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn meet_schedule(&self, id: ContainerId, now_ms: u64) -> Result<Option<Due>, StoreError> {
        let mut met = None;
        self.note_if(
            id,
            |_| true,
            |record| {
                let Some(due) = due(record, now_ms) else {
                    return;
                };
                let job = record.job.get_or_insert_default();
                job.until_ms = due.until_ms;
                job.skipped += u64::from(due.is_skipped);
                job.missed += u64::from(due.is_missed);
                if due.begins_ms.is_some() {
                    record.begin_run(due.begins_ms, now_ms);
                }
                met = Some(due);
            },
        )?;
        Ok(met)
    }
}
