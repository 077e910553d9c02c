//! Stages of a container that rests while CHaS does not answer, or the node is drained: all that runs of it is stopped, nothing
//! is removed, and whatever was under way goes on after that.

use super::{Phase, Stage, finished};
use crate::desired::{Finished, Record};
use crate::history::History;
use crate::id::InstanceName;
use crate::observed::{Seen, Task};
use crate::reason::Reason;
use crate::surroundings::{Surroundings, Suspension};
use crate::time::BootTime;

impl Phase {
    /// Notes in the history that the container rests, or is to rest, for a while; or that it runs.
    pub fn note_rest(&self, history: &mut History, now: BootTime) {
        // Also in a trial, which would else have no deadline any more: it may run on.
        let is_running = matches!(
            self.stage,
            Stage::Running | Stage::Trying | Stage::Watched | Stage::HandingOver(_)
        );
        if let Stage::Suspending(_, cause) | Stage::Suspended(cause) = self.stage {
            history.record_rest(matches!(cause, Suspension::Drained { .. }));
        } else if is_running {
            history.end_suspension(now);
        }
    }
}

/// The stage for which one of these is the cause. `None`: the container goes its way.
pub(super) fn suspended(
    record: &Record,
    seen: &Seen,
    history: &History,
    around: &Surroundings,
) -> Option<Stage> {
    let suspension = around.suspension?;
    let own = seen.task(record);
    // What has done its work before is not started again.
    let ended = history.end_of_run(record, own);
    let ended = ended.and_then(|exit| finished(record, history, exit));
    // A trial that failed for good leaves one that serves, which is to rest all the same.
    let is_trial = |end: &Finished| record.stands_back() && end.reason != Reason::Completed;
    if let Some(end) = ended.filter(|end| !is_trial(end) || !suspension.is_certain()) {
        return Some(Stage::Ended(end));
    }
    let mut newest_first = seen.instances.iter().rev();
    let up = newest_first.find(|(_, instance)| instance.task != Task::Absent);
    let Some((&generation, instance)) = up else {
        return Some(Stage::Suspended(suspension));
    };
    let may_run = matches!(instance.task, Task::Running { .. } | Task::Unresponsive);
    if may_run && !suspension.is_certain() {
        // It goes on until CHaS was asked, or its turn has come, and nothing is begun.
        return Some(match own {
            Task::Running { .. } => Stage::Running,
            Task::Unresponsive => Stage::Unresponsive,
            Task::Created { .. } | Task::Stopped(_) | Task::Absent => Stage::Suspended(suspension),
        });
    }
    let id = record.id;
    Some(Stage::Suspending(
        InstanceName { id, generation },
        suspension,
    ))
}

#[cfg(test)]
mod tests;
