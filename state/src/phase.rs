//! The phase of a container: the one verdict on what its record, what was seen of it, and its
//! history mean together. Pure, and without time.
//!
//! Everybody who needs to know where a container stands reads it from here: [`crate::plan`] the
//! next step and its reason, [`crate::status`] the status that people see, and through them the
//! reports to CHaS, readiness and convergence. A new state of a container is a new [`Stage`], and
//! the compiler names all who have to say something about it.

use crate::cordon::CordonedBy;
use crate::desired::{Finished, Record, RunState};
use crate::history::{Cause, History};
use crate::id::{ContainerId, InstanceName};
use crate::observed::{Exit, Seen, Task};
use crate::reason::Reason;
use crate::spec::RestartPolicy;
use crate::surroundings::{Surroundings, Suspension, Waits};
use crate::time::unix_ms;

mod beside;
mod rest;
mod suspended;

/// Goal of a container, from its record alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Nothing asks for the container.
    Absent,
    /// The container is to be left as it is: what was asked of it last is lost.
    Uncertain,
    /// The container is to be removed, and its record forgotten.
    Removed,
    /// The container is to be stopped, and kept.
    Stopped,
    /// The container waits for the next time of its schedule.
    Scheduled,
    /// The container has ended, and its restart policy leaves it so.
    Finished,
    /// The container came while the node was cordoned: it is to run once the cordon is lifted, or
    /// if something of it exists.
    Cordoned,
    /// The container is to run.
    Running,
}

impl Goal {
    /// The goal that a record says. `None`: there is no record.
    #[must_use]
    pub fn of(record: Option<&Record>) -> Self {
        match record {
            None => Self::Absent,
            Some(record) if record.is_uncertain => Self::Uncertain,
            Some(record) if record.removing => Self::Removed,
            Some(record) if record.is_between_runs() => Self::Scheduled,
            Some(record) if record.finished.is_some() => Self::Finished,
            Some(record) if record.run == RunState::Stopped => Self::Stopped,
            Some(record) if record.cordoned => Self::Cordoned,
            Some(_) => Self::Running,
        }
    }
}

/// Place of a container on its way to its goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing asks for the container, and nothing of it exists.
    Gone,
    /// Nothing asks for the container, and this newest instance of it exists.
    Leftover(InstanceName),
    /// The container is left as it is, whatever exists of it.
    Uncertain,
    /// The container is to be removed, and this newest instance of it exists.
    Removing(InstanceName),
    /// The container is to be removed, and nothing of it exists: only its record is left.
    Removed,
    /// The container is to rest, and its task is there.
    Stopping,
    /// The container is to rest, and this other instance of it exists.
    Retiring(InstanceName),
    /// The container rests, as it was asked to.
    Stopped,
    /// The container rests, since it ended and its restart policy leaves it so.
    Finished,
    /// The container rests until the next time of its schedule.
    Scheduled,
    /// The container waits for the end of the node's cordon, which these hold.
    Cordoned(CordonedBy),
    /// The container is to rest for a while, and this instance of it has a task.
    Suspending(InstanceName, Suspension),
    /// The container rests for a while.
    Suspended(Suspension),
    /// The container is to run, and waits for others. A generation before runs on.
    Waiting(Waits),
    /// The container is to run, and its image is not resolved. A generation before runs on.
    Unresolved,
    /// The registry is to be asked what the image's tag stands for now. What runs, runs on meanwhile.
    TagUnchecked,
    /// The container is to run, and this other instance is in its place.
    Replacing(InstanceName),
    /// The container is to run, and its instance carries an earlier generation, of which only live
    /// parts have changed. What runs, runs on.
    Adjusting(InstanceName),
    /// The container runs, and does not count yet: what was before it may have to be gone back to.
    Trying,
    /// The container runs and counts, and until its deadline it may yet end too often.
    Watched,
    /// Another instance serves, and this one is still there, whose connections end first.
    HandingOver(InstanceName),
    /// The update is over, which is to be stored.
    Updated,
    /// The container runs, and is to be stopped for a restart that was asked for.
    RestartRequested,
    /// The restart that was asked for is done, which is to be stored.
    Restarted,
    /// The container runs, its probe fails, and it is to be stopped for another start.
    Unhealthy,
    /// The container runs.
    Running,
    /// The container is to run, and its shim does not answer: whether it runs cannot be told. Nothing
    /// that may run is ended for that.
    Unresponsive,
    /// The container is created and waits to be started.
    Created,
    /// The container ended, and its restart policy leaves it so: that is to be stored.
    Ended(Finished),
    /// The container is to be started.
    Due,
}

