//! Ownership: who may change a container, and who wins between a push and a set of CHaS. Pure; the
//! store carries the rules out in one transaction.
//!
//! 1. A set of CHaS adds, changes and removes only what CHaS owns ([`pruned`]).
//! 2. Same name, same spec: CHaS takes ownership, and nothing restarts ([`listed`]).
//! 3. Same name, other spec: the higher revision wins where both have one; else CHaS, if it was
//!    polled after the push was accepted; else the push stands until the next poll ([`listed`]).
//! 4. A push onto a container of CHaS is refused, unless it asks for what is there or bears a
//!    higher revision ([`pushed`]).
//! 5. A container of CHaS that an operator stopped or deleted stays so until a newer set lists it
//!    ([`ordered`], [`Suppressed`]).
//! 6. A pushed container that is deleted leaves a [`Tombstone`] until CHaS knows of it: its
//!    [`answers`] are kept as long, and a set that was polled before does not bring it back.
//!
//! Two more rules are elsewhere: unmanaged containers are not in the store, and nothing is removed
//! before the store is loaded.

use crate::access::NameScope;
use sha2::{Digest as _, Sha256};

use crate::desired::marks::{Mark, Suppressed, Tombstone};
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::tag_check::TagCheck;
use crate::desired::{Owner, Record, RunState};
use crate::spec::parse::Deploy;

pub mod answers;
mod set;

pub use set::{
    Age, ChasSet, Listed, SetOutcome, SetSecret, SetSignature, age, apply_again, epochs_behind,
    goes_on, is_agreed, lifted, listed, pruned,
};

/// Tombstones kept at once. Beyond that the oldest is dropped, as on a node that reports to nobody.
pub const TOMBSTONES_MAX: usize = 1024;

/// Whether `deploy` asks for what `record` is. Specs are compared by value, not by fingerprint: a
/// version of the agent that computes another fingerprint is no reason to restart a container.
fn asks_for(deploy: &Deploy, record: &Record) -> bool {
    record.run == deploy.run && record.priority == deploy.priority && record.spec == deploy.spec
}

/// Decision about a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// The push is accepted.
    Take,
    /// The push is accepted, and takes the container from CHaS.
    TakeOver,
    /// The push asks for what CHaS lists; the container stays CHaS's.
    Same,
    /// The push is refused: CHaS owns the container.
    Refuse,
}

/// Rule 4: decides about a push onto `before`.
#[must_use]
pub fn pushed(before: Option<&Record>, deploy: &Deploy) -> Pushed {
    let of_chas = before.filter(|before| before.owner == Owner::Chas && !before.removing);
    let Some(before) = of_chas else {
        return Pushed::Take;
    };
    let revisions = deploy.revision.zip(before.revision);
    if revisions.is_some_and(|(pushed, stored)| pushed > stored) {
        Pushed::TakeOver
    } else if asks_for(deploy, before) {
        Pushed::Same
    } else {
        Pushed::Refuse
    }
}

/// An operator's order about one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Stop the container, and keep it stopped.
    Stop,
    /// Run the container.
    Start,
    /// Stop the container and start it once; with `image_pull: always`, from what its image's tag
    /// stands for then.
    Restart,
    /// Remove the container.
    Remove,
}

/// Rules 5 and 6: the record after an order, and the changes to store. No change: it is so already.
#[must_use]
pub fn ordered(desired: &Desired, before: &Record, order: Order) -> (Record, Vec<DesiredChange>) {
    // Whatever was lost, from now on it is known what is asked.
    let mut record = Record {
        is_uncertain: false,
        ..before.clone()
    };
    match order {
        Order::Stop => {
            record.run = RunState::Stopped;
            record.stop_run();
        }
        Order::Start => (record.run, record.finished) = (RunState::Running, None),
        Order::Restart => {
            (record.run, record.finished) = (RunState::Running, None);
            // Twice the number of the change: it may ask twice.
            let floor = desired.seq().saturating_mul(2);
            record.ask_restart(floor);
            if record.spec.schedule.is_some() {
                record.begin_run(None, floor);
            }
            if before.follows_tag() {
                record.tag_check = Some(TagCheck::by_change(desired.seq() + 1));
            }
        }
        Order::Remove => record.removing = true,
    }
    if record == *before {
        return (record, Vec::new());
    }
    record.seq = desired.seq() + 1;
    let mut changes = vec![DesiredChange::Put(Box::new(record.clone()))];
    match before.owner {
        _ if before.removing => {}
        Owner::Chas => changes.extend(suppression(desired, before, &record)),
        Owner::Push if record.removing => changes.extend(buried(desired, &record)),
        Owner::Push => {}
    }
    (record, changes)
}

