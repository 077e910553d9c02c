//! Note of the generations that are worth going back to.

use super::{Store, StoreError};
use crate::desired::Record;
use crate::desired::set::DesiredChange;
use crate::id::InstanceName;

impl Store {
    /// Notes that these generations ran long enough to be worth going back to, in one transaction.
    ///
    /// # Errors
    /// As [`Store::change`].
    pub fn note_proven(&self, proven: &[InstanceName]) -> Result<(), StoreError> {
        self.transact(|desired| {
            let records = proven.iter().filter_map(|name| {
                let record = desired.get(name.id)?;
                let is_news = record.generation == name.generation && !record.is_proven;
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
