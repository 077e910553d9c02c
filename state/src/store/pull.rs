//! What is pulled from CHaS, carried out as [`crate::ownership`] and [`crate::guard`] have it.

use std::collections::BTreeSet;

use super::batch::Batch;
use super::{Store, StoreError};
use crate::desired::marks::{Link, Mark};
use crate::desired::pulled::{Conflict, Held, Pulled, Rejected, Restored, Version};
use crate::desired::set::{Change, Desired};
use crate::desired::{Owner, PortBinding, Record, RunState};
use crate::guard::{self, Ends};
use crate::id::ContainerId;
use crate::ownership::{self, Age, Listed, PullOutcome, PulledSet};
use crate::spec::parse::Deploy;

impl Store {
    /// Takes in a set that was pulled, in one transaction: what CHaS owns is as it lists it then, but for what an operator
    /// stopped or deleted since that version, what was pushed later, what cannot be had, and what is held. One that is not
    /// newer changes nothing, unless not everything of it was taken; but the cordon is as its newest copy says.
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
            let (before, version) = (desired.marks().pulled(), set.version());
            let age = ownership::age(before, &version);
            let mut batch = Batch::new(self, desired, now_ms, &listening)?;
            let mut outcome = PullOutcome {
                stale: age == Age::Old,
                ..PullOutcome::default()
            };
            if let Some(before) = before.filter(|_| outcome.stale) {
                if before.version == version {
                    cordon(&mut batch, set.cordon, &mut outcome);
                    note(
                        &mut batch,
                        Pulled {
                            etag: set.etag.clone(),
                            ..before.clone()
                        },
                    );
                }
                return Ok((batch.changes, outcome));
            }
            let doubts = guard::doubts(desired, set);
            batch.apply(ownership::lifted(desired, &version, doubts.is_some()));
            cordon(&mut batch, set.cordon, &mut outcome);
            let wanted = judge(&batch.desired, set, &mut outcome);
            let wanted = guarded(&mut batch, set, doubts.as_ref(), wanted, &mut outcome);
            let (taken, failed) = batch.take_all(wanted, Owner::Chas);
            // What is wrong with the set itself is so the next time, too.
            let whole = failed.is_empty() && ownership::is_agreed(&outcome.conflicts);
            outcome.changed.extend(
                taken
                    .iter()
                    .filter(|accepted| accepted.changed)
                    .map(|accepted| accepted.record.id),
            );
            outcome.rejected.extend(
                failed
                    .into_iter()
                    .map(|(name, error)| Rejected::because(&name, error.to_string())),
            );
            outcome.rejected.extend(set.rejected.iter().cloned());
            let (held, conflicts, rejected) = (
                outcome.held.clone(),
                outcome.conflicts.clone(),
                outcome.rejected.clone(),
            );
            // What was not understood, what was pushed and what an operator keeps otherwise was not looked at: nobody knows yet
            // what the set would do to that.
            let is_unseen =
                !set.rejected.is_empty() || !batch.desired.marks().suppressed().is_empty();
            let is_open = held.is_some() || is_unseen || !ownership::is_agreed(&conflicts);
            let is_over = !is_open || guard::is_confirmed(desired, set, doubts.as_ref());
            let restored = doubts.filter(|_| !is_over);
            note(
                &mut batch,
                Pulled {
                    version,
                    etag: set.etag.clone(),
                    whole,
                    restored,
                    held,
                    conflicts,
                    rejected,
                },
            );
            Ok((batch.changes, outcome))
        })
    }

    /// An operator confirms what is held (of this generation, if one is given). What was left out is taken away now; what was
    /// listed otherwise is changed when CHaS is asked next. Answers what is not as before.
    ///
    /// # Errors
    /// [`StoreError::NothingHeld`], [`StoreError::OtherHeld`], [`StoreError::Disk`].
    pub fn confirm(&self, generation: Option<u64>) -> Result<Vec<ContainerId>, StoreError> {
        self.transact(|desired| {
            let pulled = desired.marks().pulled();
            let (pulled, held) = pulled
                .and_then(|pulled| Some((pulled, pulled.held.as_ref()?)))
                .ok_or(StoreError::NothingHeld)?;
            let is_generation = pulled.version.generation;
            if generation.is_some_and(|generation| generation != is_generation) {
                return Err(StoreError::OtherHeld(is_generation));
            }
            let goes = |record: &&Record| {
                record.owner == Owner::Chas
                    && !record.removing
                    && held.omitted.contains(&record.name)
            };
            let goes: Vec<_> = desired
                .records()
                .map(AsRef::as_ref)
                .filter(goes)
                .cloned()
                .collect();
            let ids = goes.iter().map(|record| record.id).collect();
            let seq = desired.seq() + 1;
            let gone = goes.into_iter().map(|record| {
                Change::Put(Box::new(Record {
                    removing: true,
                    seq,
                    ..record
                }))
            });
            let rest = Held {
                omitted: BTreeSet::new(),
                confirmed: true,
                ..held.clone()
            };
            let is_done = rest.changed.is_empty();
            let (held, restored) = (
                (!is_done).then_some(rest),
                pulled.restored.clone().filter(|_| !is_done),
            );
            let etag = pulled.etag.clone().filter(|_| is_done);
            let pulled = Pulled {
                held,
                restored,
                etag,
                whole: pulled.whole && is_done,
                ..pulled.clone()
            };
            Ok((
                gone.chain([Change::Mark(Mark::Pulled(pulled))]).collect(),
                ids,
            ))
        })
    }

    /// CHaS knows of everything up to this change: what was deleted until then needs not be noted any longer.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn report_acknowledged(&self, up_to_seq: u64) -> Result<(), StoreError> {
        self.transact(|desired| Ok((ownership::acknowledged(desired, up_to_seq), ())))
    }

    /// Changes what this node is to CHaS. One that changes nothing costs nothing. Where it is another node by name, what was
    /// pulled is of another count than what will be.
    ///
    /// # Errors
    /// [`StoreError::Disk`].
    pub fn link(&self, change: impl FnOnce(&mut Link)) -> Result<(), StoreError> {
        self.transact(|desired| {
            let before = desired.marks().link();
            let mut link = before.cloned().unwrap_or_default();
            change(&mut link);
            if before == Some(&link) {
                return Ok((Vec::new(), ()));
            }
            let is_renamed = before
                .is_some_and(|before| before.node_id != link.node_id && !before.node_id.is_empty());
            let pulled = desired.marks().pulled().filter(|_| is_renamed).cloned();
            let of_no_epoch = pulled.map(|pulled| Pulled {
                version: Version::default(),
                etag: None,
                ..pulled
            });
            let marks = std::iter::once(Mark::Link(link)).chain(of_no_epoch.map(Mark::Pulled));
            Ok((marks.map(Change::Mark).collect(), ()))
        })
    }
}

