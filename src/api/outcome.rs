//! What came of a deploy that somebody waits for. Pure: it judges a view.

use std::time::SystemTime;

use state::desired::RunState;
use state::reason::Reason;
use state::status::Status;
use state::time::BootTime;

use super::error::Problem;
use super::{Deployed, Refusal, View};

/// What is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    generation: u64,
    run: RunState,
    /// A failure that is waited out since before the deploy, which changed nothing: that one is not of its doing.
    old_backoff: Option<BootTime>,
    deadline: SystemTime,
}

impl Awaited {
    /// What is waited for after a deploy, until `deadline`. `None`: it is not ours.
    pub(super) fn after(deployed: &Deployed, deadline: SystemTime) -> Option<Self> {
        let record = deployed.view.record.as_ref()?;
        // Where something changed, whatever failed is the change's, however soon it did.
        let old_backoff = deployed
            .view
            .condition
            .next_attempt
            .filter(|_| !deployed.changed);
        Some(Self {
            generation: record.generation,
            run: record.run,
            old_backoff,
            deadline,
        })
    }

    /// How it ended; `None`: not decided yet.
    pub(super) fn outcome(&self, view: View) -> Option<Result<View, Problem>> {
        let condition = &view.condition;
        let newest = view
            .record
            .as_ref()
            .map_or(self.generation, |record| record.generation);
        if newest > self.generation {
            return conflict(format!(
                "generation {newest} took the place of {} before it ran",
                self.generation
            ));
        }
        let stopped = view
            .record
            .as_ref()
            .is_some_and(|record| record.run == RunState::Stopped);
        match condition.status {
            Status::Removing => conflict("it is being removed".to_owned()),
            Status::Stopping | Status::Stopped if stopped && self.run == RunState::Running => {
                conflict("it was asked to be stopped before it ran".to_owned())
            }
            Status::Running if view.applied_generation == Some(self.generation) => Some(Ok(view)),
            Status::Stopped => Some(Ok(view)),
            Status::Failed | Status::Restarting => {
                let old =
                    condition.next_attempt.is_some() && condition.next_attempt == self.old_backoff;
                let tried_in_time = view.next_attempt.is_some_and(|at| at < self.deadline);
                if old && tried_in_time {
                    return None;
                }
                let reason = condition.reason?;
                Some(Err(Problem::Failed(
                    reason,
                    condition.message.clone().unwrap_or_default(),
                )))
            }
            // Waiting for a person may take longer than anybody waits.
            Status::Pending if condition.reason == Some(Reason::NodeCordoned) => {
                Some(Err(Problem::Failed(
                    Reason::NodeCordoned,
                    condition.message.clone().unwrap_or_default(),
                )))
            }
            Status::Pending
            | Status::Pulling
            | Status::Creating
            | Status::Running
            | Status::Stopping => None,
        }
    }
}

fn conflict(why: String) -> Option<Result<View, Problem>> {
    Some(Err(Problem::Refused(Refusal::Conflict(why))))
}
