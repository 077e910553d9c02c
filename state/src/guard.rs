//! The mass-change guard: how much of what runs one set of CHaS may end or change. Pure;
//! [`crate::store`] carries it out.
//!
//! A fault of the control plane, a half-restored database or a filter that went wrong shows as a
//! set that leaves out what it should not; a fault of an upgraded agent, as a set that says what it
//! always said and is understood otherwise. So more than a few containers are not ended or changed
//! before CHaS or an operator confirms it:
//!
//! - Of a set like any other, containers that it *leaves out* and containers that it changes
//!   *without a reason* count together: more than 2, and more than 30 % of the running containers
//!   of CHaS, wait. A change has a reason where the body that CHaS lists is another one than before
//!   (another image among it): then it is CHaS's word, however many containers it is about. Where
//!   the body is the same to the letter and the spec that this agent makes of it is not, the change
//!   is the agent's own.
//! - Of the first sets of another epoch (see [`RestoredEpoch`]), whatever they end or change waits. A
//!   lower generation that CHaS has settled on ([`ChasSet::is_settled`]) begins another epoch.

use std::collections::BTreeSet;

use crate::desired::applied::{AppliedSet, RestoredEpoch, Unconfirmed};
use crate::desired::set::Desired;
use crate::desired::{Owner, Record, RunState};
use crate::id::ContainerName;
use crate::ownership::{ChasSet, goes_on};
use crate::phase::Goal;
use crate::spec::parse::Deploy;

pub mod push;

/// Containers that a set may always end at once.
const ENDED_ALWAYS: usize = 2;
/// Containers that a set may end at once, in percent of those that run.
const ENDED_PERCENT: usize = 30;

/// Whether the container runs as far as the desired state says, not as far as the last look does:
/// one that is being restarted counts, and so do all while containerd is unreachable.
#[must_use]
pub fn runs(record: &Record) -> bool {
    // One whose last change is lost may run.
    matches!(Goal::of(Some(record)), Goal::Running | Goal::Uncertain)
}

/// Effects of a set on the containers that are there.
#[derive(Clone, Debug, Default)]
pub struct SetEffects {
    /// Containers of CHaS that the set leaves out.
    pub omitted: BTreeSet<ContainerName>,
    /// Running containers that the set lists otherwise.
    pub changed: BTreeSet<ContainerName>,
    /// Changed containers whose body is the same as before.
    pub unexplained: BTreeSet<ContainerName>,
}

impl SetEffects {
    /// The effects of removing `pruned` and applying `listed`.
    #[must_use]
    pub fn of(desired: &Desired, pruned: &[Record], listed: &[Deploy]) -> Self {
        let mut effects = Self::default();
        effects
            .omitted
            .extend(pruned.iter().map(|record| record.name.clone()));
        for deploy in listed {
            let Some(before) = desired.named(&deploy.name).filter(|before| runs(before)) else {
                continue;
            };
            let is_respecified = deploy.spec != before.spec;
            if is_respecified || deploy.run == RunState::Stopped {
                effects.changed.insert(deploy.name.clone());
            }
            if is_respecified && before.listed_hash.as_ref() == Some(&deploy.body_hash) {
                effects.unexplained.insert(deploy.name.clone());
            }
        }
        effects
    }
}

/// The doubt about a set of a database that was restored or replaced, which may not know what is
/// newer than it. `None`: there is no doubt.
#[must_use]
pub fn doubts(desired: &Desired, set: &ChasSet) -> Option<RestoredEpoch> {
    let first = || RestoredEpoch {
        prune_confirm: set.prune_confirm,
        remove: set.remove.clone(),
    };
    match desired.marks().applied_set() {
        Some(applied) if is_of_epoch(applied, set) => applied.restored.clone(),
        Some(_) => Some(first()),
        // The agent has lost its own note of what it applied, and not the containers.
        None => {
            let is_owned = |record: &Record| record.owner == Owner::Chas && !record.removing;
            desired.records().any(|record| is_owned(record)).then(first)
        }
    }
}

/// Whether the set goes on counting where the applied one left off.
fn is_of_epoch(applied: &AppliedSet, set: &ChasSet) -> bool {
    goes_on(&applied.version, &set.version())
}

/// Whether the set confirms what this generation of its epoch leaves out.
fn confirms(set: &ChasSet, doubts: Option<&RestoredEpoch>, generation: u64) -> bool {
    set.prune_confirm == Some(generation)
        && doubts.is_none_or(|doubts| doubts.prune_confirm != set.prune_confirm)
}

/// Whether the set may do all that it asks for: it says so itself, or an operator did.
#[must_use]
pub fn is_confirmed(desired: &Desired, set: &ChasSet, doubts: Option<&RestoredEpoch>) -> bool {
    let applied = desired.marks().applied_set();
    let applied = applied.filter(|applied| applied.version == set.version());
    let unconfirmed = applied.and_then(|applied| applied.unconfirmed.as_ref());
    unconfirmed.is_some_and(|unconfirmed| unconfirmed.confirmed)
        || confirms(set, doubts, set.generation)
}

/// The containers that the set ends explicitly: it omits them and names them under `remove`; or it
/// omits them, and confirms all that is unconfirmed of an earlier one.
fn explicitly_removed(
    desired: &Desired,
    set: &ChasSet,
    doubts: Option<&RestoredEpoch>,
) -> BTreeSet<ContainerName> {
    let is_old = |name: &ContainerName| doubts.is_some_and(|doubts| doubts.remove.contains(name));
    let mut explicit: BTreeSet<_> = set
        .remove
        .iter()
        .filter(|name| !is_old(name))
        .cloned()
        .collect();
    let applied = desired.marks().applied_set();
    let confirmed = applied.filter(|applied| {
        is_of_epoch(applied, set) && confirms(set, doubts, applied.version.generation)
    });
    if let Some(unconfirmed) = confirmed.and_then(|applied| applied.unconfirmed.as_ref()) {
        explicit.extend(unconfirmed.names().cloned());
    }
    explicit
}

/// The part of the set that waits for a confirmation. `desired` is the state before the set.
#[must_use]
pub fn unconfirmed(
    desired: &Desired,
    set: &ChasSet,
    doubts: Option<&RestoredEpoch>,
    effects: &SetEffects,
) -> Option<Unconfirmed> {
    if is_confirmed(desired, set, doubts) {
        return None;
    }
    let explicit = explicitly_removed(desired, set, doubts);
    let omitted: BTreeSet<_> = effects.omitted.difference(&explicit).cloned().collect();
    if doubts.is_some() {
        let changed: BTreeSet<_> = effects.changed.difference(&explicit).cloned().collect();
        let is_any = !omitted.is_empty() || !changed.is_empty();
        return is_any.then_some(Unconfirmed {
            omitted,
            changed,
            confirmed: false,
        });
    }
    let changed: BTreeSet<_> = effects.unexplained.difference(&explicit).cloned().collect();
    let owned = desired
        .records()
        .filter(|record| record.owner == Owner::Chas);
    let running = owned.filter(|record| runs(record));
    let ends = |record: &Record| omitted.contains(&record.name) || changed.contains(&record.name);
    let (all, ended) = (
        running.clone().count(),
        running.filter(|record| ends(record)).count(),
    );
    is_many(ended, all).then_some(Unconfirmed {
        omitted,
        changed,
        confirmed: false,
    })
}

/// Whether so many containers end, of all that run, that somebody is to confirm it.
const fn is_many(ended: usize, all: usize) -> bool {
    ended > ENDED_ALWAYS && ended * 100 > all * ENDED_PERCENT
}

#[cfg(test)]
mod tests;