fn note(batch: &mut Batch<'_>, pulled: Pulled) {
    if batch.desired.marks().pulled() != Some(&pulled) {
        batch.apply([Change::Mark(Mark::Pulled(pulled))]);
    }
}

/// Cordons the node, or lifts the cordon from it and from what came meanwhile.
fn cordon(batch: &mut Batch<'_>, cordon: bool, outcome: &mut PullOutcome) {
    if batch.desired.marks().cordoned() == cordon {
        return;
    }
    batch.apply([Change::Mark(Mark::Cordoned(cordon))]);
    if cordon {
        return;
    }
    let freed: Vec<_> = batch
        .desired
        .records()
        .filter(|record| record.cordoned)
        .map(|record| Record::clone(record))
        .collect();
    outcome.changed.extend(freed.iter().map(|record| record.id));
    batch.apply(freed.into_iter().map(|record| {
        Change::Put(Box::new(Record {
            cordoned: false,
            ..record
        }))
    }));
}

/// Takes away what CHaS owns and does not list, or names as to be removed; but for what is held. Answers what of the rest is
/// to be taken.
fn guarded(
    batch: &mut Batch<'_>,
    set: &PulledSet,
    doubts: Option<&Restored>,
    wanted: Vec<Deploy>,
    outcome: &mut PullOutcome,
) -> Vec<Deploy> {
    let pruned = ownership::pruned(&batch.desired, set);
    let changes = |deploy: &&Deploy| {
        let before = batch
            .desired
            .named(&deploy.name)
            .filter(|before| guard::runs(before));
        before.is_some_and(|before| {
            deploy.run == RunState::Stopped || deploy.spec.hash() != before.spec_hash
        })
    };
    let ends = Ends {
        omitted: pruned.iter().map(|record| record.name.clone()).collect(),
        changed: wanted
            .iter()
            .filter(changes)
            .map(|deploy| deploy.name.clone())
            .collect(),
    };
    outcome.held = guard::held(&batch.desired, set, doubts, &ends);
    let held = outcome.held.clone().unwrap_or_default();
    for record in pruned
        .into_iter()
        .filter(|record| !held.omitted.contains(&record.name))
    {
        outcome.changed.push(record.id);
        batch.apply([Change::Put(Box::new(Record {
            removing: true,
            seq: batch.seq,
            ..record
        }))]);
    }
    wanted
        .into_iter()
        .filter(|deploy| !held.changed.contains(&deploy.name))
        .collect()
}

/// What of the set is to be taken.
fn judge(desired: &Desired, set: &PulledSet, outcome: &mut PullOutcome) -> Vec<Deploy> {
    let (mut names, mut wanted) = (BTreeSet::new(), Vec::new());
    for deploy in &set.containers {
        let name = &deploy.name;
        if set.remove.contains(name) || !names.insert(name) {
            let why = if set.remove.contains(name) {
                "it is listed, and named under remove too"
            } else {
                "it is listed twice"
            };
            outcome.rejected.push(Rejected::because(name, why));
            continue;
        }
        if desired.marks().suppressed().contains_key(name) {
            continue;
        }
        let (before, tombstone) = (desired.named(name), desired.marks().tombstones().get(name));
        let conflict = |winner, why: &str| Conflict {
            name: name.clone(),
            winner,
            why: why.to_owned(),
        };
        match ownership::listed(
            before.map(AsRef::as_ref),
            tombstone.copied(),
            deploy,
            set.sent_after,
        ) {
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
