//! Generations that are worth going back to, and the way back.

use super::{Store, StoreError};
use crate::desired::Record;
use crate::desired::set::DesiredChange;
use crate::failure::Failure;
use crate::id::InstanceName;

impl Store {
    /// Gives the generation of this instance up for `why`, and goes back to the one before. `is_there`:
    /// the instance of that is. Answers whether it was so. `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// As [`Store::change`].
    pub fn roll_back(
        &self,
        instance: InstanceName,
        is_there: bool,
        why: &Failure,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.transact(|desired| {
            let before = desired.get(instance.id);
            let before = before.filter(|before| before.instance() == instance);
            let back = before.and_then(|before| before.back(is_there, why, now_ms));
            let back = back.map(|back| Record {
                seq: desired.seq() + 1,
                ..back
            });
            let change = back.map(|back| DesiredChange::Put(Box::new(back)));
            let is_back = change.is_some();
            Ok((change.into_iter().collect(), is_back))
        })
    }

    /// Notes that these generations, of these images, ran long enough to be worth going back to, in one transaction.
    ///
    /// # Errors
    /// As [`Store::change`].
    pub fn note_proven(&self, proven: &[(InstanceName, Option<String>)]) -> Result<(), StoreError> {
        self.transact(|desired| {
            let records = proven.iter().filter_map(|(name, digest)| {
                let record = desired.get(name.id)?;
                let is_same = record.instance() == *name && record.image_digest == *digest;
                let is_news = is_same && !record.is_proven && !record.restart_pending;
                is_news.then(|| Record {
                    is_proven: true,
                    ..Record::clone(record)
                })
            });
            let changes = records.map(|record| DesiredChange::Put(Box::new(record)));
            Ok((changes.collect(), ()))
        })
    }
}
