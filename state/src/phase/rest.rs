//! Stages of a container that is to rest, by order or by its own end.

use super::{Stage, beside};
use crate::desired::Record;
use crate::observed::{Seen, Task};

/// The stage of a container with a schedule, between two runs.
pub(super) fn between_runs(record: &Record, seen: &Seen) -> Stage {
    let stage = resting(record, seen, Stage::Scheduled);
    // The next run is not to wait for a registry.
    if stage == Stage::Scheduled && record.image_digest.is_none() {
        return Stage::Unresolved;
    }
    stage
}

/// The stage of a container that is to rest, and is `at_rest` in the end.
pub(super) fn resting(record: &Record, seen: &Seen, at_rest: Stage) -> Stage {
    if let Some(obsolete) =
        beside::former_instance(record, seen).or_else(|| beside::obsolete_instance(record, seen))
    {
        return Stage::Retiring(obsolete);
    }
    if record.update.is_some() {
        return Stage::Updated;
    }
    match seen.task(record) {
        // A task that ended by itself is deleted too: it holds a shim, and its end is stored.
        Task::Running { .. } | Task::Created { .. } | Task::Stopped(_) | Task::Unresponsive => {
            Stage::Stopping
        }
        // A stop waits for no registry; the image is renewed for the next start.
        Task::Absent if record.is_tag_unchecked() => Stage::TagUnchecked,
        Task::Absent => at_rest,
    }
}
