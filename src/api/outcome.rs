//! Verdicts on a view that a caller waits for: the outcome of a deploy or an order, and whether a
//! generation is applied. Pure.

use std::time::SystemTime;

use state::desired::{Record, RunState};
use state::health::Verdict;
use state::reason::Reason;
use state::status::{Condition, Status};
use state::time::BootTime;

use super::Refusal;
use super::error::Problem;
use crate::view::{DeployedView, ManagedView};

/// The deploy, or the order, that somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    generation: u64,
    run: RunState,
    /// Whether it is to work, too, as far as its probe tells.
    to_be_ready: bool,
    /// Time of the next attempt after a failure from before a deploy that changed nothing: the
    /// deploy did not cause that failure.
    old_attempt: Option<BootTime>,
    deadline: SystemTime,
}

impl Awaited {
    /// The wait that follows a deploy, until `deadline`.
    pub(super) fn after(deployed: &DeployedView, to_be_ready: bool, deadline: SystemTime) -> Self {
        let record = &deployed.container.record;
        let next_attempt = deployed.container.condition.next_attempt;
        Self {
            generation: record.generation,
            run: record.run,
            to_be_ready,
            // Where something changed, whatever failed is the change's, however soon it did.
            old_attempt: next_attempt.filter(|_| !deployed.changed),
            deadline,
        }
    }

    /// The status, or the verdict of the probe, that is waited for.
    pub(super) const fn status(&self) -> &'static str {
        match self.run {
            RunState::Running if self.to_be_ready => Verdict::Ready.as_str(),
            RunState::Running => Status::Running.as_str(),
            RunState::Stopped => Status::Stopped.as_str(),
        }
    }

    /// The outcome; `None`: not decided yet.
    pub(super) fn outcome(&self, view: ManagedView) -> Option<Result<ManagedView, Problem>> {
        let (record, condition) = (&view.record, &view.condition);
        if record.generation > self.generation {
            return conflict(format!(
                "generation {} replaced generation {} before it ran",
                record.generation, self.generation
            ));
        }
        let is_up_to_date =
            view.applied_generation == Some(self.generation) && !record.restart_pending;
        match condition.status {
            Status::Removing => conflict("the container is being removed".to_owned()),
            Status::Stopping | Status::Stopped if self.is_ordered(record, RunState::Stopped) => {
                conflict("the container was asked to stop before it ran".to_owned())
            }
            _ if self.is_ordered(record, RunState::Running) => {
                conflict("the container was asked to run before it stopped".to_owned())
            }
            Status::Running | Status::Unhealthy
                if is_up_to_date && self.run == RunState::Running =>
            {
                self.up(view)
            }
            // It runs on with what it had, since something of what was asked is refused.
            Status::Running | Status::Unhealthy
                if self.is_refused(&view) && !self.is_old(&view) =>
            {
                failed(condition)
            }
            // CHaS may not answer, and a drain last, for longer than anybody waits.
            Status::Stopped | Status::Stopping
                if condition.rests_for_a_while() && self.run == RunState::Running =>
            {
                failed(condition)
            }
            // It has done its work, and nobody will find it ready.
            Status::Stopped if self.to_be_ready && self.run == RunState::Running => {
                failed(condition)
            }
            Status::Stopped => Some(Ok(view)),
            // It had ended before, and stays so.
            Status::Failed if self.run == RunState::Stopped && record.finished.is_some() => {
                Some(Ok(view))
            }
            Status::Failed | Status::Restarting if self.is_old(&view) => None,
            Status::Failed | Status::Restarting => failed(condition),
            // Waiting for a person may take longer than anybody waits.
            Status::Pending if condition.reason == Some(Reason::NodeCordoned) => failed(condition),
            Status::Pending
            | Status::Pulling
            | Status::Creating
            | Status::Running
            | Status::Unhealthy
            | Status::Stopping => None,
        }
    }

    /// The outcome for a container that runs as asked.
    fn up(&self, view: ManagedView) -> Option<Result<ManagedView, Problem>> {
        if !self.to_be_ready {
            return Some(Ok(view));
        }
        if view.condition.status == Status::Unhealthy {
            return failed(&view.condition);
        }
        view.ready_since.is_some().then_some(Ok(view))
    }

    /// Whether the container runs, and cannot take on what was asked.
    fn is_refused(&self, view: &ManagedView) -> bool {
        let is_behind = view
            .applied_generation
            .is_some_and(|applied| applied != self.generation);
        is_behind && self.run == RunState::Running && view.condition.next_attempt.is_some()
    }

    /// Whether somebody else has ordered `run` since.
    fn is_ordered(&self, record: &Record, run: RunState) -> bool {
        record.run == run && self.run != run
    }

    /// Whether the failure is from before the deploy, and is tried again before the deadline.
    fn is_old(&self, view: &ManagedView) -> bool {
        let next = view.condition.next_attempt;
        let is_in_time = view.next_attempt().is_some_and(|at| at < self.deadline);
        next.is_some() && next == self.old_attempt && is_in_time
    }
}

/// The generation (`None`: the newest) is what there is. For one that is to be stopped that means
/// that nothing runs, for one that ended and stays so, that it did.
pub(super) fn is_applied(view: &ManagedView, generation: Option<u64>) -> bool {
    let (record, status) = (&view.record, view.condition.status);
    let wanted = generation.unwrap_or(record.generation);
    let has_ended = record.finished.is_some() && status == Status::Failed;
    let is_suspended = view.condition.rests_for_a_while();
    let is_at_rest = (status == Status::Stopped && !is_suspended) || has_ended;
    let runs = view
        .applied_generation
        .is_some_and(|applied| applied >= wanted);
    runs || (is_at_rest && record.generation >= wanted)
}

fn failed(condition: &Condition) -> Option<Result<ManagedView, Problem>> {
    let message = condition.message.clone().unwrap_or_default();
    Some(Err(Problem::Failed(condition.reason?, message)))
}

fn conflict(why: String) -> Option<Result<ManagedView, Problem>> {
    Some(Err(Problem::Refused(Refusal::Conflict(why))))
}
