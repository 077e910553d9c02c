//! The status of a container, as people and CHaS see it: one word, and one reason where the
//! container is not as desired. It follows from the [`Phase`].

use serde::Serialize;

use crate::desired::job::RunResult;
use crate::desired::{Finished, Record, RunState};
use crate::history::{Cause, History, how_it_ended, how_it_was_ended};
use crate::observed::Exit;
use crate::phase::{Goal, Phase, Stage};
use crate::reason::Reason;
use crate::time::BootTime;

/// State of a container in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The container is accepted, and nothing has been done for it yet.
    Pending,
    /// The image is being pulled.
    Pulling,
    /// The container is being created.
    Creating,
    /// The container runs.
    Running,
    /// The container runs, and its probe says that it does not work.
    Unhealthy,
    /// The container ended, and waits for its restart.
    Restarting,
    /// The container is being stopped.
    Stopping,
    /// The container does not run, and should not.
    Stopped,
    /// The container does not run, though it should; `reason` says why.
    Failed,
    /// The container is being removed.
    Removing,
}

impl Status {
    /// Every status, in the order in which a container usually goes through them.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Pulling,
        Self::Creating,
        Self::Running,
        Self::Unhealthy,
        Self::Restarting,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Removing,
    ];

    /// The status as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Unhealthy => "unhealthy",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Removing => "removing",
        }
    }
}

/// Work that the reconciler does for a container at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Pulling the image.
    Pulling,
    /// Creating and starting the container.
    Creating,
    /// Stopping the container.
    Stopping,
}

/// A status with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Status in one word.
    pub status: Status,
    /// Reason why the container is not as desired, or why it is stopped.
    pub reason: Option<Reason>,
    /// Reason in a sentence.
    pub message: Option<String>,
    /// Time of the next attempt, if one is waited for.
    pub next_attempt: Option<BootTime>,
}

impl Condition {
    /// Whether the container is as desired, as far as that can be told: one that was started, and
    /// whose shim does not answer, may not run any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        match self.status {
            Status::Running => self.reason != Some(Reason::ShimUnresponsive),
            Status::Stopped => self.reason != Some(Reason::Disconnected),
            Status::Pending
            | Status::Pulling
            | Status::Creating
            | Status::Unhealthy
            | Status::Restarting
            | Status::Stopping
            | Status::Failed
            | Status::Removing => false,
        }
    }

    /// Whether the container rests for a while, and is started again by itself.
    #[must_use]
    pub fn rests_for_a_while(&self) -> bool {
        matches!(
            self.reason,
            Some(Reason::Disconnected | Reason::NodeDrained)
        )
    }

    const fn plain(status: Status) -> Self {
        Self {
            status,
            reason: None,
            message: None,
            next_attempt: None,
        }
    }

    fn because(status: Status, reason: Reason, message: &str) -> Self {
        let message = Some(message.to_owned());
        Self {
            status,
            reason: Some(reason),
            message,
            next_attempt: None,
        }
    }

    /// A status with the reason of the backoff in force.
    fn waiting(status: Status, history: &History) -> Self {
        let Some(backoff) = &history.backoff else {
            return Self::plain(status);
        };
        let next_attempt = Some(backoff.retry_at);
        Self {
            next_attempt,
            ..Self::because(status, backoff.reason, &backoff.message)
        }
    }

    /// A status with the reason of the backoff that is just tried again.
    fn retrying(status: Status, history: &History) -> Self {
        Self {
            next_attempt: None,
            ..Self::waiting(status, history)
        }
    }
}

