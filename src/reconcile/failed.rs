//! A step that was not done: noted with its reason, and what follows.

use std::io::{self, ErrorKind};
use std::time::Duration;

use state::event::{Event, EventKind, EventSubject};
use state::history::Cause;
use state::plan::Step;
use state::reason::Reason;
use state::store::StoreError;
use state::time::BootTime;

use super::Reconciler;
use super::delays::{attempt_delay, is_next_pull};
use super::execute::Undone;
use crate::cause;
use crate::otlp::Span;
use crate::runtime::{Runtime, RuntimeError};

/// The consequence of a step.
pub(super) enum AfterStep {
    /// Another look.
    Look,
    /// The runtime is unreachable: another turn, after a pause.
    Pause,
    /// The turn was interrupted. Whoever did that asked for another one, or the agent ends.
    End,
}

impl<R: Runtime> Reconciler<R> {
    /// Notes that a step failed, and why; what follows is cut by who is to mend it.
    pub(super) fn failed(
        &self,
        subject: EventSubject,
        (step, cause, mut span): (Step, Cause, Span),
        undone: Undone,
        now: BootTime,
    ) -> AfterStep {
        // What was not begun for want of a judgement waits as a start does, also an end: what rests or goes
        // meanwhile waits for no policy and no image.
        let is_unjudged = matches!(undone, Undone::Unjudged(_));
        let (reason, message, retry_after) = match undone {
            Undone::Runtime(RuntimeError::Unavailable(error))
            | Undone::Unjudged(RuntimeError::Unavailable(error)) => {
                let deferred = EventKind::StepDeferred { step };
                self.journal.record(Event::from(deferred).about(subject));
                self.unreachable(&error);
                span.fail("RuntimeUnavailable");
                return AfterStep::Pause;
            }
            Undone::Runtime(RuntimeError::Cancelled)
            | Undone::Unjudged(RuntimeError::Cancelled) => {
                span.fail("Interrupted");
                return AfterStep::End;
            }
            Undone::Runtime(RuntimeError::ImageLost(message))
            | Undone::Unjudged(RuntimeError::ImageLost(message)) => {
                (Reason::ImageLost, message, None)
            }
            Undone::Runtime(RuntimeError::Failed(failure))
            | Undone::Unjudged(RuntimeError::Failed(failure)) => {
                (failure.reason, failure.message, failure.retry_after)
            }
            Undone::Store(StoreError::NotFound(_)) => return AfterStep::Look,
            Undone::Store(error) => (reason_of(&error), cause::all(&error), None),
        };
        span.fail(reason.as_str());
        let cause = if is_unjudged { Cause::Start } else { cause };
        let retry_in = self.board.update(subject.id, |known| {
            let is_revival = matches!(step, Step::Revive(_) | Step::GiveBack(_));
            let attempts = if is_revival {
                known.history.trial.former.starts
            } else {
                known.history.attempts
            };
            let own = match is_next_pull((reason, attempts), is_revival, &known.history) {
                true => Duration::ZERO,
                false => attempt_delay(cause, reason, attempts, self.draw),
            };
            let wait = own.max(retry_after.unwrap_or_default());
            if is_revival {
                // The next generation does not wait for it.
                known.history.trial.record_failed_revival(now, wait);
            } else {
                known
                    .history
                    .record_failure(cause, reason, message.clone(), now, wait);
            }
            wait
        });
        let failed = Event::from(EventKind::StepFailed { step, retry_in }).about(subject);
        self.journal.record(failed.because(reason).saying(message));
        AfterStep::Look
    }
}

/// The code of a change that could not be stored.
fn reason_of(error: &StoreError) -> Reason {
    let full = |source: &io::Error| {
        matches!(
            source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    };
    if matches!(error, StoreError::Disk(source) | StoreError::Unsure(source) if full(source)) {
        Reason::DiskFull
    } else {
        Reason::StateUnwritable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_cannot_be_written_is_a_full_disk_or_a_broken_one() {
        for (kind, reason) in [
            (ErrorKind::StorageFull, Reason::DiskFull),
            (ErrorKind::QuotaExceeded, Reason::DiskFull),
            (ErrorKind::ReadOnlyFilesystem, Reason::StateUnwritable),
            (ErrorKind::PermissionDenied, Reason::StateUnwritable),
            (ErrorKind::Other, Reason::StateUnwritable),
        ] {
            assert_eq!(reason_of(&StoreError::Disk(kind.into())), reason, "{kind}");
        }
    }
}
