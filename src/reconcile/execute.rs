//! Execution of a step: done by the runtime, and noted in the store.

use std::sync::Arc;
use std::time::Duration;

use state::desired::{Finished, Record};
use state::event::{Event, EventKind, EventSubject};
use state::id::{ContainerId, InstanceName};
use state::observed::Exit;
use state::phase::Goal;
use state::plan::Step;
use state::plan::update;
use state::reason::Reason;
use state::spec::ImagePull;
use state::store::StoreError;
use tokio_util::sync::CancellationToken;

use super::schedule::took_ms;
use super::silence::{silence, unanswered};
use super::{Fact, Reconciler};
use crate::runtime::{PullProgress, Runtime, RuntimeError, StopOrder};

/// The cause for which a step was not done.
pub(super) enum Undone {
    /// The start to which the step leads was denied, or could not be judged: nothing of the step was
    /// begun.
    Unjudged(RuntimeError),
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

impl<R: Runtime> Reconciler<R> {
    /// Does one step. Answers how the container ended, if that is what the step did.
    pub(super) async fn execute(
        &self,
        id: ContainerId,
        record: Option<&Record>,
        next: &Step,
        interrupt: &CancellationToken,
    ) -> Result<Option<Exit>, Undone> {
        let how = self.stop_order(id, record, next);
        let resolved = match record.filter(|record| leads_to_start(next, record)) {
            Some(record) => {
                let judged = self.judge_start(record, next, interrupt).await;
                judged.map_err(|undone| match undone {
                    Undone::Runtime(error) => Undone::Unjudged(error),
                    other @ (Undone::Unjudged(_) | Undone::Store(_)) => other,
                })?
            }
            None => None,
        };
        match (next, resolved.as_deref().or(record)) {
            (Step::Stop(instance) | Step::Suspend(instance), _) => {
                return Ok(self.runtime.stop(*instance, &how).await?);
            }
            (Step::Remove(instance), _) => return Ok(self.runtime.remove(*instance, &how).await?),
            (Step::Pull, Some(record)) if record.is_tag_unchecked() => {
                self.check_tag(record, interrupt).await?;
            }
            (Step::Pull, Some(record)) => self.pull(record, interrupt).await?,
            (Step::Adjust(_), Some(record)) => {
                // A limit that the policy denies by now is no more given to what runs than to what starts.
                self.judge(record)?;
                self.runtime.adjust(record).await?;
            }
            (Step::Launch, Some(record)) => self.launch(record).await?,
            (Step::NoteRestart, Some(record)) => {
                let (instance, number) = (record.instance(), record.restarts_asked);
                let note = move |record: &mut Record| record.note_restarted(number);
                self.writer
                    .write(move |store| store.note(instance, note))
                    .await?;
            }
            (
                Step::Revive(_)
                | Step::Switch
                | Step::HandOver(_)
                | Step::GiveBack(_)
                | Step::Signal(_)
                | Step::Conclude
                | Step::RollBack(_),
                Some(record),
            ) => {
                self.update(record, next, interrupt).await?;
            }
            (Step::Finish(finished), Some(record)) => {
                self.finish(record, finished.clone()).await?;
            }
            (Step::Forget, Some(_)) => {
                self.runtime.remove_logs(id).await?;
                self.writer.write(move |store| store.forget(id)).await?;
            }
            (Step::Settled | Step::Wait(_) | Step::WaitForOthers, _) | (_, None) => {}
        }
        Ok(None)
    }

    /// Manner in which a step ends what runs. What has its signal has its grace from then on.
    fn stop_order(&self, id: ContainerId, record: Option<&Record>, step: &Step) -> StopOrder {
        let (Step::Remove(instance) | Step::Stop(instance) | Step::Suspend(instance)) = step else {
            return StopOrder::AT_ONCE;
        };
        let how = stop_order_of(record, *instance);
        let drain = self.board.known(id).history.trial.drain_of(*instance);
        let Some((drain, at)) = drain.and_then(|drain| Some((drain, drain.signalled_at?))) else {
            return how;
        };
        let passed = self.board.clock.now().since(at);
        let grace = drain.grace.unwrap_or(how.grace).saturating_sub(passed);
        StopOrder { grace, ..how }
    }

