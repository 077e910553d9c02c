//! Steps of an update: the generation before serves on, and is relieved.

use std::time::SystemTime;

use state::desired::Record;
use state::desired::update::UpdateStage;
use state::event::{Event, EventKind, EventSubject};
use state::failure::Failure;
use state::plan::Step;
use state::reason::Reason;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use super::execute::Undone;
use crate::runtime::Runtime;

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
                let Some(former) = record.of_instance(*former) else {
                    return Ok(());
                };
                self.judge(former)?;
                self.judge_signatures(former, interrupt).await?;
                self.runtime.launch(former).await?;
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
            | Step::Finish(_)
            | Step::Forget => {}
        }
        Ok(())
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
