//! The rules for sets of CHaS: which of its entries count, and what it removes.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::asks_for;
use crate::desired::applied::{AppliedSet, Conflict, Rejected, SetVersion, Unconfirmed};
use crate::desired::marks::{Mark, Suppressed, Tombstone};
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, Record};
use crate::id::{ContainerId, ContainerName};
use crate::spec::parse::Deploy;
use crate::spec::{Content, ContentTag, SecretName};

/// A set that CHaS lists for the node, complete and parsed.
#[derive(Clone, Debug, Default)]
pub struct ChasSet {
    /// Epoch; see [`SetVersion::epoch`].
    pub epoch: String,
    /// Generation; see [`SetVersion::generation`].
    pub generation: u64,
    /// `ETag` of the reply.
    pub etag: Option<String>,
    /// Listed containers.
    pub containers: Vec<Deploy>,
    /// Secrets that the containers use, each with its value.
    pub secrets: BTreeMap<SecretName, SetSecret>,
    /// Containers named as to be removed. Leaving them out says the same, but may wait for a
    /// confirmation (see [`crate::guard`]).
    pub remove: BTreeSet<ContainerName>,
    /// Entries that are not understood. Containers with their names are left alone.
    pub rejected: Vec<Rejected>,
    /// Generation of which CHaS confirms that what it leaves out is meant to be left out.
    pub prune_confirm: Option<u64>,
    /// Whether the node is to start nothing new.
    pub cordon: bool,
    /// [`Desired::seq`] when the poll was sent.
    pub requested_at_seq: u64,
    /// Whether CHaS has answered sets of this epoch below the applied one for long, and no other.
    pub is_settled: bool,
    /// Whether containers of it are rejected for want of the node's key, or of a secret: then it is to
    /// be applied again.
    pub lacks_secrets: bool,
    /// Signature of it. `None`: the operator named no keys, so it needs none.
    pub signature: Option<SetSignature>,
}

/// Value of a secret in a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetSecret {
    /// Value, as it comes in.
    pub value: Content,
    /// Value, by the fingerprint that the store's door gives.
    pub tag: ContentTag,
}

/// Signature of a set, checked by the keys that the operator names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetSignature {
    /// Fingerprints of the keys that signed the set; not empty.
    pub by: BTreeSet<String>,
    /// Fingerprints of all keys that count now.
    pub keys: BTreeSet<String>,
}

impl SetSignature {
    /// Whether the applied set was signed by keys of which none counts any more. Of one that an
    /// older agent applied they are not known.
    fn disowns(&self, applied: &AppliedSet) -> bool {
        !applied.signed_by.is_empty() && applied.signed_by.is_disjoint(&self.keys)
    }
}

impl ChasSet {
    /// Version of the set.
    #[must_use]
    pub fn version(&self) -> SetVersion {
        SetVersion {
            epoch: self.epoch.clone(),
            generation: self.generation,
        }
    }

    /// Names that are not left out: those of listed containers, and those of entries that are not
    /// understood. `None`: unknown, since such an entry has no name.
    #[must_use]
    pub fn names(&self) -> Option<BTreeSet<ContainerName>> {
        let listed = self
            .containers
            .iter()
            .map(|deploy| Some(deploy.name.clone()));
        let rejected = self
            .rejected
            .iter()
            .map(|entry| entry.name.as_ref()?.parse().ok());
        listed.chain(rejected).collect()
    }
}

/// Relation of a set's version to the one that was applied last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Another epoch, or a higher generation; or a lower one that CHaS has settled on: the one that
    /// was applied was none of its own count (a restored database, or somebody who answered in its
    /// place with the highest number there is), and another epoch begins.
    Newer,
    /// The same version, which was not fully applied.
    Again,
    /// An older version, or the same and fully applied: it changes nothing.
    Old,
    /// A signed one of an epoch that was left: somebody may have kept it. It changes nothing.
    Left,
}

/// Compares a set with the one that was applied last.
#[must_use]
pub fn age(applied: Option<&AppliedSet>, set: &ChasSet) -> Age {
    if let (Some(signature), Some(applied)) = (&set.signature, applied) {
        // Whoever listed that one has no key, or none any more: neither its count nor its content
        // says anything, nor what it left.
        if signature.disowns(applied) {
            return Age::Newer;
        }
        if applied.left_epochs.contains(&set.epoch) {
            return Age::Left;
        }
        if !applied.is_signed {
            return Age::Newer;
        }
    }
    let Some(applied) = applied.filter(|applied| applied.version.epoch == set.epoch) else {
        return Age::Newer;
    };
    match set.generation.cmp(&applied.version.generation) {
        Ordering::Greater => Age::Newer,
        Ordering::Less if set.is_settled => Age::Newer,
        Ordering::Equal if !applied.fully_applied || applied.unconfirmed.is_some() => Age::Again,
        Ordering::Equal | Ordering::Less => Age::Old,
    }
}

