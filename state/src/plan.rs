//! The plan: the next step for one container, decided from its [`Phase`]. Pure; the reconciler
//! carries the step out and looks again. What a person is shown as the plan is this same function.

use crate::desired::{Finished, Record, RunState};
use crate::failure::Failure;
use crate::history::{Cause, History};
use crate::id::{ContainerId, InstanceName};
use crate::observed::{Seen, Task};
use crate::phase::{Phase, Stage};
use crate::reason::{Kind, Reason};
use crate::surroundings::{Surroundings, Waits};
use crate::time::BootTime;

mod ahead;
pub mod update;

pub use ahead::{Planned, plan};

/// Steps of one turn, and of one plan. The longest way, a change of two generations with a lost
/// image, takes eleven; more is a fault of the agent, which must not keep a processor busy.
pub const STEPS_MAX: usize = 20;

/// A step towards the desired state. Each may be repeated without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to be done.
    Settled,
    /// Nothing may be done before this time.
    Wait(BootTime),
    /// Nothing may be done until other containers are as this one waits for. A change of theirs, and
    /// no time, leads to the next step.
    WaitForOthers,
    /// Pull the image and store its digest; of one that is resolved, what its tag stands for now.
    Pull,
    /// Bring what exists of the instance up to the record: limits, log files, labels. What runs,
    /// runs on.
    Adjust(InstanceName),
    /// Create what is missing of the record's instance, and start it.
    Launch,
    /// Start the generation before again, which serves.
    Revive(InstanceName),
    /// Store that the record's generation counts, and serves from now on.
    Switch,
    /// Give host ports and names to the instance that serves, and look at the connections that this
    /// other one still has.
    HandOver(InstanceName),
    /// Give host ports and names back to the generation before, which runs, and store that the next one
    /// does not count.
    GiveBack(InstanceName),
    /// Send its stop signal to an instance that another one has relieved.
    Signal(InstanceName),
    /// Store that the update is over.
    Conclude,
    /// Give the record's generation up for this failure: store that the one before is back.
    RollBack(Failure),
    /// Stop the task; keep the rest.
    Stop(InstanceName),
    /// Stop the task until CHaS answers again; keep the rest.
    Suspend(InstanceName),
    /// Stop the task and remove everything of that instance.
    Remove(InstanceName),
    /// Store that the restart that was asked for is done.
    NoteRestart,
    /// Store that the container ended and stays so.
    Finish(Finished),
    /// Drop the record: nothing of the container is left.
    Forget,
}

impl Step {
    /// The same step; a wait ends at `latest`, and where nothing is to be done, that is waited for.
    fn until(self, latest: BootTime) -> Self {
        if let Self::Wait(until) = self {
            return Self::Wait(until.min(latest));
        }
        if self == Self::Settled {
            Self::Wait(latest)
        } else {
            self
        }
    }

    /// The step of a container of which the generation before waits for others: it does not wait for
    /// that, and where nothing else is to be done, they are waited for.
    fn unless_others(self, waits: &Waits) -> Self {
        match (self, waits.next) {
            (Self::Settled, next) => next.map_or(Self::WaitForOthers, Self::Wait),
            (Self::Wait(until), Some(next)) => Self::Wait(until.min(next)),
            (step, _) => step,
        }
    }

    /// The step in a word.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Settled => "nothing",
            Self::Wait(_) | Self::WaitForOthers => "wait",
            Self::Pull => "pull",
            Self::Adjust(_) => "adjust",
            Self::Launch => "launch",
            Self::Revive(_) => "revive",
            Self::Switch => "switch",
            Self::HandOver(_) => "handover",
            Self::GiveBack(_) => "give_back",
            Self::Signal(_) => "signal",
            Self::Conclude => "conclude",
            Self::RollBack(_) => "roll_back",
            Self::Stop(_) => "stop",
            Self::Suspend(_) => "suspend",
            Self::Remove(_) => "remove",
            Self::NoteRestart => "note_restart",
            Self::Finish(_) => "finish",
            Self::Forget => "forget",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = self.as_str();
        match self {
            Self::RollBack(why) => write!(f, "roll back: {}", why.reason),
            Self::HandOver(instance) => write!(f, "hand over from {instance}"),
            Self::GiveBack(instance) => write!(f, "give back to {instance}"),
            Self::Adjust(instance)
            | Self::Revive(instance)
            | Self::Signal(instance)
            | Self::Stop(instance)
            | Self::Suspend(instance)
            | Self::Remove(instance) => write!(f, "{word} {instance}"),
            Self::Finish(finished) => write!(f, "leave ended with exit code {}", finished.code),
            Self::Settled
            | Self::Wait(_)
            | Self::WaitForOthers
            | Self::Pull
            | Self::Launch
            | Self::Switch
            | Self::Conclude
            | Self::NoteRestart
            | Self::Forget => f.write_str(word),
        }
    }
}

