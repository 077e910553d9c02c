//! Who owns a container, and who wins: the rules between what is pushed to the node and what it pulls from CHaS. Pure; the
//! store carries them out in one transaction.
//!
//! 1. A pulled set adds, changes and prunes only what CHaS owns ([`pruned`]).
//! 2. Same name, same spec: the pull takes ownership, and nothing restarts ([`listed`]).
//! 3. Same name, other spec: the higher revision wins where both have one; else the pull, if it was asked for after the push
//!    was accepted; else the push stands until the next poll ([`listed`]).
//! 4. A push onto what CHaS owns is refused, unless it asks for what is there or bears a higher revision ([`pushed`]).
//! 5. What CHaS owns and an operator stopped or deleted stays so until a newer set lists it ([`ordered`], [`Suppressed`]).
//! 6. What was pushed and deleted leaves a [`Tombstone`] until CHaS knows of it: its [`answers`] are kept as long, and a pull
//!    that was asked for before does not bring it back.
//!
//! The other two are elsewhere: what is not ours is not in the store, and nothing is removed before it is loaded.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use crate::desired::marks::{Mark, Suppressed, Tombstone};
use crate::desired::pulled::{Conflict, Held, Pulled, Rejected, Version};
use crate::desired::set::{Change, Desired};
use crate::desired::{Owner, Record, RunState};
use crate::digest::hex;
use crate::id::{ContainerId, ContainerName};
use crate::spec::parse::Deploy;

pub mod answers;

/// Deletions that CHaS was not told of. Beyond it the oldest is given up, as on a node that reports to nobody.
pub const TOMBSTONES_MAX: usize = 1024;

/// What CHaS lists for the node, whole and parsed.
#[derive(Clone, Debug, Default)]
pub struct PulledSet {
    /// See [`Version::epoch`].
    pub epoch: String,
    /// See [`Version::generation`].
    pub generation: u64,
    /// The reply's `ETag`.
    pub etag: Option<String>,
    /// What is to run.
    pub containers: Vec<Deploy>,
    /// What is named as not to run any more. Leaving it out says the same, but may be held (see [`crate::guard`]).
    pub remove: BTreeSet<ContainerName>,
    /// Entries that are not understood. What bears their names is left alone.
    pub rejected: Vec<Rejected>,
    /// What this generation leaves out is meant to be left out.
    pub prune_confirm: Option<u64>,
    /// The node is to take nothing new.
    pub cordon: bool,
    /// [`Desired::seq`] when the request was sent.
    pub sent_after: u64,
}

impl PulledSet {
    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            epoch: self.epoch.clone(),
            generation: self.generation,
        }
    }

    /// Names that are not left out: those listed, and those of what is not understood. `None`: it cannot be told, since an
    /// entry has no name.
    #[must_use]
    pub fn names(&self) -> Option<BTreeSet<ContainerName>> {
        let rejected = self
            .rejected
            .iter()
            .map(|rejected| rejected.name.as_ref()?.parse().ok());
        self.containers
            .iter()
            .map(|deploy| Some(deploy.name.clone()))
            .chain(rejected)
            .collect()
    }
}

/// How a listed version stands to the one that was pulled last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It is of another epoch, or of a higher generation.
    Newer,
    /// It is the same, of which not everything was taken.
    Again,
    /// It is older, or the same and taken: it changes nothing.
    Old,
}

/// Compares a listed version with the set pulled last.
#[must_use]
pub fn age(pulled: Option<&Pulled>, version: &Version) -> Age {
    match pulled {
        Some(pulled) if pulled.version.epoch == version.epoch => {
            match version.generation.cmp(&pulled.version.generation) {
                std::cmp::Ordering::Greater => Age::Newer,
                std::cmp::Ordering::Equal if !pulled.whole || pulled.held.is_some() => Age::Again,
                std::cmp::Ordering::Equal | std::cmp::Ordering::Less => Age::Old,
            }
        }
        Some(_) | None => Age::Newer,
    }
}