/// The left epochs, and those that are left once nobody doubts it, after a set is applied.
#[must_use]
pub fn epochs_behind(before: Option<&AppliedSet>, set: &ChasSet) -> (Vec<String>, Vec<String>) {
    let is_disowned = |applied: &AppliedSet| {
        let signature = set.signature.as_ref();
        signature.is_some_and(|signature| signature.disowns(applied))
    };
    let before = before.filter(|applied| !is_disowned(applied));
    before.map_or_else(Default::default, |before| {
        (before.left_epochs.clone(), before.doubted_for(&set.epoch))
    })
}

/// Whether a version is of the same epoch as an earlier one, and not below it. One that is below
/// is applied as the first of another epoch only.
#[must_use]
pub fn goes_on(earlier: &SetVersion, version: &SetVersion) -> bool {
    earlier.epoch == version.epoch && earlier.generation <= version.generation
}

/// Decision about a container that CHaS lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// The container becomes CHaS's, as it is listed.
    Take,
    /// The same, and the spec that was pushed is lost, for this reason.
    Overrule(&'static str),
    /// The spec that was pushed stands, for this reason.
    Stand(&'static str),
}

/// Rules 2, 3 and 6: decides about `deploy`, which CHaS lists in answer to a poll sent at change
/// `requested_at_seq`.
#[must_use]
pub fn listed(
    before: Option<&Record>,
    tombstone: Option<Tombstone>,
    deploy: &Deploy,
    requested_at_seq: u64,
) -> Listed {
    let Some(before) = before.filter(|before| !before.removing) else {
        return match tombstone {
            Some(tombstone) if tombstone.seq > requested_at_seq => {
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
        _ if before.seq <= requested_at_seq => {
            Listed::Overrule("CHaS was asked after it was pushed")
        }
        _ => Listed::Stand("it was pushed after CHaS was asked"),
    }
}

/// Whether no push stands against the set.
#[must_use]
pub fn is_agreed(conflicts: &[Conflict]) -> bool {
    conflicts
        .iter()
        .all(|conflict| conflict.winner == Owner::Chas)
}

/// The mark after a change by which the node is no longer as CHaS lists it: the set is to be
/// applied again.
#[must_use]
pub fn apply_again(desired: &Desired) -> Option<DesiredChange> {
    let applied = desired
        .marks()
        .applied_set()
        .filter(|applied| applied.fully_applied)?;
    let again = AppliedSet {
        fully_applied: false,
        ..applied.clone()
    };
    Some(DesiredChange::Mark(Mark::AppliedSet(Box::new(again))))
}

/// Rule 1: the containers of CHaS that the set does not list.
#[must_use]
pub fn pruned(desired: &Desired, set: &ChasSet) -> Vec<Record> {
    let names = set.names();
    let is_pruned = |record: &Record| match &names {
        Some(names) => !names.contains(&record.name),
        None => {
            let is_listed = set
                .containers
                .iter()
                .any(|listed| listed.name == record.name);
            set.remove.contains(&record.name) && !is_listed
        }
    };
    let owned = desired.records().map(AsRef::as_ref);
    let owned = owned.filter(|record: &&Record| record.owner == Owner::Chas && !record.removing);
    owned.filter(|record| is_pruned(record)).cloned().collect()
}

/// Rule 5: the marks of suppressed containers that change with a set of this version.
///
/// A newer set ends a mark, but for a mark whose own set is unknown, and for the first set of a
/// restored database, which may be older.
#[must_use]
pub fn lifted(desired: &Desired, version: &SetVersion, restored: bool) -> Vec<DesiredChange> {
    let mut changes = Vec::new();
    for (name, mark) in desired.marks().suppressed() {
        if mark.at.as_ref() == Some(version) {
            continue;
        }
        let is_of_epoch = mark.at.as_ref().is_some_and(|at| goes_on(at, version));
        let stays = !is_of_epoch && (restored || mark.at.is_none());
        let kept = stays.then(|| Suppressed {
            at: Some(version.clone()),
            ..mark.clone()
        });
        changes.push(DesiredChange::Mark(Mark::Suppressed(name.clone(), kept)));
    }
    changes
}

/// Outcome of applying a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetOutcome {
    /// Whether the set was older than the applied one, or the same: nothing was done.
    pub stale: bool,
    /// Whether the set was a signed one of an epoch that the node has left: nothing was done.
    pub is_of_left_epoch: bool,
    /// Running containers that were changed or ended.
    pub spent: Vec<ContainerId>,
    /// Whether others wait, because the node's budget for such changes is used up.
    pub is_deferred: bool,
    /// Containers that changed.
    pub changed: Vec<ContainerId>,
    /// Names about which push and CHaS differ.
    pub conflicts: Vec<Conflict>,
    /// Entries that could not be applied; their containers stay as they are.
    pub rejected: Vec<Rejected>,
    /// Part of the set that waits for a confirmation.
    pub unconfirmed: Option<Unconfirmed>,
}