/// The condition of the container that `record` asks for. `unreachable` says why the runtime does
/// not answer, where it does not.
#[must_use]
pub fn condition(
    record: &Record,
    phase: &Phase,
    history: &History,
    activity: Option<Activity>,
    unreachable: Option<&str>,
) -> Condition {
    let is_stuck = history
        .backoff
        .as_ref()
        .is_some_and(|backoff| backoff.cause == Cause::End);
    match Goal::of(Some(record)) {
        Goal::Uncertain if phase.is_running => Condition::plain(Status::Running),
        Goal::Uncertain => {
            let message = Reason::ChangeLost.meaning();
            Condition::because(Status::Pending, Reason::ChangeLost, message)
        }
        Goal::Removed if is_stuck => Condition::waiting(Status::Removing, history),
        Goal::Removed => Condition::plain(Status::Removing),
        Goal::Scheduled => scheduled(record, phase, history, activity),
        Goal::Finished if !phase.is_running => match &record.finished {
            Some(end) => finished(end, record, history),
            None => Condition::plain(Status::Stopped),
        },
        Goal::Stopped | Goal::Finished if record.run == RunState::Stopped => {
            stopping(phase, history, activity, is_stuck)
        }
        Goal::Absent | Goal::Stopped | Goal::Finished | Goal::Cordoned | Goal::Running => {
            // Its end is not stored yet, and nothing else can come of it.
            if let Stage::Ended(end) = &phase.stage
                && !phase.is_former_up
            {
                return finished(end, record, history);
            }
            if let Stage::Cordoned(by) = &phase.stage {
                let message = by.to_string();
                return Condition::because(Status::Pending, Reason::NodeCordoned, &message);
            }
            if let Stage::Suspended(suspension) = &phase.stage {
                let message = suspension.message();
                return Condition::because(Status::Stopped, suspension.reason(), &message);
            }
            if let Stage::Suspending(_, suspension) = &phase.stage {
                return match is_stuck {
                    true => Condition::waiting(Status::Stopping, history),
                    false => {
                        let (reason, message) = (suspension.reason(), suspension.message());
                        Condition::because(Status::Stopping, reason, &message)
                    }
                };
            }
            if let Stage::Waiting(waits) = &phase.stage {
                let waiting =
                    Condition::because(Status::Pending, Reason::WaitsFor, &waits.message());
                let next_attempt = waits.until;
                return Condition {
                    next_attempt,
                    ..waiting
                };
            }
            let condition = starting(record, phase, history, activity);
            match unreachable {
                // Nothing of the container has failed: nothing can be tried.
                Some(why) if condition == Condition::plain(Status::Pending) => {
                    Condition::because(Status::Pending, Reason::RuntimeUnavailable, why)
                }
                Some(_) | None => condition,
            }
        }
    }
}

/// The condition of a container with a schedule, between two runs.
fn scheduled(
    record: &Record,
    phase: &Phase,
    history: &History,
    activity: Option<Activity>,
) -> Condition {
    if matches!(phase.stage, Stage::Unresolved | Stage::TagUnchecked) {
        return starting(record, phase, history, activity);
    }
    if phase.stage != Stage::Scheduled {
        return stopping(phase, history, Some(Activity::Stopping), false);
    }
    let last = record.job.as_ref().and_then(|job| job.past.last());
    let how = match last.map(|run| (run.result, run.code)) {
        None => String::new(),
        Some((RunResult::Failed, Some(code))) => {
            format!("; the last run ended with exit code {code}")
        }
        Some((result, _)) => format!("; the last run: {}", result.as_str()),
    };
    let message = format!("waits for the next time of its schedule{how}");
    Condition::because(Status::Stopped, Reason::Scheduled, &message)
}

fn stopping(
    phase: &Phase,
    history: &History,
    activity: Option<Activity>,
    is_stuck: bool,
) -> Condition {
    if is_stuck {
        return Condition::waiting(Status::Stopping, history);
    }
    // An image may be fetched for the next start.
    if phase.is_task_absent && matches!(activity, None | Some(Activity::Pulling)) {
        let message = "the container was asked to stop";
        return Condition::because(Status::Stopped, Reason::StopRequested, message);
    }
    Condition::plain(Status::Stopping)
}

