//! Sets of CHaS, applied by the rules of [`crate::ownership`] and [`crate::guard`].

use std::collections::BTreeSet;

use super::batch::Batch;
use super::budgeted::Budgeted;
use super::cordon::freed;
use super::{Store, StoreError};
use crate::desired::applied::{AppliedSet, Conflict, Rejected, RestoredEpoch};
use crate::desired::marks::{Mark, NodeIdentity};
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, Record};
use crate::guard::{self, SetEffects};
use crate::ownership::{self, Age, ChasSet, Listed, SetOutcome};
use crate::spec::parse::Deploy;

impl Store {
    /// Applies a set of CHaS in one transaction.
    ///
    /// What CHaS owns is then as the set lists it, but for what an operator stopped or deleted
    /// since that version, what was pushed later, what this node cannot run, and what is
    /// unconfirmed. A set that is not newer changes nothing, unless it was not fully applied; but
    /// the cordon is as its newest copy says.
    ///
    /// `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// [`StoreError::Rebuilding`], [`StoreError::Disk`]; nothing is changed then.
    pub fn apply_set(&self, set: &ChasSet, now_ms: u64) -> Result<SetOutcome, StoreError> {
        self.apply_set_within(set, now_ms, usize::MAX)
    }

    /// Applies a set as [`apply_set`](Self::apply_set) does, but changes and ends no more running
    /// containers than `allowance`. The others are rejected for now: they stay as they are, and the
    /// set counts as not fully applied, so that it is applied again.
    ///
    /// # Errors
    /// [`StoreError::Rebuilding`], [`StoreError::Disk`]; nothing is changed then.
    pub fn apply_set_within(
        &self,
        set: &ChasSet,
        now_ms: u64,
        allowance: usize,
    ) -> Result<SetOutcome, StoreError> {
        self.look_ahead(&set.containers);
        let mut set = self.sealed_set(set)?;
        self.transact(|desired| {
            let mut batch = Batch::new(self, desired, now_ms)?;
            let age = ownership::age(desired.marks().applied_set(), &set);
            if matches!(age, Age::Newer | Age::Again) {
                set.lacks_secrets |= !batch.note_secrets(&set);
            }
            let set = &resolved(&batch, set);
            let outcome = match age {
                Age::Old => refresh(&mut batch, set),
                Age::Left => refuse(&mut batch, set),
                Age::Newer | Age::Again => apply(&mut batch, set, allowance),
            };
            Ok((batch.changes, outcome))
        })
    }

    /// Notes that CHaS knows of everything up to this change: tombstones of deletions until then
    /// are dropped.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn report_acknowledged(&self, up_to_seq: u64) -> Result<(), StoreError> {
        self.transact(|desired| Ok((ownership::acknowledged(desired, up_to_seq), ())))
    }

    /// Changes the identity of this node towards CHaS; a change that changes nothing costs nothing.
    /// Where the node has another name then, its sets are counted anew.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn set_identity(&self, change: impl FnOnce(&mut NodeIdentity)) -> Result<(), StoreError> {
        self.transact(|desired| {
            let before = desired.marks().identity();
            let mut identity = before.cloned().unwrap_or_default();
            change(&mut identity);
            if before == Some(&identity) {
                return Ok((Vec::new(), ()));
            }
            let is_renamed = before.is_some_and(|before| {
                !before.node_id.is_empty() && before.node_id != identity.node_id
            });
            let mut marks = vec![Mark::Identity(identity)];
            if let Some(applied) = desired.marks().applied_set().filter(|_| is_renamed) {
                marks.push(Mark::AppliedSet(Box::new(applied.clone().renamed())));
            }
            Ok((marks.into_iter().map(DesiredChange::Mark).collect(), ()))
        })
    }
}

/// A set with the values of its containers' secrets. A container whose secret is not there is
/// rejected, and stays as it is.
fn resolved(batch: &Batch<'_>, mut set: ChasSet) -> ChasSet {
    let rejected = set.rejected.len();
    for deploy in std::mem::take(&mut set.containers) {
        let name = deploy.name.to_string();
        match batch.resolved(deploy) {
            Ok(deploy) => set.containers.push(deploy),
            Err(StoreError::NoSecret(_, errors)) => set.rejected.push(Rejected {
                name: Some(name),
                index: None,
                errors,
            }),
            Err(error) => {
                tracing::debug!(%error, "secrets of a container not found");
                set.rejected.push(Rejected {
                    name: Some(name),
                    index: None,
                    errors: Vec::new(),
                });
            }
        }
    }
    set.lacks_secrets |= set.rejected.len() > rejected;
    set
}