/// What becomes of a container that CHaS lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is as CHaS lists it, and CHaS's.
    Take,
    /// So too, and what was pushed is lost.
    Overrule(&'static str),
    /// What was pushed stands.
    Stand(&'static str),
}

fn asks_for(deploy: &Deploy, record: &Record) -> bool {
    record.run == deploy.run
        && record.priority == deploy.priority
        && record.spec_hash == deploy.spec.hash()
}

/// Rules 2, 3 and 6: CHaS lists `deploy`, asked after change `sent_after`, and `before` is there.
#[must_use]
pub fn listed(
    before: Option<&Record>,
    tombstone: Option<Tombstone>,
    deploy: &Deploy,
    sent_after: u64,
) -> Listed {
    let Some(before) = before.filter(|before| !before.removing) else {
        return match tombstone {
            Some(tombstone) if tombstone.seq > sent_after => {
                Listed::Stand("it was deleted after CHaS was asked")
            }
            Some(_) | None => Listed::Take,
        };
    };
    if before.owner == Owner::Chas || asks_for(deploy, before) {
        return Listed::Take;
    }
    match (before.revision, deploy.revision) {
        (Some(pushed), Some(listed)) if listed > pushed => {
            Listed::Overrule("its revision is higher")
        }
        (Some(pushed), Some(listed)) if listed < pushed => Listed::Stand("its revision is higher"),
        _ if before.seq <= sent_after => Listed::Overrule("CHaS was asked after it was pushed"),
        _ => Listed::Stand("it was pushed after CHaS was asked"),
    }
}

/// No push stands against what CHaS lists.
#[must_use]
pub fn is_agreed(conflicts: &[Conflict]) -> bool {
    conflicts
        .iter()
        .all(|conflict| conflict.winner == Owner::Chas)
}

/// What becomes of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is taken.
    Take,
    /// It is taken, from CHaS.
    TakeOver,
    /// It is as CHaS wants it, and stays CHaS's.
    Same,
    /// It is CHaS's.
    Refuse,
}

/// Rule 4: `deploy` is pushed, and `before` is there.
#[must_use]
pub fn pushed(before: Option<&Record>, deploy: &Deploy) -> Pushed {
    let Some(before) = before.filter(|before| before.owner == Owner::Chas && !before.removing)
    else {
        return Pushed::Take;
    };
    if deploy
        .revision
        .zip(before.revision)
        .is_some_and(|(pushed, stored)| pushed > stored)
    {
        Pushed::TakeOver
    } else if asks_for(deploy, before) {
        Pushed::Same
    } else {
        Pushed::Refuse
    }
}

/// Not everything is as CHaS lists it any more: what it lists is to be looked at again.
#[must_use]
pub fn unsettled(desired: &Desired) -> Option<Change> {
    let pulled = desired.marks().pulled().filter(|pulled| pulled.whole)?;
    Some(Change::Mark(Mark::Pulled(Pulled {
        whole: false,
        ..pulled.clone()
    })))
}

/// Rule 1: what CHaS owns and does not list any more.
#[must_use]
pub fn pruned(desired: &Desired, set: &PulledSet) -> Vec<Record> {
    let names = set.names();
    let goes = |record: &&Record| match &names {
        Some(names) => !names.contains(&record.name),
        None => {
            set.remove.contains(&record.name)
                && set
                    .containers
                    .iter()
                    .all(|listed| listed.name != record.name)
        }
    };
    let owned = desired
        .records()
        .map(AsRef::as_ref)
        .filter(|record| record.owner == Owner::Chas && !record.removing);
    owned.filter(goes).cloned().collect()
}

/// The marks of rule 5 once this set is taken: a newer set ends them, but for those whose own set is not known any more, and
/// for the first set of a restored database, which may be older.
#[must_use]
pub fn lifted(desired: &Desired, version: &Version, restored: bool) -> Vec<Change> {
    let marks = desired
        .marks()
        .suppressed()
        .iter()
        .filter(|(_, mark)| mark.at.as_ref() != Some(version));
    let lifted = marks.map(|(name, mark)| {
        let is_of = |at: &Version| at.epoch == version.epoch;
        let stays = !mark.at.as_ref().is_some_and(is_of) && (restored || mark.at.is_none());
        let adopted = stays.then(|| Suppressed {
            at: Some(version.clone()),
            ..mark.clone()
        });
        Change::Mark(Mark::Suppressed(name.clone(), adopted))
    });
    lifted.collect()
}

/// What an operator may ask of one container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is to be stopped, and stay so.
    Stop,
    /// It is to run.
    Start,
    /// It is to be ended and started once.
    Restart,
    /// It is to be taken away.
    Remove,
}