/// The verdict about one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Place on the way to the goal.
    pub stage: Stage,
    /// Whether the task of the record's own instance is absent.
    pub is_task_absent: bool,
    /// Whether the task of the record's own instance runs, or that of the generation before, which
    /// serves.
    pub is_running: bool,
    /// Whether the generation before serves, and is there.
    pub is_former_up: bool,
    /// The generation before, where it is to be started again first.
    pub revived: Option<InstanceName>,
}

impl Phase {
    /// The verdict about the container with this id. `record`: `None` if there is none.
    #[must_use]
    pub fn of(
        id: ContainerId,
        record: Option<&Record>,
        seen: &Seen,
        history: &History,
        around: &Surroundings,
    ) -> Self {
        let task = record.map_or(&Task::Absent, |record| seen.task(record));
        let goal = Goal::of(record);
        let running = record.filter(|_| matches!(goal, Goal::Running | Goal::Cordoned));
        let is_former_up = running.is_some_and(|record| beside::is_former_up(record, seen));
        Self {
            stage: stage(id, record, seen, history, around),
            is_task_absent: matches!(task, Task::Absent),
            is_running: is_former_up || matches!(task, Task::Running { .. }),
            is_former_up,
            revived: running
                .filter(|_| around.suspension.is_none())
                .and_then(|record| beside::revived(record, seen, history)),
        }
    }

    /// Whether nothing is to be done for the container.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        match self.stage {
            Stage::Gone
            | Stage::Uncertain
            | Stage::Stopped
            | Stage::Finished
            | Stage::Scheduled
            | Stage::Cordoned(_)
            | Stage::Suspended(_)
            | Stage::Waiting(_)
            | Stage::Unresponsive
            | Stage::Watched
            | Stage::Running => true,
            Stage::Leftover(_)
            | Stage::Removing(_)
            | Stage::Removed
            | Stage::Stopping
            | Stage::Suspending(..)
            | Stage::Retiring(_)
            | Stage::Unresolved
            | Stage::TagUnchecked
            | Stage::Replacing(_)
            | Stage::Adjusting(_)
            | Stage::Trying
            | Stage::HandingOver(_)
            | Stage::Updated
            | Stage::RestartRequested
            | Stage::Restarted
            | Stage::Unhealthy
            | Stage::Created
            | Stage::Ended(_)
            | Stage::Due => false,
        }
    }

    /// Whether the container rests, or is to rest, for a while.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        matches!(self.stage, Stage::Suspending(..) | Stage::Suspended(_))
    }

    /// Whether the container is as it was asked for. A container that waits for the end of a cordon
    /// or a drain, for others or for CHaS, whose shim does not answer, or of which nobody knows what was asked, is settled,
    /// and not as asked.
    #[must_use]
    pub const fn is_as_asked(&self) -> bool {
        self.is_settled()
            && !matches!(
                self.stage,
                Stage::Cordoned(_)
                    | Stage::Suspended(_)
                    | Stage::Waiting(_)
                    | Stage::Unresponsive
                    | Stage::Uncertain
            )
    }

    /// The kind of backoff that holds the next step back.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self.stage {
            Stage::Unresolved
            | Stage::TagUnchecked
            | Stage::Adjusting(_)
            | Stage::Waiting(_)
            | Stage::Trying
            | Stage::HandingOver(_)
            | Stage::Created
            | Stage::Due => Cause::Start,
            Stage::Gone
            | Stage::Uncertain
            | Stage::Leftover(_)
            | Stage::Removing(_)
            | Stage::Removed
            | Stage::Stopping
            | Stage::Retiring(_)
            | Stage::Stopped
            | Stage::Finished
            | Stage::Scheduled
            | Stage::Cordoned(_)
            | Stage::Suspending(..)
            | Stage::Suspended(_)
            | Stage::Replacing(_)
            | Stage::Updated
            | Stage::RestartRequested
            | Stage::Restarted
            | Stage::Unhealthy
            | Stage::Unresponsive
            | Stage::Watched
            | Stage::Running
            | Stage::Ended(_) => Cause::End,
        }
    }
}

