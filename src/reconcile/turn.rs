//! One container's turn: look, decide, do one step, look again, until it is settled or has to wait.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use state::desired::Record;
use state::history::{Cause, StoredHistory};
use state::id::ContainerId;
use state::plan::{Step, decide};
use state::reason::{Kind, Reason};
use state::status::Activity;
use state::store::StoreError;
use state::time::BootTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::runtime::{PullProgress, Runtime, RuntimeError, StopOrder};

/// Steps of one turn. The longest way, a change of two generations with a lost image, takes ten; more is a fault of ours
/// and must not keep a processor busy.
const STEPS_MAX: u32 = 20;
/// How long a turn that ran out of steps, or found the runtime away, waits.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Waits between restarts: half of it certain, so that they do grow; half random, so that a node's containers spread.
fn restart_delay(exits: u32, draw: fn(Duration) -> Duration) -> Duration {
    let ceiling = Duration::from_secs(1)
        .saturating_mul(1 << exits.min(9))
        .min(Duration::from_mins(5));
    ceiling / 2 + draw(ceiling / 2)
}

/// Waits between attempts of a step that failed.
fn attempt_delay(
    cause: Cause,
    reason: Reason,
    attempts: u32,
    draw: fn(Duration) -> Duration,
) -> Duration {
    // What a registry refused is somebody else's to mend, and asking again costs them something.
    let first = match (cause, reason.kind()) {
        (Cause::Start, Kind::Image) => Duration::from_secs(10),
        (Cause::Start | Cause::End | Cause::Exit, _) => Duration::from_secs(1),
    };
    let ceiling = first
        .saturating_mul(1 << attempts.min(9))
        .min(Duration::from_mins(5));
    ceiling / 2 + draw(ceiling / 2)
}

/// What follows a step.
enum After {
    /// Another look.
    Look,
    /// The runtime is away: another turn, after a pause.
    Pause,
    /// The turn was interrupted. Whoever did that asked for another one, or the agent ends.
    End,
}

/// Why a step did not get done.
enum Undone {
    Runtime(RuntimeError),
    Store(StoreError),
}

impl From<RuntimeError> for Undone {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(error)
    }
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Gives the container back to the queue, also when its turn panics.
struct Turn<'a, R: Runtime> {
    reconciler: &'a Reconciler<R>,
    id: ContainerId,
}

impl<R: Runtime> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        self.reconciler.queue.done(self.id);
    }
}

impl<R: Runtime> Reconciler<R> {
    pub(super) async fn turn(&self, id: ContainerId, interrupt: CancellationToken) {
        let _turn = Turn {
            reconciler: self,
            id,
        };
        let before = self.board.known(id).history;
        self.steps(id, interrupt).await;
        let history = self.board.known(id).history;
        if history != before && self.writer.store().desired().get(id).is_some() {
            let remembered = StoredHistory {
                boot_id: self.board.clock.boot_id(),
                history,
            };
            self.writer.remember(id, remembered).await;
        }
    }

    async fn steps(&self, id: ContainerId, interrupt: CancellationToken) {
        for _ in 0..STEPS_MAX {
            let desired = self.writer.store().desired();
            let record = desired.get(id).cloned();
            // What is not known to be unwanted is not taken away; the adoption wakes whom it concerns.
            if desired.is_unreadable(id)
                || desired
                    .adoption()
                    .is_some_and(|adoption| adoption.is_new || record.is_none())
            {
                if record.is_none() {
                    self.board.drop_known(id);
                }
                return;
            }
            let record = record.as_deref();
            let seen = match self.runtime.observe(id).await {
                Ok(seen) => seen,
                Err(error) => {
                    if matches!(error, RuntimeError::Unavailable(_)) {
                        self.board.reached(Some(error.to_string()));
                    }
                    return self.queue.wake_at(id, Instant::now() + AGAIN_AFTER);
                }
            };
            let now = self.board.clock.now();
            let next = self.board.update(id, |known| {
                if let Some(record) = record {
                    known
                        .history
                        .record_observation(record, &seen, now, |exits| {
                            restart_delay(exits, self.draw)
                        });
                }
                known.seen = seen;
                decide(id, record, &known.seen, &known.history, now).step
            });
            match next {
                Step::Settled if record.is_none() => return self.board.drop_known(id),
                Step::Settled => return,
                Step::Wait(until) => {
                    return self.queue.wake_at(id, Instant::now() + until.since(now));
                }
                next @ (Step::Pull
                | Step::Launch
                | Step::Stop(_)
                | Step::Remove(_)
                | Step::Finish(_)
                | Step::Forget) => match self.carry_out(id, record, next, &interrupt).await {
                    After::Look => {}
                    After::Pause => return self.queue.wake_at(id, Instant::now() + AGAIN_AFTER),
                    After::End => return,
                },
            }
        }
        tracing::error!(%id, "a turn did not come to an end; it goes on after a pause");
        self.queue.wake_at(id, Instant::now() + AGAIN_AFTER);
    }

