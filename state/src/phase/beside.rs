//! Instances of a container beside its record's own: which of them go, and what they wait for.

use super::Stage;
use crate::desired::Record;
use crate::desired::update::UpdateStage;
use crate::history::History;
use crate::id::InstanceName;
use crate::observed::{Seen, Task};
use crate::spec::RestartPolicy;

/// The oldest instance that is neither the record's nor goes on beside it; the one that serves comes
/// last.
pub(super) fn obsolete_instance(record: &Record, seen: &Seen) -> Option<InstanceName> {
    let (generations, own) = (seen.instances.keys().copied(), record.instance().generation);
    let beside = record.instance_beside().map(|beside| beside.generation);
    let serving = record.served_last();
    let generation = generations
        .filter(|&generation| generation != own && Some(generation) != beside)
        .min_by_key(|&generation| (generation == serving, generation))?;
    Some(InstanceName {
        id: record.id,
        generation,
    })
}

/// The instance of the generation before, if it is there and another than the record's.
pub(super) fn former_instance(record: &Record, seen: &Seen) -> Option<InstanceName> {
    let former = record.update.as_ref()?.former.instance();
    let is_there = seen.instances.contains_key(&former.generation);
    (is_there && former != record.instance()).then_some(former)
}

/// The stage of a container of which this other instance is to go.
pub(super) fn replacing(record: &Record, seen: &Seen, obsolete: InstanceName) -> Stage {
    // It may have the host ports, which are given to the one that serves first.
    let is_served = matches!(seen.task(record.serving()), Task::Running { .. });
    match record.update.is_some() && is_served {
        true => Stage::HandingOver(obsolete),
        false => Stage::Replacing(obsolete),
    }
}

/// The stage of a container that runs as its record says.
pub(super) fn running(record: &Record, seen: &Seen) -> Stage {
    match record.update.as_ref().map(|update| update.stage) {
        Some(UpdateStage::Trying) => Stage::Trying,
        Some(stage @ (UpdateStage::Switched | UpdateStage::Leaving)) => {
            let is_watched = stage == UpdateStage::Switched && record.spec.update.rollback;
            let over = if is_watched {
                Stage::Watched
            } else {
                Stage::Updated
            };
            former_instance(record, seen).map_or(over, Stage::HandingOver)
        }
        None => Stage::Running,
    }
}

/// The generation before, where it is to be started again: it serves, and does not run.
pub(super) fn revived(record: &Record, seen: &Seen, history: &History) -> Option<InstanceName> {
    let former = record.stands_back().then(|| record.serving())?;
    // What is not there may have the address of another one that is still to go.
    if seen.instance(former).is_none() && obsolete_instance(record, seen).is_some() {
        return None;
    }
    let policy = former.spec.restart;
    let starts = history.trial.former.starts;
    let starts_again = match (seen.task(former), policy.policy) {
        _ if policy.max_retries.is_some_and(|max| starts > max) => false,
        (Task::Running { .. } | Task::Unresponsive, _) => false,
        (Task::Stopped(exit), RestartPolicy::OnFailure) => exit.code != 0,
        (_, RestartPolicy::Never) => false,
        (Task::Created { .. } | Task::Absent | Task::Stopped(_), _) => true,
    };
    starts_again.then(|| former.instance())
}

/// Whether the generation before is there and serves.
pub(super) fn is_former_up(record: &Record, seen: &Seen) -> bool {
    record.stands_back()
        && matches!(
            seen.task(record.serving()),
            Task::Running { .. } | Task::Unresponsive
        )
}