/// The next step for a container, with the verdict that it follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The step.
    pub step: Step,
    /// The verdict.
    pub phase: Phase,
}

/// Decides on the next step for the container with this id. `record`: `None` if there is none.
#[must_use]
pub fn decide(
    id: ContainerId,
    record: Option<&Record>,
    seen: &Seen,
    history: &History,
    around: &Surroundings,
    now: BootTime,
) -> Decision {
    let phase = Phase::of(id, record, seen, history, around);
    let step = decide_for((&phase, seen), record, history, now);
    // What serves is started again first, unless it has to wait; nothing else waits for it.
    let retry_at = history.trial.former.retry_at;
    let step = match (phase.revived, step, &around.former_waits) {
        (_, first @ (Step::RollBack(_) | Step::Switch), _) => first,
        (Some(_), step, Some(waits)) => step.unless_others(waits),
        (Some(former), _, None) if now >= retry_at => Step::Revive(former),
        (Some(_), step, None) => step.until(retry_at),
        (None, step, _) => step,
    };
    let tried = record.filter(|_| !phase.is_suspended());
    let step = match tried.and_then(|record| update::latest(record, history)) {
        Some(latest) => step.until(latest),
        None => step,
    };
    Decision { step, phase }
}

fn decide_for(
    (phase, seen): (&Phase, &Seen),
    record: Option<&Record>,
    history: &History,
    now: BootTime,
) -> Step {
    let next = record
        .and_then(|record| update::next(record, (phase, seen), history, now))
        .unwrap_or_else(|| step(phase, record));
    let is_removal = matches!(next, Step::Remove(_) | Step::Signal(_));
    let cause = if is_removal {
        Cause::End
    } else {
        phase.cause()
    };
    // A question about the image, too, is asked by a person, and may be what ends the exits.
    let is_asked = record.is_some_and(|record| seen.awaits_restart(record))
        || phase.stage == Stage::TagUnchecked;
    let waits = history.waits(cause, is_asked, now);
    // Nor is what runs ended for a successor that the policy does not let start, or whose image is not
    // to be had, or not known to be signed.
    let is_ended_for_next = matches!(
        phase.stage,
        Stage::Replacing(_) | Stage::RestartRequested | Stage::Unhealthy
    );
    let denied = history.backoff.as_ref();
    let is_denial = |reason: Reason| {
        reason == Reason::PolicyDenied || matches!(reason.kind(), Kind::Image | Kind::Start)
    };
    let denied = denied.filter(|wait| is_ended_for_next && is_denial(wait.reason));
    let waits = waits.or_else(|| denied.and_then(|_| history.waits(Cause::Start, false, now)));
    match (waits, next) {
        (_, Step::Settled) => Step::Settled,
        (_, back @ (Step::RollBack(_) | Step::GiveBack(_))) => back,
        // Whom it waits for comes first: until then there is nothing to be tried again.
        (Some(_), next) if matches!(phase.stage, Stage::Waiting(_)) => next,
        (Some(until), Step::Wait(own)) => Step::Wait(until.max(own)),
        (Some(until), _) => Step::Wait(until),
        (None, next) => next,
    }
}

fn step(phase: &Phase, record: Option<&Record>) -> Step {
    let stop = || record.map_or(Step::Settled, |record| Step::Stop(record.instance()));
    match &phase.stage {
        Stage::Gone
        | Stage::Uncertain
        | Stage::Stopped
        | Stage::Finished
        | Stage::Scheduled
        | Stage::Cordoned(_)
        | Stage::Suspended(_)
        | Stage::Unresponsive
        | Stage::Trying
        | Stage::Watched
        | Stage::Running => Step::Settled,
        Stage::Updated => Step::Conclude,
        Stage::Restarted => Step::NoteRestart,
        Stage::Leftover(instance)
        | Stage::Removing(instance)
        | Stage::Retiring(instance)
        | Stage::HandingOver(instance)
        | Stage::Replacing(instance) => Step::Remove(*instance),
        Stage::Adjusting(instance) => Step::Adjust(*instance),
        Stage::Removed => Step::Forget,
        Stage::Suspending(instance, _) => Step::Suspend(*instance),
        Stage::Stopping | Stage::RestartRequested | Stage::Unhealthy => stop(),
        Stage::Unresolved | Stage::TagUnchecked => Step::Pull,
        Stage::Created | Stage::Due => Step::Launch,
        Stage::Waiting(waits) => waits.next.map_or(Step::WaitForOthers, Step::Wait),
        Stage::Ended(finished) => Step::Finish(finished.clone()),
    }
}

