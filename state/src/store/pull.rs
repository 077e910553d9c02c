//! What is pulled from CHaS, carried out as [`crate::ownership`] has it.

use std::collections::BTreeSet;

use super::batch::Batch;
use super::{Store, StoreError};
use crate::desired::marks::{Mark, Pulled};
use crate::desired::set::{Change, Desired};
use crate::desired::{Owner, PortBinding, Record};
use crate::id::ContainerName;
use crate::ownership::{self, Age, Conflict, Listed, PullOutcome, PulledSet};
use crate::spec::parse::Deploy;

impl Store {
    /// Takes in a set that was pulled, in one transaction: what CHaS owns is as it lists it then, but for what an operator
    /// stopped or deleted since that version, what was pushed later, and what cannot be had. One that is not newer changes
    /// nothing, unless not everything of it could be taken.
    ///
    /// `listening` says whether a process of this host listens on a binding; `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// [`StoreError::Rebuilding`], [`StoreError::Disk`]; nothing is changed then.
    pub fn pull(
        &self,
        set: &PulledSet,
        now_ms: u64,
        listening: impl Fn(&PortBinding) -> bool,
    ) -> Result<PullOutcome, StoreError> {
        self.transact(|desired| {
            let (version, age) = (set.version(), ownership::age(desired.marks().pulled(), &set.version()));
            if age == Age::Old {
                return Ok((Vec::new(), PullOutcome { stale: true, ..PullOutcome::default() }));
            }
            let mut batch = Batch::new(self, desired, now_ms, &listening)?;
            batch.apply(ownership::lifted(desired, &version));
            let mut outcome = PullOutcome::default();
            prune(&mut batch, set, &mut outcome);
            let wanted = judge(&batch.desired, set, &mut outcome);
            let (taken, failed) = batch.take_all(wanted, Owner::Chas);
            outcome.changed.extend(taken.iter().filter(|accepted| accepted.changed).map(|accepted| accepted.record.id));
            outcome.rejected.extend(failed.into_iter().map(|(name, error)| (name, error.to_string())));
            let whole = outcome.rejected.is_empty() && outcome.conflicts.iter().all(|lost| lost.winner == Owner::Chas);
            let pulled = Pulled { version, etag: set.etag.clone().filter(|_| whole), whole };
            if desired.marks().pulled() != Some(&pulled) {
                batch.apply([Change::Mark(Mark::Pulled(pulled))]);
            }
            Ok((batch.changes, outcome))
        })
    }

    /// CHaS knows of everything up to this change: what was deleted until then needs not be noted any longer.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn report_acknowledged(&self, up_to_seq: u64) -> Result<(), StoreError> {
        self.transact(|desired| Ok((ownership::acknowledged(desired, up_to_seq), ())))
    }
}

/// Takes away what CHaS owns and does not list, or names as to be removed.
fn prune(batch: &mut Batch<'_>, set: &PulledSet, outcome: &mut PullOutcome) {
    let names: BTreeSet<ContainerName> = set.containers.iter().map(|deploy| deploy.name.clone()).collect();
    for record in ownership::pruned(&batch.desired, &names) {
        outcome.changed.push(record.id);
        batch.apply([Change::Put(Box::new(Record { removing: true, seq: batch.seq, ..record }))]);
    }
}

/// What of the set is to be taken.
fn judge(desired: &Desired, set: &PulledSet, outcome: &mut PullOutcome) -> Vec<Deploy> {
    let (mut names, mut wanted) = (BTreeSet::new(), Vec::new());
    for deploy in &set.containers {
        let name = &deploy.name;
        if set.remove.contains(name) || !names.insert(name) {
            let why = if set.remove.contains(name) { "it is listed, and named under remove too" } else { "it is listed twice" };
            outcome.rejected.push((name.clone(), why.to_owned()));
            continue;
        }
        if desired.marks().suppressed().contains_key(name) {
            continue;
        }
        let (before, tombstone) = (desired.named(name), desired.marks().tombstones().get(name));
        let conflict = |winner, why| Conflict { name: name.clone(), winner, why };
        match ownership::listed(before.map(AsRef::as_ref), tombstone.copied(), deploy, set.sent_after) {
            Listed::Take => wanted.push(deploy.clone()),
            Listed::Overrule(why) => {
                outcome.conflicts.push(conflict(Owner::Chas, why));
                wanted.push(deploy.clone());
            }
            Listed::Stand(why) => outcome.conflicts.push(conflict(Owner::Push, why)),
        }
    }
    wanted
}