fn stage(
    id: ContainerId,
    record: Option<&Record>,
    seen: &Seen,
    history: &History,
    around: &Surroundings,
) -> Stage {
    let newest = seen.instances.keys().next_back();
    let newest = newest.map(|&generation| InstanceName { id, generation });
    let Some(record) = record else {
        return newest.map_or(Stage::Gone, Stage::Leftover);
    };
    // What a restart has begun, and has ended, has ended by itself. That it is done is stored with what
    // comes of it, and nothing waits for that: the disk may take nothing.
    let without = matches!(seen.task(record), Task::Stopped(_)) && seen.has_restarted(record);
    let without = without.then(|| Record {
        restart_pending: false,
        ..record.clone()
    });
    let record = without.as_ref().unwrap_or(record);
    match Goal::of(Some(record)) {
        Goal::Absent | Goal::Removed => newest.map_or(Stage::Removed, Stage::Removing),
        Goal::Uncertain => Stage::Uncertain,
        Goal::Stopped => rest::resting(record, seen, Stage::Stopped),
        Goal::Finished => rest::resting(record, seen, Stage::Finished),
        Goal::Scheduled => rest::between_runs(record, seen),
        Goal::Cordoned if seen.instances.is_empty() => Stage::Cordoned(around.cordon),
        Goal::Cordoned | Goal::Running => suspended::suspended(record, seen, history, around)
            .unwrap_or_else(|| towards_running(record, seen, history, around)),
    }
}

fn towards_running(
    record: &Record,
    seen: &Seen,
    history: &History,
    around: &Surroundings,
) -> Stage {
    // First of all: it runs, and an end of it is its own.
    if seen.has_restarted(record) {
        return Stage::Restarted;
    }
    let task = seen.task(record);
    // What has ended by itself, or was only created, is seen to first: its image is here, and a
    // registry may be slow.
    let is_asked_first = match task {
        Task::Running { .. } | Task::Unresponsive => true,
        Task::Stopped(_) | Task::Absent => record.restart_pending || record.image_digest.is_none(),
        Task::Created { .. } => false,
    };
    if record.is_tag_unchecked() && is_asked_first {
        return Stage::TagUnchecked;
    }
    // What is neither of the two that may run at once makes room for them.
    let is_beside = record
        .update
        .as_ref()
        .is_some_and(|update| update.is_beside);
    if let Some(obsolete) = beside::obsolete_instance(record, seen).filter(|_| is_beside) {
        return beside::replacing(record, seen, obsolete);
    }
    // The image comes first: the generation before runs on until it is there.
    if record.image_digest.is_none() && matches!(task, Task::Absent) {
        return Stage::Unresolved;
    }
    // What runs, ran or has ended waits for nobody, unless it ended for a rest.
    let waits = around.waits.clone().filter(|_| match task {
        Task::Absent | Task::Created { .. } => true,
        Task::Stopped(_) => history.is_suspended(),
        Task::Running { .. } | Task::Unresponsive => false,
    });
    let unless_waits = |stage| waits.clone().map_or(stage, Stage::Waiting);
    if let Some(obsolete) = beside::obsolete_instance(record, seen) {
        let replacing = beside::replacing(record, seen, obsolete);
        return match record.replaces_at_once {
            true => replacing,
            false => unless_waits(replacing),
        };
    }
    // Brought up to the record first, and then left alone or started.
    let unless_behind = |stage| match seen.is_behind(record) {
        true => Stage::Adjusting(record.instance()),
        false => stage,
    };
    match task {
        Task::Running { .. } | Task::Unresponsive if record.restart_pending => {
            Stage::RestartRequested
        }
        Task::Running { .. } if history.is_to_restart(record) && !around.spares_unhealthy => {
            unless_behind(Stage::Unhealthy)
        }
        Task::Running { .. } => unless_behind(beside::running(record, seen)),
        Task::Unresponsive => Stage::Unresponsive,
        Task::Created { .. } => unless_behind(unless_waits(Stage::Created)),
        Task::Stopped(_) | Task::Absent => history
            .end_of_run(record, task)
            .and_then(|exit| finished(record, history, exit))
            .map_or_else(|| unless_behind(unless_waits(Stage::Due)), Stage::Ended),
    }
}

/// The end to store, if the restart policy leaves the container ended after this exit.
fn finished(record: &Record, history: &History, exit: &Exit) -> Option<Finished> {
    let policy = record.spec.restart;
    // What was stopped for its health has not done its work, whatever it ended with.
    let is_failure = exit.code != 0 || history.ended_for.is_some();
    let leaves = match policy.policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => !is_failure,
        RestartPolicy::Never => true,
    };
    let exhausted = policy.max_retries.is_some_and(|max| history.exits > max);
    let reason = match (leaves, exit.code) {
        (true, _) if history.ended_for.is_some() => Reason::Unhealthy,
        (true, 0) => Reason::Completed,
        (true, _) => exit.reason(),
        (false, _) if exhausted => Reason::RetriesExhausted,
        (false, _) => return None,
    };
    let at_ms = unix_ms(exit.at);
    Some(Finished {
        code: exit.code,
        reason,
        at_ms,
    })
}

#[cfg(test)]
mod tests;
