//! Steps of an update: the generation before serves on, and is relieved.

use std::time::SystemTime;

use state::desired::update::UpdateStage;
use state::desired::{Addresses, Record};
use state::event::{Event, EventKind, EventSubject};
use state::failure::Failure;
use state::plan::Step;
use state::reason::Reason;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use super::execute::{Undone, stop_order_of};
use crate::runtime::{Runtime, RuntimeError};

impl<R: Runtime> Reconciler<R> {
    /// Does one step of an update.
    pub(super) async fn update(
        &self,
        record: &Record,
        next: &Step,
        interrupt: &CancellationToken,
    ) -> Result<(), Undone> {
        let instance = record.instance();
        match next {
            Step::Revive(former) => {
                if let Some(former) = record.of_instance(*former) {
                    self.revive(record, former, interrupt).await?;
                }
            }
            Step::Switch => {
                // Once that is stored nothing is to be in its way.
                if record.stands_back() {
                    self.runtime.check_ports(record).await?;
                }
                // Stored first: whoever looks after a crash gives the ports to the same one.
                let switch = |record: &mut Record| {
                    if let Some(update) = &mut record.update {
                        update.stage = UpdateStage::Switched;
                    }
                };
                self.writer
                    .write(move |store| store.note(instance, switch))
                    .await?;
            }
            Step::HandOver(other) => {
                let connections = self.runtime.hand_over(record.serving(), *other).await?;
                let now = self.board.clock.now();
                self.board.update(record.id, |known| {
                    let trial = &mut known.history.trial;
                    trial.record_connections(*other, connections, now);
                });
            }
            Step::GiveBack(former) => {
                let Some(former) = record.of_instance(*former) else {
                    return Ok(());
                };
                // Stored last: until then it is as before, and this is done again.
                self.runtime.hand_over(former, instance).await?;
                let give_back = |record: &mut Record| {
                    if let Some(update) = &mut record.update {
                        update.stage = UpdateStage::Trying;
                    }
                };
                self.writer
                    .write(move |store| store.note(instance, give_back))
                    .await?;
            }
            Step::Signal(other) => {
                let how = stop_order_of(Some(record), *other);
                self.runtime.signal(*other, &how).await?;
            }
            Step::Conclude => {
                let conclude = |record: &mut Record| record.update = None;
                self.writer
                    .write(move |store| store.note(instance, conclude))
                    .await?;
            }
            Step::RollBack(failure) => self.roll_back(record, failure).await?,
            Step::Settled
            | Step::Wait(_)
            | Step::WaitForOthers
            | Step::Pull
            | Step::Adjust(_)
            | Step::Launch
            | Step::Stop(_)
            | Step::Suspend(_)
            | Step::Remove(_)
            | Step::NoteRestart
            | Step::Finish(_)
            | Step::Forget => {}
        }
        Ok(())
    }

    /// Starts the generation before again. An image of it that is lost is pulled by its digest, since it
    /// is that one which serves.
    async fn revive(
        &self,
        record: &Record,
        former: &Record,
        interrupt: &CancellationToken,
    ) -> Result<(), Undone> {
        let launched = match self.try_revival(former, interrupt).await {
            Err(RuntimeError::ImageLost(lost)) => {
                let pinned = pinned(former).ok_or(RuntimeError::ImageLost(lost))?;
                let policy = pinned.spec.image_pull;
                self.fetch(&pinned, policy, None, interrupt).await?;
                self.try_revival(former, interrupt).await?
            }
            launched => launched?,
        };
        let known = &former.assignment;
        let Some(now) = launched
            .map(|addresses| known.at(addresses))
            .filter(|now| now != known)
        else {
            return Ok(());
        };
        let (instance, of) = (record.instance(), former.instance());
        let note = move |record: &mut Record| {
            let update = record.update.as_mut();
            if let Some(update) = update.filter(|update| update.former.instance() == of) {
                update.former.assignment = now;
            }
        };
        self.writer
            .write(move |store| store.note(instance, note))
            .await?;
        Ok(())
    }

    async fn try_revival(
        &self,
        former: &Record,
        interrupt: &CancellationToken,
    ) -> Result<Option<Addresses>, RuntimeError> {
        self.judge(former)?;
        self.judge_signatures(former, interrupt).await?;
        self.runtime.launch(former).await
    }

    /// Stores that the generation before is back, and tells why.
    async fn roll_back(&self, record: &Record, failure: &Failure) -> Result<(), Undone> {
        let (id, instance) = (record.id, record.instance());
        let former = record.update.as_ref();
        let former = former.map(|update| update.former.instance());
        let seen = self.board.known(id).seen;
        let is_there = former.is_some_and(|former| seen.instances.contains_key(&former.generation));
        let (why, now_ms) = (failure.clone(), state::time::unix_ms(SystemTime::now()));
        let back = self
            .writer
            .write(move |store| store.roll_back(instance, is_there, &why, now_ms))
            .await?;
        if back {
            let message = format!("{}: {}", failure.reason, failure.message);
            let event =
                Event::from(EventKind::RolledBack { by_hand: false }).because(Reason::RolledBack);
            let subject = EventSubject::new(id, Some(record));
            self.journal.record(event.saying(message).about(subject));
        }
        Ok(())
    }
}

/// Both generations of a step by which one takes the place of the other, as a sentence. `None`: it is
/// another step.
pub(super) fn change_of(record: &Record, step: &Step) -> Option<String> {
    let former = &record.update.as_ref()?.former;
    let (to, from) = match step {
        Step::Switch | Step::Conclude => (record, &**former),
        Step::GiveBack(_) => (&**former, record),
        Step::Settled
        | Step::Wait(_)
        | Step::WaitForOthers
        | Step::Pull
        | Step::Adjust(_)
        | Step::Launch
        | Step::Revive(_)
        | Step::HandOver(_)
        | Step::Signal(_)
        | Step::RollBack(_)
        | Step::Stop(_)
        | Step::Suspend(_)
        | Step::Remove(_)
        | Step::NoteRestart
        | Step::Finish(_)
        | Step::Forget => return None,
    };
    let named = |record: &Record| {
        let digest = record.image_digest.as_deref().unwrap_or("no digest");
        format!("generation {} ({digest})", record.generation)
    };
    Some(format!("{} in the place of {}", named(to), named(from)))
}

/// The record with its image named by its digest. `None`: it has none.
fn pinned(record: &Record) -> Option<Record> {
    let (image, digest) = (&record.spec.image, record.image_digest.as_ref()?);
    let (registry, repository) = (image.registry(), image.repository());
    let mut pinned = record.clone();
    pinned.spec.image = format!("{registry}/{repository}@{digest}").parse().ok()?;
    Some(pinned)
}