fn suppression(desired: &Desired, before: &Record, record: &Record) -> Vec<DesiredChange> {
    let marked = desired.marks().suppressed().get(&before.name);
    let listed = marked.map_or(before.run, |mark| mark.listed);
    let at = desired
        .marks()
        .applied_set()
        .map(|applied| applied.version.clone());
    let mark = (record.removing || record.run != listed).then_some(Suppressed { at, listed });
    if marked == mark.as_ref() {
        return Vec::new();
    }
    // As long as the mark stood, nobody looked at what CHaS lists for the container.
    let again = if mark.is_none() {
        apply_again(desired)
    } else {
        None
    };
    let mark = DesiredChange::Mark(Mark::Suppressed(before.name.clone(), mark));
    again.into_iter().chain([mark]).collect()
}

/// The tombstone of a pushed record that is deleted, for which the oldest one makes room.
#[must_use]
pub fn buried(desired: &Desired, record: &Record) -> Vec<DesiredChange> {
    let tombstones = desired.marks().tombstones();
    let mark = |name, tombstone| DesiredChange::Mark(Mark::Tombstone(name, tombstone));
    let tombstone = Tombstone {
        id: record.id,
        seq: record.seq,
    };
    let mut changes = vec![mark(record.name.clone(), Some(tombstone))];
    if tombstones.len() >= TOMBSTONES_MAX && !tombstones.contains_key(&record.name) {
        let oldest = tombstones.iter().min_by_key(|(_, tombstone)| tombstone.seq);
        changes.extend(oldest.map(|(name, _)| mark(name.clone(), None)));
    }
    changes
}

/// The tombstones that end when CHaS knows of everything up to this change.
#[must_use]
pub fn acknowledged(desired: &Desired, up_to_seq: u64) -> Vec<DesiredChange> {
    let known = desired.marks().tombstones().iter();
    let known = known.filter(|(_, tombstone)| tombstone.seq <= up_to_seq);
    known
        .map(|(name, _)| DesiredChange::Mark(Mark::Tombstone(name.clone(), None)))
        .collect()
}

/// The set owned by push, by name, without what is being removed.
#[must_use]
pub fn push_set(desired: &Desired) -> Vec<&Record> {
    let records = desired.records().map(AsRef::as_ref);
    let owned = records.filter(|record: &&Record| record.owner == Owner::Push && !record.removing);
    let mut owned: Vec<&Record> = owned.collect();
    owned.sort_by(|a, b| a.name.cmp(&b.name));
    owned
}

/// Fingerprint of the [`push_set`]: 32 hex digits that change with any part of what was asked.
#[must_use]
pub fn etag(desired: &Desired) -> String {
    etag_of(desired, &NameScope::All)
}

/// Fingerprint of that part of the [`push_set`] that a caller has to do with.
#[must_use]
pub fn etag_of(desired: &Desired, scope: &NameScope) -> String {
    let mut hash = Sha256::new();
    for Record {
        name,
        spec_hash,
        run,
        priority,
        revision,
        ..
    } in push_set(desired)
        .into_iter()
        .filter(|record| scope.has(&record.name))
    {
        hash.update(format!(
            "{name} {spec_hash} {run:?} {priority} {revision:?}\n"
        ));
    }
    crate::digest::hex(&hash.finalize()[..16])
}

#[cfg(test)]
mod tests;
