//! Changes of single records, and facts noted in them.

use std::sync::Arc;

use super::{Store, StoreError};
use crate::desired::job::RunResult;
use crate::desired::set::DesiredChange;
use crate::desired::{Finished, Record};
use crate::id::{ContainerId, InstanceName};

impl Store {
    /// Changes one record, and answers it as it is stored then. A change that alters nothing is not
    /// written.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn change(
        &self,
        id: ContainerId,
        change: impl FnOnce(&mut Record),
    ) -> Result<Arc<Record>, StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let mut record = Record::clone(before);
            change(&mut record);
            if record == **before {
                return Ok((Vec::new(), Arc::clone(before)));
            }
            record.seq = desired.seq() + 1;
            Ok((
                vec![DesiredChange::Put(Box::new(record.clone()))],
                Arc::new(record),
            ))
        })
    }

    /// Notes the digest that the image of this instance resolved to. `None`: it is not known (any
    /// more).
    ///
    /// # Errors
    /// As [`Store::note`].
    pub fn set_image_digest(
        &self,
        instance: InstanceName,
        digest: Option<String>,
    ) -> Result<(), StoreError> {
        self.note(instance, |record| record.image_digest = digest)
    }

    /// Notes that this generation ended, and that its restart policy leaves it so. A later one may
    /// have another policy.
    ///
    /// # Errors
    /// As [`Store::note`].
    pub fn finish(
        &self,
        id: ContainerId,
        generation: u64,
        finished: Finished,
    ) -> Result<(), StoreError> {
        let restarts = self.desired().get(id).map(|record| record.restarts_asked);
        let of = (generation, restarts.unwrap_or_default());
        self.finish_run(id, of, finished, None).map(drop)
    }

    /// The same, where its last process ran so long; it ended by itself after this number of restarts
    /// ([`Record::restarts_asked`]), and one that was asked for since is still to be. Answers the result
    /// of the run that ended so, if the container has a schedule.
    ///
    /// # Errors
    /// As [`Store::note`].
    pub fn finish_run(
        &self,
        id: ContainerId,
        (generation, restarts): (u64, u64),
        finished: Finished,
        took_ms: Option<u64>,
    ) -> Result<Option<RunResult>, StoreError> {
        let mut result = None;
        self.note_if(
            id,
            |record| (record.generation, record.restarts_asked) == (generation, restarts),
            |record| {
                record.restart_pending = false;
                result = record.finish_run(&finished, took_ms);
                record.finished = Some(finished);
            },
        )?;
        Ok(result)
    }

    /// Notes a fact about this instance in its record.
    ///
    /// A fact is no change of what is desired: `seq` stays, and the record counts as no newer than
    /// a poll that was sent meanwhile. A record that has moved on to another instance stays as it
    /// is.
    ///
    /// # Errors
    /// As [`Store::change`].
    pub fn note(
        &self,
        instance: InstanceName,
        note: impl FnOnce(&mut Record),
    ) -> Result<(), StoreError> {
        self.note_if(instance.id, |record| record.instance() == instance, note)
    }

    pub(super) fn note_if(
        &self,
        id: ContainerId,
        is_about: impl FnOnce(&Record) -> bool,
        note: impl FnOnce(&mut Record),
    ) -> Result<(), StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let mut record = Record::clone(before);
            if is_about(&record) {
                note(&mut record);
            }
            let is_news = record != **before;
            Ok((
                if is_news {
                    vec![DesiredChange::Put(Box::new(record))]
                } else {
                    Vec::new()
                },
                (),
            ))
        })
    }

    /// Drops the record of a removed container, once nothing of the container is left. A record
    /// that was deployed again meanwhile stays.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn forget(&self, id: ContainerId) -> Result<(), StoreError> {
        self.transact(|desired| {
            let gone = desired.get(id).is_some_and(|record| record.removing);
            Ok((
                if gone {
                    vec![DesiredChange::RemoveRecord(id)]
                } else {
                    Vec::new()
                },
                (),
            ))
        })?;
        self.save_history(id, None);
        Ok(())
    }
}