    /// Does one step and remembers how it went.
    async fn carry_out(
        &self,
        id: ContainerId,
        record: Option<&Record>,
        next: Step,
        interrupt: &CancellationToken,
    ) -> After {
        let name = record.map_or_else(|| id.to_string(), |record| record.name.to_string());
        let (cause, activity) = match &next {
            Step::Pull => (Cause::Start, Some(Activity::Pulling)),
            Step::Launch => (Cause::Start, Some(Activity::Creating)),
            Step::Stop(_) | Step::Remove(_) => (Cause::End, Some(Activity::Stopping)),
            Step::Settled | Step::Wait(_) | Step::Finish(_) | Step::Forget => (Cause::End, None),
        };
        tracing::debug!(container = %name, step = %next, "begins");
        self.board.update(id, |known| known.activity = activity);
        let began = Instant::now();
        let result = self.execute(id, record, &next, interrupt).await;
        let now = self.board.clock.now();
        let spent = began.elapsed();
        let undone = self.board.update(id, |known| {
            known.activity = None;
            match (&next, &result) {
                (Step::Pull, Ok(())) => known.history.record_pull(),
                (Step::Launch, Ok(())) => {
                    let before = known.history.restart_count;
                    known.history.record_start(now);
                    if known.history.restart_count > before {
                        self.metrics.restarted();
                    }
                }
                (Step::Stop(_) | Step::Remove(_), Ok(())) => known.history.record_stop(),
                (_, Ok(()) | Err(_)) => {}
            }
            result.err()
        });
        match undone {
            None => {
                if activity.is_some() {
                    tracing::info!(container = %name, step = %next, ms = spent.as_millis(), "done");
                }
                self.metrics.step_done(next.as_str(), spent);
                After::Look
            }
            Some(undone) => self.remember(id, &name, (&next, cause), undone, now),
        }
    }

    fn remember(
        &self,
        id: ContainerId,
        name: &str,
        (step, cause): (&Step, Cause),
        undone: Undone,
        now: BootTime,
    ) -> After {
        let (reason, message, retry_after) = match undone {
            Undone::Runtime(RuntimeError::Unavailable(error)) => {
                self.metrics
                    .step_failed(step.as_str(), Reason::RuntimeUnavailable.as_str());
                self.board.reached(Some(error));
                return After::Pause;
            }
            Undone::Runtime(RuntimeError::Cancelled) => return After::End,
            Undone::Runtime(RuntimeError::ImageLost(message)) => (Reason::ImageLost, message, None),
            Undone::Runtime(RuntimeError::Failed {
                reason,
                message,
                retry_after,
            }) => (reason, message, retry_after),
            Undone::Store(StoreError::NotFound(_)) => return After::Look,
            Undone::Store(error) => (reason_of(&error), full_text(&error), None),
        };
        self.metrics.step_failed(step.as_str(), reason.as_str());
        self.board.update(id, |known| {
            let first_loss = reason == Reason::ImageLost && known.history.attempts == 0;
            let own = if first_loss { Duration::ZERO } else { attempt_delay(cause, reason, known.history.attempts, self.draw) };
            let wait = own.max(retry_after.unwrap_or_default());
            tracing::warn!(container = %name, %reason, %message, again_in_ms = wait.as_millis(), "failed");
            known.history.record_failure(cause, reason, message.clone(), now, wait);
        });
        self.board.trouble(reason, format!("{name}: {message}"));
        After::Look
    }

    async fn execute(
        &self,
        id: ContainerId,
        record: Option<&Record>,
        next: &Step,
        interrupt: &CancellationToken,
    ) -> Result<(), Undone> {
        let how = record.map_or(
            StopOrder {
                signal: None,
                grace: Duration::from_secs(10),
            },
            |record| StopOrder {
                signal: record.spec.stop.signal,
                grace: record.spec.stop.timeout,
            },
        );
        match (next, record) {
            (Step::Stop(instance), _) => Ok(self.runtime.stop(*instance, &how).await?),
            (Step::Remove(instance), _) => Ok(self.runtime.remove(*instance, &how).await?),
            (Step::Pull, Some(record)) => self.pull(record, interrupt).await,
            (Step::Launch, Some(record)) => self.launch(record).await,
            (Step::Finish(finished), Some(record)) => {
                let (generation, finished) = (record.generation, finished.clone());
                Ok(self
                    .writer
                    .write(move |store| store.finish(id, generation, finished))
                    .await?)
            }
            (Step::Forget, Some(_)) => {
                self.runtime.forget(id).await?;
                Ok(self.writer.write(move |store| store.forget(id)).await?)
            }
            (Step::Settled | Step::Wait(_), _) | (_, None) => Ok(()),
        }
    }

    async fn pull(&self, record: &Record, interrupt: &CancellationToken) -> Result<(), Undone> {
        let progress = Arc::new(PullProgress::default());
        self.board
            .update(record.id, |known| known.pull = Some(Arc::clone(&progress)));
        let pulled = self
            .runtime
            .ensure_image(
                &record.spec.image,
                record.spec.image_pull,
                &progress,
                interrupt,
            )
            .await;
        self.board.update(record.id, |known| known.pull = None);
        self.metrics.pulled(progress.received_bytes());
        let (id, generation, digest) = (record.id, record.generation, pulled?);
        Ok(self
            .writer
            .write(move |store| store.set_image_digest(id, generation, Some(digest)))
            .await?)
    }

    async fn launch(&self, record: &Record) -> Result<(), Undone> {
        let (id, generation) = (record.id, record.generation);
        let launched = self.runtime.launch(record).await;
        if let Err(RuntimeError::ImageLost(_)) = launched {
            self.writer
                .write(move |store| store.set_image_digest(id, generation, None))
                .await?;
        }
        launched?;
        if record.restart_pending {
            self.writer
                .write(move |store| {
                    store.note(id, generation, |record| record.restart_pending = false)
                })
                .await?;
        }
        Ok(())
    }
}

/// What a change that could not be stored is called.
fn reason_of(error: &StoreError) -> Reason {
    let full = |source: &io::Error| {
        matches!(
            source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    };
    if matches!(error, StoreError::Disk(source) if full(source)) {
        Reason::DiskFull
    } else {
        Reason::StateUnwritable
    }
}

/// An error and what caused it, once each.
pub(super) fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
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
