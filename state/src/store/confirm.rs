//! The operator's word about sets of CHaS: what waits of one may go ahead, or a left epoch counts
//! again.

use std::collections::BTreeSet;

use super::{Store, StoreError};
use crate::desired::applied::{AppliedSet, Unconfirmed};
use crate::desired::marks::Mark;
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, Record};
use crate::id::{ContainerId, ContainerName};

impl Store {
    /// Confirms what is unconfirmed of the applied set (of this generation, if one is given).
    /// Answers the containers that change now: those that the set leaves out. Those that it lists
    /// otherwise change when CHaS is asked next. Where nothing is unconfirmed, it lets in the epoch
    /// of the set that was refused because its epoch was left.
    ///
    /// # Errors
    /// [`StoreError::NothingToConfirm`], [`StoreError::OtherGeneration`], [`StoreError::Disk`].
    pub fn confirm(&self, generation: Option<u64>) -> Result<Vec<ContainerId>, StoreError> {
        self.transact(|desired| {
            let applied = desired.marks().applied_set();
            let applied = applied.ok_or(StoreError::NothingToConfirm)?;
            let waiting = match (&applied.unconfirmed, &applied.refused) {
                (Some(_), _) => applied.version.generation,
                (None, Some(refused)) => refused.generation,
                (None, None) => return Err(StoreError::NothingToConfirm),
            };
            if generation.is_some_and(|generation| generation != waiting) {
                return Err(StoreError::OtherGeneration(waiting));
            }
            let Some(unconfirmed) = &applied.unconfirmed else {
                let mark = Mark::AppliedSet(Box::new(let_in(applied)));
                return Ok((vec![DesiredChange::Mark(mark)], Vec::new()));
            };
            let mut changes: Vec<_> = removals(desired, &unconfirmed.omitted);
            let ids = changes.iter().map(|record| record.id).collect();
            let changes = changes
                .drain(..)
                .map(|record| DesiredChange::Put(Box::new(record)));
            let mark =
                DesiredChange::Mark(Mark::AppliedSet(Box::new(confirmed(applied, unconfirmed))));
            Ok((changes.chain([mark]).collect(), ids))
        })
    }
}

/// The records of CHaS with these names, as they are once they are to be removed.
fn removals(desired: &Desired, names: &BTreeSet<ContainerName>) -> Vec<Record> {
    let seq = desired.seq() + 1;
    let owned = desired.records().filter(|record| {
        record.owner == Owner::Chas && !record.removing && names.contains(&record.name)
    });
    owned
        .map(|record| Record {
            removing: true,
            seq,
            ..Record::clone(record)
        })
        .collect()
}

/// The applied set once an operator has confirmed what is unconfirmed of it. As long as containers
/// are to be changed, CHaS is asked for the whole set again, without its `ETag`.
fn confirmed(applied: &AppliedSet, unconfirmed: &Unconfirmed) -> AppliedSet {
    if unconfirmed.changed.is_empty() {
        let applied = AppliedSet {
            unconfirmed: None,
            ..applied.clone()
        };
        return applied.without_doubts();
    }
    let rest = Unconfirmed {
        omitted: BTreeSet::new(),
        confirmed: true,
        ..unconfirmed.clone()
    };
    AppliedSet {
        unconfirmed: Some(rest),
        etag: None,
        fully_applied: false,
        ..applied.clone()
    }
}

/// The applied set once an operator has let in the epoch that was refused last. CHaS is asked for
/// its whole set again.
fn let_in(applied: &AppliedSet) -> AppliedSet {
    let mut applied = AppliedSet {
        etag: None,
        ..applied.clone()
    };
    if let Some(refused) = applied.refused.take() {
        applied.left_epochs.retain(|left| *left != refused.epoch);
    }
    applied
}