/// Rules 5 and 6: the record after an order, and what is noted of it. No change: it is so already.
#[must_use]
pub fn ordered(desired: &Desired, before: &Record, order: Order) -> (Record, Vec<Change>) {
    let mut record = before.clone();
    match order {
        Order::Stop => record.run = RunState::Stopped,
        Order::Start => (record.run, record.finished) = (RunState::Running, None),
        Order::Restart => {
            (record.run, record.finished, record.restart_pending) = (RunState::Running, None, true);
        }
        Order::Remove => record.removing = true,
    }
    if record == *before {
        return (record, Vec::new());
    }
    record.seq = desired.seq() + 1;
    let marks = match before.owner {
        _ if before.removing => Vec::new(),
        Owner::Chas => suppression(desired, before, &record),
        Owner::Push if record.removing => buried(desired, &record),
        Owner::Push => Vec::new(),
    };
    (
        record.clone(),
        std::iter::once(Change::Put(Box::new(record)))
            .chain(marks)
            .collect(),
    )
}

fn suppression(desired: &Desired, before: &Record, record: &Record) -> Vec<Change> {
    let marked = desired.marks().suppressed().get(&before.name);
    let listed = marked.map_or(before.run, |mark| mark.listed);
    let at = desired
        .marks()
        .pulled()
        .map(|pulled| pulled.version.clone());
    let mark = (record.removing || record.run != listed).then_some(Suppressed { at, listed });
    if marked == mark.as_ref() {
        return Vec::new();
    }
    // It runs or not as it was listed once. What is listed by now was not looked at as long as the mark stood.
    let unsettled = if mark.is_none() {
        unsettled(desired)
    } else {
        None
    };
    unsettled
        .into_iter()
        .chain([Change::Mark(Mark::Suppressed(before.name.clone(), mark))])
        .collect()
}

/// The tombstone of a record that was pushed and is deleted, as it is then; the oldest makes room for it.
#[must_use]
pub fn buried(desired: &Desired, record: &Record) -> Vec<Change> {
    let tombstones = desired.marks().tombstones();
    let tombstone = Tombstone {
        id: record.id,
        seq: record.seq,
    };
    let mut changes = vec![Change::Mark(Mark::Tombstone(
        record.name.clone(),
        Some(tombstone),
    ))];
    if tombstones.len() >= TOMBSTONES_MAX && !tombstones.contains_key(&record.name) {
        let oldest = tombstones.iter().min_by_key(|(_, tombstone)| tombstone.seq);
        changes.extend(oldest.map(|(name, _)| Change::Mark(Mark::Tombstone(name.clone(), None))));
    }
    changes
}

/// The tombstones that end when CHaS knows of everything up to this change.
#[must_use]
pub fn acknowledged(desired: &Desired, up_to_seq: u64) -> Vec<Change> {
    let known = desired
        .marks()
        .tombstones()
        .iter()
        .filter(|(_, tombstone)| tombstone.seq <= up_to_seq);
    known
        .map(|(name, _)| Change::Mark(Mark::Tombstone(name.clone(), None)))
        .collect()
}

/// The set owned by push: what is to be, by name.
#[must_use]
pub fn push_set(desired: &Desired) -> Vec<&Record> {
    let owned = desired
        .records()
        .map(AsRef::as_ref)
        .filter(|record| record.owner == Owner::Push && !record.removing);
    let mut records: Vec<&Record> = owned.collect();
    records.sort_by(|a, b| a.name.cmp(&b.name));
    records
}

/// A fingerprint of the [`push_set`]: 32 hex digits, another one whenever any part of what was asked is another.
#[must_use]
pub fn etag(desired: &Desired) -> String {
    let mut hash = Sha256::new();
    for Record {
        name,
        spec_hash,
        run,
        priority,
        revision,
        ..
    } in push_set(desired)
    {
        hash.update(format!(
            "{name} {spec_hash} {run:?} {priority} {revision:?}\n"
        ));
    }
    hex(&hash.finalize()[..16])
}

/// What a set that was pulled came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullOutcome {
    /// It is older than what is in force, or the same: nothing was done.
    pub stale: bool,
    /// What is not as before.
    pub changed: Vec<ContainerId>,
    /// Names about which push and pull differed.
    pub conflicts: Vec<Conflict>,
    /// What could not be taken, and why. It stays as it is.
    pub rejected: Vec<Rejected>,
    /// What waits for a confirmation.
    pub held: Option<Held>,
}

#[cfg(test)]
mod tests;
