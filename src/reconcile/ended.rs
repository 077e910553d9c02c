//! The end of a container's process as an event.

use state::desired::{Record, RunState};
use state::event::{Event, EventKind};
use state::history::{Cause, History};
use state::observed::{Exit, Seen};
use state::plan::Step;
use state::reason::Reason;

use super::Reconciler;
use crate::runtime::Runtime;

/// Whether the container is to end: an end is no fault of its own then.
pub(super) fn is_to_end(record: Option<&Record>, seen: &Seen) -> bool {
    record.is_none_or(|record| {
        record.run == RunState::Stopped || record.removing || seen.awaits_restart(record)
    })
}

impl<R: Runtime> Reconciler<R> {
    /// The end of a container's process as an event, with the cause that its history gives it.
    pub(super) fn exited(
        &self,
        is_asked_for: bool,
        exit: &Exit,
        history: &History,
        next: &Step,
    ) -> Event {
        exited(is_asked_for, exit, history, (next, self.rests_for()))
    }

    /// The reason for which containers rest that are asked for.
    fn rests_for(&self) -> Reason {
        match self.writer.store().desired().marks().drained_ms() {
            Some(_) => Reason::NodeDrained,
            None => Reason::Disconnected,
        }
    }
}

/// The end of a container's process as an event, with the cause that its history gives it.
///
/// `rests_for`: the reason for which containers of the node rest now, if `next` lets it rest.
fn exited(
    is_asked_for: bool,
    exit: &Exit,
    history: &History,
    (next, rests_for): (&Step, Reason),
) -> Event {
    let event = Event::from(EventKind::ContainerExited {
        code: exit.code,
        signal: exit.signal(),
    });
    let backoff = history.backoff.as_ref();
    match (next, backoff.filter(|backoff| backoff.cause == Cause::Exit)) {
        (Step::Suspend(_), _) => event.because(rests_for).saying(rests_for.meaning()),
        _ if is_asked_for => event.because(Reason::StopRequested),
        (Step::Finish(finished), _) if finished.reason == Reason::Completed => {
            event.because(Reason::Completed)
        }
        (_, Some(backoff)) => event.because(backoff.reason).saying(&backoff.message),
        (_, None) => event.because(exit.reason()),
    }
}

/// The end of the generation before as an event, where a look found that it ended while it serves.
/// `last`: its end that was known before.
pub(super) fn former_exited(
    record: Option<&Record>,
    last: Option<&Exit>,
    history: &History,
) -> Option<Event> {
    let serving = record.filter(|record| record.stands_back())?.serving();
    let exit = history.trial.former.last_exit.as_ref()?;
    if last.is_some_and(|last| last.is_same_end(exit)) {
        return None;
    }
    let event = Event::from(EventKind::ContainerExited {
        code: exit.code,
        signal: exit.signal(),
    });
    let generation = serving.generation;
    let message =
        format!("generation {generation} ended, which serves while the next one is tried");
    Some(event.because(exit.reason()).saying(message))
}

#[cfg(test)]
mod tests {
    use state::history::Backoff;
    use state::time::BootTime;

    use super::*;

    #[test]
    fn the_event_of_an_end_has_the_cause_that_the_history_gives_it() {
        let exit = Exit {
            code: 139,
            at: std::time::SystemTime::UNIX_EPOCH,
            out_of_memory: false,
        };
        let finish = |reason| {
            Step::Finish(state::desired::Finished {
                code: 139,
                reason,
                at_ms: 0,
            })
        };
        let backoff = Backoff {
            cause: Cause::Exit,
            reason: Reason::CrashLoop,
            message: "ended by signal 11, for the 5th time in a row".to_owned(),
            retry_at: BootTime::default(),
        };
        let mut history = History::default();
        history.backoff = Some(backoff);
        for (history, step, reason) in [
            (&history, Step::Settled, Reason::CrashLoop),
            (
                &history,
                finish(Reason::RetriesExhausted),
                Reason::CrashLoop,
            ),
            (&history, finish(Reason::Completed), Reason::Completed),
            (&History::default(), Step::Settled, Reason::Signaled),
        ] {
            let event = exited(false, &exit, history, (&step, Reason::Disconnected));
            assert_eq!(event.reason, Some(reason));
            let code = EventKind::ContainerExited {
                code: 139,
                signal: Some(11),
            };
            assert_eq!(event.kind, code);
            let event = exited(true, &exit, history, (&step, Reason::Disconnected));
            assert_eq!(event.reason, Some(Reason::StopRequested));
        }
    }
}