/// Notes that a set is refused, since its epoch was left.
fn refuse(batch: &mut Batch<'_>, set: &ChasSet) -> SetOutcome {
    if let Some(before) = batch.desired.marks().applied_set().cloned() {
        let refused = Some(set.version());
        note(batch, AppliedSet { refused, ..before });
    }
    SetOutcome {
        stale: true,
        is_of_left_epoch: true,
        ..SetOutcome::default()
    }
}

/// Takes the cordon and the `ETag` from a set that is applied already.
fn refresh(batch: &mut Batch<'_>, set: &ChasSet) -> SetOutcome {
    let mut outcome = SetOutcome {
        stale: true,
        ..SetOutcome::default()
    };
    let before = batch.desired.marks().applied_set().cloned();
    if let Some(before) = before.filter(|before| before.version == set.version()) {
        cordon(batch, set.cordon, &mut outcome);
        for deploy in &set.containers {
            note_body(batch, deploy);
        }
        let etag = set.etag.clone();
        // Whose key is on the same version now need not be whose content was applied.
        let is_unknown = before.is_signed && before.signed_by.is_empty();
        let signed_by = match is_unknown {
            true => signers(set),
            false => before.signed_by.clone(),
        };
        note(
            batch,
            AppliedSet {
                etag,
                has_listed_hashes: true,
                signed_by,
                ..before
            },
        );
    }
    outcome
}

/// Notes the body by which CHaS lists a container that is as the body says.
fn note_body(batch: &mut Batch<'_>, deploy: &Deploy) {
    let Some(record) = batch.desired.named(&deploy.name).cloned() else {
        return;
    };
    if record.owner == Owner::Chas && !record.removing && record.spec == deploy.spec {
        batch.note_listed(record, Some(deploy.body_hash.clone()));
    }
}

fn apply(batch: &mut Batch<'_>, set: &ChasSet, allowance: usize) -> SetOutcome {
    let before = batch.desired.clone();
    let (mut outcome, version) = (SetOutcome::default(), set.version());
    let doubts = guard::doubts(&before, set);
    batch.apply(ownership::lifted(&before, &version, doubts.is_some()));
    cordon(batch, set.cordon, &mut outcome);
    let wanted = judge(&batch.desired, set, &mut outcome);
    let mut budget = Budgeted::new(allowance);
    let wanted = guarded(
        batch,
        set,
        doubts.as_ref(),
        wanted,
        &mut outcome,
        &mut budget,
    );
    let (accepted, failed) = budget.take_all(batch, wanted);
    outcome.spent.clone_from(&budget.spent);
    outcome.is_deferred = !budget.deferred.is_empty();
    // An invalid entry is invalid the next time, too: it does not count here.
    let fully_applied = failed.is_empty()
        && !outcome.is_deferred
        && !set.lacks_secrets
        && ownership::is_agreed(&outcome.conflicts);
    let changed = accepted.iter().filter(|accepted| accepted.changed);
    outcome
        .changed
        .extend(changed.map(|accepted| accepted.record.id));
    for (name, error) in failed {
        outcome
            .rejected
            .push(Rejected::because(&name, error.to_string()));
    }
    outcome.rejected.extend(budget.rejected());
    outcome.rejected.extend(set.rejected.iter().cloned());
    let is_over =
        !leaves_doubts(batch, set, &outcome) || guard::is_confirmed(&before, set, doubts.as_ref());
    let (left_epochs, doubted_epochs) = ownership::epochs_behind(before.marks().applied_set(), set);
    let applied = AppliedSet {
        version,
        etag: set.etag.clone(),
        fully_applied,
        restored: doubts.filter(|_| !is_over),
        unconfirmed: outcome.unconfirmed.clone(),
        conflicts: outcome.conflicts.clone(),
        rejected: outcome.rejected.clone(),
        has_listed_hashes: true,
        is_signed: set.signature.is_some(),
        left_epochs,
        signed_by: signers(set),
        doubted_epochs,
        refused: None,
    };
    let is_doubted = applied.restored.is_some();
    note(
        batch,
        if is_doubted {
            applied
        } else {
            applied.without_doubts()
        },
    );
    outcome
}