    /// Judges the start to which a step leads, by all that its record and its image say. Answers the
    /// record with the digest of its image, where that had to be learned.
    async fn judge_start(
        &self,
        record: &Record,
        next: &Step,
        interrupt: &CancellationToken,
    ) -> Result<Option<Arc<Record>>, Undone> {
        self.judge(record)?;
        // A container that runs is not given up for one that cannot have its values.
        if matches!(next, Step::Remove(_)) {
            let openable = self.writer.store().openable(record);
            openable.map_err(RuntimeError::Failed)?;
        }
        // A pull looks at the image itself, before it unpacks.
        if *next == Step::Pull {
            return Ok(None);
        }
        let resolved = self.resolve_to_judge(record, interrupt).await?;
        let record = resolved.as_deref().unwrap_or(record);
        let signed = self.judge_signatures(record, interrupt).await;
        self.unless_lost(record, signed).await?;
        let policy = self.writer.store().policy();
        let own_ids = policy.own_ids_rule(record);
        let judged = self.runtime.judge_image(record, own_ids).await;
        self.unless_lost(record, judged).await?;
        Ok(resolved)
    }

    /// Stores that a container ended and stays so, and tells of the run that ended so.
    async fn finish(&self, record: &Record, finished: Finished) -> Result<(), StoreError> {
        let (id, took) = (record.id, took_ms(&self.board, record.id));
        let of = (record.generation, record.restarts_asked);
        let ended = self
            .writer
            .write(move |store| store.finish_run(id, of, finished, took));
        if let Some(result) = ended.await? {
            let result = result.as_str();
            let told = Event::from(EventKind::JobRun { result });
            let subject = EventSubject::new(id, Some(record));
            self.journal.record(told.about(subject));
        }
        Ok(())
    }

