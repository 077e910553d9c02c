//! What to call the state a container is in, for people and for CHaS: a status, and one reason where it is not as desired.

use serde::Serialize;

use crate::desired::{Record, RunState};
use crate::history::{Cause, History};
use crate::observed::{Seen, Task};
use crate::reason::Reason;
use crate::time::BootTime;

/// The state of a container in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted; nothing has been done yet.
    Pending,
    /// Its image is being fetched.
    Pulling,
    /// It is being created.
    Creating,
    /// It runs.
    Running,
    /// It ended, and waits to be started again.
    Restarting,
    /// It is being stopped.
    Stopping,
    /// It does not run, and should not.
    Stopped,
    /// It does not run, though it should; `reason` says why.
    Failed,
    /// It is being taken away.
    Removing,
}

impl Status {
    /// Every status, in the order in which a container usually goes through them.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Pulling,
        Self::Creating,
        Self::Running,
        Self::Restarting,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Removing,
    ];

    /// The word, as it stands in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Pulling => "pulling",
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Removing => "removing",
        }
    }
}

/// What the reconciler is doing for a container at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Fetching its image.
    Pulling,
    /// Creating and starting it.
    Creating,
    /// Stopping it.
    Stopping,
}

/// A status with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The word.
    pub status: Status,
    /// Why it is not as desired, or why it is stopped.
    pub reason: Option<Reason>,
    /// The reason in a sentence.
    pub message: Option<String>,
    /// When the next attempt is made, if one is waited for.
    pub next_attempt: Option<BootTime>,
}

impl Condition {
    const fn plain(status: Status) -> Self {
        Self {
            status,
            reason: None,
            message: None,
            next_attempt: None,
        }
    }

    fn because(status: Status, reason: Reason, message: &str) -> Self {
        Self {
            status,
            reason: Some(reason),
            message: Some(message.to_owned()),
            next_attempt: None,
        }
    }

    fn after(status: Status, history: &History) -> Self {
        let backoff = history.backoff.as_ref();
        Self {
            status,
            reason: backoff.map(|s| s.reason),
            message: backoff.map(|s| s.message.clone()),
            next_attempt: backoff.map(|s| s.retry_at),
        }
    }
}