fn signers(set: &ChasSet) -> BTreeSet<String> {
    set.signature
        .iter()
        .flat_map(|signature| signature.by.clone())
        .collect()
}

/// Whether a part of the set was not looked at, so that its effects are not known yet: entries that
/// are unconfirmed, rejected, in conflict with a push, or suppressed by an operator.
fn leaves_doubts(batch: &Batch<'_>, set: &ChasSet, outcome: &SetOutcome) -> bool {
    outcome.unconfirmed.is_some()
        || outcome.is_deferred
        || !set.rejected.is_empty()
        || !batch.desired.marks().suppressed().is_empty()
        || !ownership::is_agreed(&outcome.conflicts)
}

fn note(batch: &mut Batch<'_>, applied: AppliedSet) {
    if batch.desired.marks().applied_set() != Some(&applied) {
        batch.apply([DesiredChange::Mark(Mark::AppliedSet(Box::new(applied)))]);
    }
}

/// Cordons the node, or lifts the cordon from it and from the containers that came meanwhile.
fn cordon(batch: &mut Batch<'_>, cordon: bool, outcome: &mut SetOutcome) {
    if batch.desired.marks().cordoned() == cordon {
        return;
    }
    batch.apply([DesiredChange::Mark(Mark::Cordoned(cordon))]);
    let freed = freed(&batch.desired);
    outcome.changed.extend(freed.iter().map(|record| record.id));
    for record in freed {
        batch.apply([DesiredChange::Put(Box::new(record))]);
    }
}

/// Removes what CHaS owns and does not list, or names as to be removed, but for what is
/// unconfirmed, or beyond the budget. Answers the listed containers that are to be applied.
fn guarded(
    batch: &mut Batch<'_>,
    set: &ChasSet,
    doubts: Option<&RestoredEpoch>,
    wanted: Vec<Deploy>,
    outcome: &mut SetOutcome,
    budget: &mut Budgeted,
) -> Vec<Deploy> {
    let mut pruned = ownership::pruned(&batch.desired, set);
    pruned.sort_by(|a, b| a.name.cmp(&b.name));
    let effects = SetEffects::of(&batch.desired, &pruned, &wanted);
    outcome.unconfirmed = guard::unconfirmed(&batch.desired, set, doubts, &effects);
    let unconfirmed = outcome.unconfirmed.clone().unwrap_or_default();
    for record in pruned {
        if !unconfirmed.omitted.contains(&record.name) && budget.may_end(&record) {
            outcome.changed.push(record.id);
            let removed = Record {
                removing: true,
                seq: batch.seq,
                ..record
            };
            batch.apply([DesiredChange::Put(Box::new(removed))]);
        }
    }
    wanted
        .into_iter()
        .filter(|deploy| !unconfirmed.changed.contains(&deploy.name))
        .collect()
}

/// Decides which entries of the set are to be applied, by [`ownership::listed`].
fn judge(desired: &Desired, set: &ChasSet, outcome: &mut SetOutcome) -> Vec<Deploy> {
    let (mut names, mut wanted) = (BTreeSet::new(), Vec::new());
    for deploy in &set.containers {
        let name = &deploy.name;
        if set.remove.contains(name) {
            let why = "the name is listed, and named under remove too";
            outcome.rejected.push(Rejected::because(name, why));
            continue;
        }
        if !names.insert(name) {
            outcome
                .rejected
                .push(Rejected::because(name, "the name is listed twice"));
            continue;
        }
        if desired.marks().suppressed().contains_key(name) {
            continue;
        }
        let before = desired.named(name).map(AsRef::as_ref);
        // It counts neither as a change nor as a fault of the set, which stays applied.
        if let Some(bad) =
            before.and_then(|before| before.has_given_up(&deploy.spec, deploy.revision))
        {
            outcome.rejected.push(Rejected::because(name, bad.told()));
            continue;
        }
        let tombstone = desired.marks().tombstones().get(name).copied();
        let conflict = |winner, why: &str| Conflict {
            name: name.clone(),
            winner,
            why: why.to_owned(),
        };
        match ownership::listed(before, tombstone, deploy, set.requested_at_seq) {
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
