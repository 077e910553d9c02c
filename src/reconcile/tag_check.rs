//! Tag checks: the registry is asked again what the tag of a container's image stands for, and what
//! it answers is noted. Whatever it answers, and whether it does, the container goes on.

use std::time::{Duration, SystemTime};

use state::desired::Record;
use state::desired::tag_check::{TagAnswer, TagOutcome};
use state::event::{Event, EventKind, EventSubject};
use state::observed::Task;
use state::reason::Reason;
use state::spec::ImagePull;
use state::time::unix_ms;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use super::execute::Undone;
use crate::runtime::{Runtime, RuntimeError};

/// Time in which a registry has to say what a tag stands for, where a start waits for it. Longer than
/// a look-up of its name, a token and an answer take together on a slow line.
const ANSWER_MAX: Duration = Duration::from_secs(15);

impl<R: Runtime> Reconciler<R> {
    /// Asks the registry, brings the image here if it is another, and notes the answer.
    pub(super) async fn check_tag(
        &self,
        record: &Record,
        interrupt: &CancellationToken,
    ) -> Result<(), Undone> {
        let Some(asked) = record.tag_check.as_ref().map(|check| check.asked) else {
            return Ok(());
        };
        let known = self.board.known(record.id).seen;
        let runs = matches!(known.task(record), Task::Running { .. });
        // What runs, and is not to be restarted, has time: as much as any pull.
        let is_awaited = record.restart_pending || (!runs && record.image_digest.is_some());
        let limit = is_awaited.then_some(ANSWER_MAX);
        // Before a registry hears of it: a rule may be about the registry. The question ends either
        // way, so that a container that runs settles.
        let fetched = match self.judge(record) {
            Ok(()) => {
                self.fetch(record, ImagePull::Always, limit, interrupt)
                    .await
            }
            Err(denied) => Err(denied),
        };
        let outcome = match fetched {
            Ok(digest) => TagOutcome::Digest(digest),
            Err(RuntimeError::Failed(failure)) => TagOutcome::Failed {
                reason: failure.reason,
                message: failure.message,
            },
            Err(RuntimeError::ImageLost(message)) => TagOutcome::Failed {
                reason: Reason::ImageLost,
                message,
            },
            Err(error @ (RuntimeError::Unavailable(_) | RuntimeError::Cancelled)) => {
                return Err(error.into());
            }
        };
        // It may have ended while the registry was asked: then there is nothing to restart.
        let seen = self.runtime.observe(record.id).await?;
        let is_running = !matches!(seen.task(record), Task::Stopped(_) | Task::Absent);
        let (instance, at_ms) = (record.instance(), unix_ms(SystemTime::now()));
        let noted = move |store: &state::store::Store| {
            store.answer_tag(instance, asked, outcome, at_ms, is_running)
        };
        if let Some(answer) = self.writer.write(noted).await? {
            let subject = EventSubject::new(record.id, Some(record));
            self.journal.record(told(record, &answer).about(subject));
        }
        Ok(())
    }
}

/// The event of an answer.
fn told(record: &Record, answer: &TagAnswer) -> Event {
    let (image, result) = (&record.spec.image, answer.as_str());
    let before = answer.before.as_deref().unwrap_or("nothing");
    let event = Event::from(EventKind::TagChecked { result });
    match &answer.outcome {
        TagOutcome::Digest(digest) if result == "unchanged" => {
            event.saying(format!("{image} still stands for {digest}"))
        }
        TagOutcome::Digest(digest) => event.saying(format!(
            "{image} stands for {digest} now, and was {before} before"
        )),
        TagOutcome::Failed { reason, message } => event.because(*reason).saying(format!(
            "{image} was not looked up again, and stays {before}: {message}"
        )),
    }
}