impl Decision {
    /// The reason for the step, in a sentence.
    #[must_use]
    pub fn why(&self, record: Option<&Record>, seen: &Seen, history: &History) -> String {
        let is_of_update = matches!(self.phase.stage, Stage::Trying | Stage::HandingOver(_));
        let is_for_others = matches!(self.phase.stage, Stage::Waiting(_));
        let is_plain = !is_for_others && (history.backoff.is_some() || !is_of_update);
        if matches!(self.step, Step::Wait(_)) && is_plain {
            let backoff = history.backoff.as_ref();
            return backoff.map_or_else(
                || "the time for it has not come".to_owned(),
                |backoff| format!("{}: {}", backoff.reason, backoff.message),
            );
        }
        if let Step::RollBack(failure) = &self.step {
            return format!("it is given up: {}", failure.message);
        }
        if let Step::Revive(_) = self.step {
            return "the generation before serves until the next one does".to_owned();
        }
        if let Step::GiveBack(_) = self.step {
            return "the next generation does not serve, and the one before is still there"
                .to_owned();
        }
        record.map_or_else(
            || "no record asks for it (any more)".to_owned(),
            |record| why(&self.phase.stage, record, seen),
        )
    }
}

fn why(stage: &Stage, record: &Record, seen: &Seen) -> String {
    let generation = record.generation;
    let fixed = match stage {
        Stage::Unresolved => {
            let image = &record.spec.image;
            return format!(
                "image {image} is not resolved to a digest for generation {generation}"
            );
        }
        Stage::TagUnchecked => {
            let image = &record.spec.image;
            return format!("the registry is to be asked what {image} stands for now");
        }
        Stage::Due => return why_due(record, seen),
        Stage::Waiting(waits) => return format!("the container {}", waits.message()),
        Stage::Suspending(_, suspension) | Stage::Suspended(suspension) => {
            return suspension.message();
        }
        Stage::Adjusting(_) => {
            return format!(
                "generation {generation} changes only what its container can take on as it is"
            );
        }
        Stage::Ended(Finished { code, reason, .. }) => {
            return format!(
                "the process ended with exit code {code}, and its restart policy leaves it so ({reason})"
            );
        }
        Stage::Retiring(_) | Stage::Replacing(_) => {
            return format!("generation {generation} takes its place");
        }
        Stage::Gone
        | Stage::Stopped
        | Stage::Finished
        | Stage::Scheduled
        | Stage::Cordoned(_)
        | Stage::Watched
        | Stage::Running => "the container is as desired",
        Stage::Trying => "it is to be ready for update.min_ready before it counts",
        Stage::HandingOver(_) => "another generation serves, and new connections go there",
        Stage::Updated => "nothing is left of the generation before",
        Stage::Unresponsive => "its shim does not answer, and what may run is left alone",
        Stage::Uncertain => "what was asked of it last is lost: it is left as it is",
        Stage::Leftover(_) => "no record asks for it (any more)",
        Stage::Removing(_) => "the container is to be removed",
        Stage::Removed => "nothing of the container is left",
        Stage::Stopping if record.run == RunState::Stopped => "the container is to be stopped",
        Stage::Stopping => "the container ended and stays so: its task is deleted",
        Stage::RestartRequested => "a restart was asked for",
        Stage::Restarted => "the restart that was asked for is done",
        Stage::Unhealthy => "its probe fails, and health.on_failure starts it anew",
        Stage::Created if record.restart_pending => "a restart was asked for",
        Stage::Created => "the container is created and was not started",
    };
    fixed.to_owned()
}

fn why_due(record: &Record, seen: &Seen) -> String {
    if seen.awaits_restart(record) {
        return "a restart was asked for".to_owned();
    }
    match seen.task(record) {
        Task::Stopped(exit) => {
            let code = exit.code;
            format!(
                "the process ended with exit code {code}, and its restart policy starts it again"
            )
        }
        Task::Absent | Task::Created { .. } | Task::Running { .. } | Task::Unresponsive => {
            format!("generation {} is to run", record.generation)
        }
    }
}

#[cfg(test)]
mod tests;
