//! Note of the generations that are worth going back to.

use super::{Store, StoreError};
use crate::desired::Record;
use crate::desired::set::DesiredChange;
use crate::id::InstanceName;

impl Store {
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