/// The condition of the container that `record` asks for.
#[must_use]
pub fn condition(
    record: &Record,
    seen: &Seen,
    history: &History,
    activity: Option<Activity>,
) -> Condition {
    let task = seen
        .instances
        .get(&record.generation)
        .map_or(&Task::Absent, |instance| &instance.task);
    let running = matches!(task, Task::Running { .. });
    let stuck = history
        .backoff
        .as_ref()
        .is_some_and(|backoff| backoff.cause == Cause::End);
    if record.removing {
        return if stuck {
            Condition::after(Status::Removing, history)
        } else {
            Condition::plain(Status::Removing)
        };
    }
    if let (Some(finished), false) = (&record.finished, running) {
        let status = if finished.code == 0 {
            Status::Stopped
        } else {
            Status::Failed
        };
        let message = format!(
            "ended with exit code {}, and its restart policy leaves it so",
            finished.code
        );
        return Condition::because(status, finished.reason, &message);
    }
    if record.run == RunState::Stopped {
        let ended = matches!(task, Task::Absent) && activity.is_none();
        return match (stuck, ended) {
            (true, _) => Condition::after(Status::Stopping, history),
            (false, true) => Condition::because(
                Status::Stopped,
                Reason::StopRequested,
                "it was asked to be stopped",
            ),
            (false, false) => Condition::plain(Status::Stopping),
        };
    }
    if record.cordoned && seen.instances.is_empty() {
        return Condition::because(
            Status::Pending,
            Reason::NodeCordoned,
            "the node is cordoned, and takes nothing new",
        );
    }
    match (
        activity,
        history.backoff.as_ref().map(|backoff| backoff.cause),
    ) {
        (Some(Activity::Stopping), _) => Condition::plain(Status::Stopping),
        (_, None) if running => Condition::plain(Status::Running),
        (None, Some(_)) if running => Condition {
            next_attempt: None,
            ..Condition::after(Status::Running, history)
        },
        (Some(Activity::Pulling), _) => Condition {
            next_attempt: None,
            ..Condition::after(Status::Pulling, history)
        },
        (_, Some(Cause::Exit)) => Condition::after(Status::Restarting, history),
        (Some(Activity::Creating), _) => Condition {
            next_attempt: None,
            ..Condition::after(Status::Creating, history)
        },
        (None, Some(Cause::Start | Cause::End)) => Condition::after(Status::Failed, history),
        (None, None) => Condition::plain(Status::Pending),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::desired::Finished;
    use crate::desired::tests::record;
    use crate::observed::{Exit, Instance};

    #[track_caller]
    fn check(
        change: impl FnOnce(&mut Record, &mut History),
        task: Task,
        activity: Option<Activity>,
        expected: (Status, Option<Reason>),
    ) {
        let (mut record, mut history) = (record("a", 1), History::default());
        change(&mut record, &mut history);
        let seen = Seen {
            instances: [(
                1,
                Instance {
                    container: true,
                    task,
                },
            )]
            .into(),
        };
        let condition = condition(&record, &seen, &history, activity);
        assert_eq!((condition.status, condition.reason), expected);
        assert_eq!(condition.reason.is_some(), condition.message.is_some());
    }

    const RUNNING: Task = Task::Running {
        pid: 1,
        since: None,
    };

    fn fail(history: &mut History, cause: Cause, reason: Reason) {
        history.record_failure(
            cause,
            reason,
            "why".to_owned(),
            BootTime::default(),
            Duration::from_secs(1),
        );
    }

    #[test]
    fn the_word_is_the_one_in_json() {
        for status in Status::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.word());
        }
    }

    #[test]
    fn the_usual_way_is_pending_pulling_creating_running() {
        check(|_, _| (), Task::Absent, None, (Status::Pending, None));
        check(
            |_, _| (),
            Task::Absent,
            Some(Activity::Pulling),
            (Status::Pulling, None),
        );
        check(
            |_, _| (),
            Task::Absent,
            Some(Activity::Creating),
            (Status::Creating, None),
        );
        check(
            |_, _| (),
            RUNNING,
            Some(Activity::Creating),
            (Status::Running, None),
        );
        check(|_, _| (), RUNNING, None, (Status::Running, None));
    }

    #[test]
    fn what_failed_says_why_while_it_waits_and_while_it_tries_again() {
        let bad = |_: &mut Record, m: &mut History| fail(m, Cause::Start, Reason::ImageNotFound);
        check(
            bad,
            Task::Absent,
            None,
            (Status::Failed, Some(Reason::ImageNotFound)),
        );
        check(
            bad,
            Task::Absent,
            Some(Activity::Pulling),
            (Status::Pulling, Some(Reason::ImageNotFound)),
        );
    }

    #[test]
    fn what_ended_is_restarting_or_done() {
        let exit = || {
            Task::Stopped(Exit {
                code: 1,
                at: SystemTime::UNIX_EPOCH,
                out_of_memory: true,
            })
        };
        check(
            |_, m| fail(m, Cause::Exit, Reason::OutOfMemory),
            exit(),
            None,
            (Status::Restarting, Some(Reason::OutOfMemory)),
        );
        let finish = |code| {
            move |r: &mut Record, _: &mut History| {
                r.finished = Some(Finished {
                    code,
                    reason: Reason::Completed,
                    at_ms: 0,
                });
            }
        };
        check(
            finish(0),
            Task::Absent,
            None,
            (Status::Stopped, Some(Reason::Completed)),
        );
        check(
            finish(2),
            Task::Absent,
            None,
            (Status::Failed, Some(Reason::Completed)),
        );
    }

    #[test]
    fn what_a_cordoned_node_does_not_start_says_so() {
        let (record, history) = (
            Record {
                cordoned: true,
                ..record("a", 1)
            },
            History::default(),
        );
        let condition = condition(&record, &Seen::default(), &history, None);
        assert_eq!(
            (condition.status, condition.reason),
            (Status::Pending, Some(Reason::NodeCordoned))
        );
    }

    #[test]
    fn stopping_ends_as_stopped_and_removing_stays_removing() {
        let stop = |r: &mut Record, _: &mut History| r.run = RunState::Stopped;
        check(
            stop,
            RUNNING,
            Some(Activity::Stopping),
            (Status::Stopping, None),
        );
        check(
            stop,
            Task::Absent,
            None,
            (Status::Stopped, Some(Reason::StopRequested)),
        );
        check(
            |r, _| r.removing = true,
            RUNNING,
            None,
            (Status::Removing, None),
        );
        let stuck = |r: &mut Record, m: &mut History| {
            r.removing = true;
            fail(m, Cause::End, Reason::RemoveFailed);
        };
        check(
            stuck,
            RUNNING,
            None,
            (Status::Removing, Some(Reason::RemoveFailed)),
        );
    }
}