    /// Judges a start by the policy.
    pub(super) fn judge(&self, record: &Record) -> Result<(), RuntimeError> {
        let store = self.writer.store();
        store.judge_start(record).map_err(RuntimeError::Failed)?;
        let held = self.board.known(record.id).history.of(record).backoff;
        let was_denied = held.filter(|held| held.reason == Reason::PolicyDenied);
        match was_denied {
            // Nobody knows whether it still is.
            Some(held) if store.policy().unusable.is_some() => {
                Err(RuntimeError::failed(held.reason, held.message))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Record with the digest of its image, if that is not known and signatures are demanded: a
    /// container that is there already would start without it, from nobody knows what.
    async fn resolve_to_judge(
        &self,
        record: &Record,
        interrupt: &CancellationToken,
    ) -> Result<Option<Arc<Record>>, Undone> {
        let demands = self.writer.store().policy().signatures_for(record);
        if demands.is_empty() || record.image_digest.is_some() {
            return Ok(None);
        }
        self.pull(record, interrupt).await?;
        let resolved = self.writer.store().desired().get(record.id).cloned();
        let resolved = resolved.filter(|resolved| resolved.instance() == record.instance());
        // Another was asked for meanwhile, and its turn comes.
        resolved.map(Some).ok_or(RuntimeError::Cancelled.into())
    }

    /// Judges the image that a start would run by who signed it.
    pub(super) async fn judge_signatures(
        &self,
        record: &Record,
        interrupt: &CancellationToken,
    ) -> Result<(), RuntimeError> {
        let demands = self.writer.store().policy().signatures_for(record);
        let Some(digest) = record.image_digest.as_ref().filter(|_| !demands.is_empty()) else {
            return Ok(());
        };
        let wanted = (record.spec.image_pull, demands.as_slice());
        let image = &record.spec.image;
        self.runtime
            .ensure_signed(image, digest, wanted, interrupt)
            .await
    }

    async fn pull(&self, record: &Record, interrupt: &CancellationToken) -> Result<(), Undone> {
        let (instance, policy) = (record.instance(), record.spec.image_pull);
        let digest = self.fetch(record, policy, None, interrupt).await?;
        Ok(self
            .writer
            .write(move |store| store.set_image_digest(instance, Some(digest)))
            .await?)
    }

    /// Makes sure of the record's image, as far as `policy` asks for it, and answers its digest. With
    /// a `limit`, a registry that does not answer so long is given up.
    pub(super) async fn fetch(
        &self,
        record: &Record,
        policy: ImagePull,
        limit: Option<Duration>,
        interrupt: &CancellationToken,
    ) -> Result<String, RuntimeError> {
        let progress = Arc::new(PullProgress::default());
        let begun = Fact::PullProgress(Some(Arc::clone(&progress)));
        self.board.record_fact(record.id, begun);
        let image = &record.spec.image;
        let signatures = self.writer.store().policy().signatures_for(record);
        let wanted = (policy, signatures.as_slice());
        let ensured = self
            .runtime
            .ensure_image(image, wanted, &progress, interrupt);
        let pulled = match limit {
            None => ensured.await,
            Some(limit) => tokio::select! {
                biased;
                pulled = ensured => pulled,
                () = unanswered(&progress, limit) => Err(silence(record, limit, &progress)),
            },
        };
        self.board.record_fact(record.id, Fact::PullProgress(None));
        let ended = EventKind::ImagePulled {
            received_bytes: progress.received_bytes(),
            complete: pulled.is_ok(),
        };
        let subject = EventSubject::new(record.id, Some(record));
        self.journal.record(Event::from(ended).about(subject));
        pulled
    }

    async fn launch(&self, record: &Record) -> Result<(), Undone> {
        let instance = record.instance();
        let launched = self.runtime.launch(record).await;
        let known = &record.assignment;
        let answered = self.unless_lost(record, launched).await?;
        let now = answered.map_or_else(|| known.clone(), |addresses| known.at(addresses));
        if record.restart_pending || now != *known {
            let number = record.restarts_asked;
            let note = move |record: &mut Record| {
                record.note_restarted(number);
                record.assignment = now;
            };
            self.writer
                .write(move |store| store.note(instance, note))
                .await?;
        }
        Ok(())
    }

    /// Answer of the runtime. If it is that the image is lost, the digest is no longer known either:
    /// so the next step is to pull it.
    async fn unless_lost<T>(
        &self,
        record: &Record,
        answer: Result<T, RuntimeError>,
    ) -> Result<T, Undone> {
        let instance = record.instance();
        if let Err(RuntimeError::ImageLost(_)) = answer {
            self.writer
                .write(move |store| store.set_image_digest(instance, None))
                .await?;
        }
        Ok(answer?)
    }
}

/// Manner in which an instance is ended: as the spec of that generation says.
pub(super) fn stop_order_of(record: Option<&Record>, instance: InstanceName) -> StopOrder {
    let ended = record.map(|record| record.of_instance(instance).unwrap_or(record));
    ended.map_or(
        StopOrder {
            signal: None,
            grace: Duration::from_secs(10),
        },
        |record| StopOrder {
            signal: record.spec.stop.signal,
            grace: record.spec.stop.timeout,
        },
    )
}

/// Whether the step is on the way to a start. So is the end of what runs, if it is ended for its
/// successor: that may not be let start, and then what runs is not ended for it. A question about a
/// tag is answered in any case.
fn leads_to_start(step: &Step, record: &Record) -> bool {
    match step {
        Step::Launch => true,
        Step::Pull => !record.is_tag_unchecked(),
        // Its successor runs already, or runs beside it.
        Step::Remove(_) if update::is_of_update(record, step) => false,
        Step::Stop(_) | Step::Remove(_) => {
            matches!(Goal::of(Some(record)), Goal::Running | Goal::Cordoned)
        }
        Step::Settled
        | Step::Wait(_)
        | Step::WaitForOthers
        | Step::Adjust(_)
        | Step::Revive(_)
        | Step::Switch
        | Step::HandOver(_)
        | Step::GiveBack(_)
        | Step::Signal(_)
        | Step::Conclude
        | Step::RollBack(_)
        | Step::Suspend(_)
        | Step::NoteRestart
        | Step::Finish(_)
        | Step::Forget => false,
    }
}