fn finished(finished: &Finished, record: &Record, history: &History) -> Condition {
    let (code, reason) = (finished.code, finished.reason);
    let status = if code == 0 && reason != Reason::Unhealthy {
        Status::Stopped
    } else {
        Status::Failed
    };
    let remembered = history.last_exit.as_ref().filter(|exit| exit.code == code);
    let how = remembered.map_or_else(
        || how_it_ended(record, &Exit::stored(finished)),
        |exit| match &history.ended_for {
            Some(why) => how_it_was_ended(why),
            None => how_it_ended(record, exit),
        },
    );
    let message = match record.spec.restart.max_retries {
        Some(max) if reason == Reason::RetriesExhausted => {
            format!("{how}; restart.max_retries ({max}) is used up")
        }
        Some(_) | None => format!("{how}, and its restart policy leaves it so"),
    };
    Condition::because(status, reason, &message)
}

/// The remedy for a reason, for a person. Where the reason only says that ends recurred, the remedy
/// for what ended the container comes first.
#[must_use]
pub fn remedy(reason: Reason, history: &History) -> String {
    let cause = history.last_exit.as_ref().map(Exit::reason);
    match (reason, cause) {
        (
            Reason::RetriesExhausted | Reason::CrashLoop,
            Some(cause @ (Reason::OutOfMemory | Reason::ShimLost)),
        ) => format!("{}; then start the container again", cause.remedy()),
        _ => reason.remedy().to_owned(),
    }
}

fn starting(
    record: &Record,
    phase: &Phase,
    history: &History,
    activity: Option<Activity>,
) -> Condition {
    if phase.stage == Stage::Unresponsive && activity.is_none() {
        // It was started, and nothing tells that it has ended.
        let reason = Reason::ShimUnresponsive;
        return Condition::because(Status::Running, reason, reason.meaning());
    }
    let cause = history.backoff.as_ref().map(|backoff| backoff.cause);
    match (activity, cause) {
        (Some(Activity::Stopping), _) => Condition::plain(Status::Stopping),
        (_, None) if phase.is_running => running(record, phase, history),
        // The generation before serves; of the next one it is told what fails.
        (_, Some(_)) if phase.is_former_up => Condition::waiting(Status::Running, history),
        // It runs with what it had, until it takes on what it is to have.
        (None, Some(Cause::Start))
            if matches!(phase.stage, Stage::Adjusting(_)) && phase.is_running =>
        {
            Condition::waiting(running(record, phase, history).status, history)
        }
        (None, Some(_)) if phase.is_running => {
            Condition::retrying(running(record, phase, history).status, history)
        }
        (Some(Activity::Pulling), _) => Condition::retrying(Status::Pulling, history),
        (_, Some(Cause::Exit)) => Condition::waiting(Status::Restarting, history),
        (Some(Activity::Creating), _) => Condition::retrying(Status::Creating, history),
        (None, Some(Cause::Start | Cause::End)) => Condition::waiting(Status::Failed, history),
        (None, None) => Condition::plain(Status::Pending),
    }
}

/// The condition of a container that runs, by what its probe says, and by whether it runs what was
/// asked for last.
fn running(record: &Record, phase: &Phase, history: &History) -> Condition {
    let health = history.health.as_ref().filter(|_| history.is_unhealthy());
    match (health, &record.rolled_back) {
        // The generation before serves.
        (Some(health), _) if phase.is_former_up => {
            Condition::because(Status::Running, Reason::Unhealthy, &health.why())
        }
        (Some(health), _) => {
            Condition::because(Status::Unhealthy, Reason::Unhealthy, &health.why())
        }
        (None, Some(bad)) => Condition::because(Status::Running, Reason::RolledBack, &bad.told()),
        // What is tried runs just now; it has ended before.
        (None, None) if phase.is_former_up => history.how_trial_ended(record).map_or_else(
            || Condition::plain(Status::Running),
            |(reason, how)| Condition::because(Status::Running, reason, &how),
        ),
        (None, None) => Condition::plain(Status::Running),
    }
}

#[cfg(test)]
mod tests;
