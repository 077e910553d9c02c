//! The set of CHaS that was applied last: its version, and what of it is not as listed. The rules
//! that follow from it are [`crate::ownership`]'s and [`crate::guard`]'s.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Owner;
use crate::id::ContainerName;
use crate::spec::is_default;
use crate::spec::parse::FieldError;

/// Version of a set that CHaS lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetVersion {
    /// Life of CHaS's database. Versions of two epochs cannot be compared.
    pub epoch: String,
    /// Counts within the epoch.
    pub generation: u64,
}

/// The set of CHaS that was applied last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedSet {
    /// Version of the set.
    #[serde(flatten)]
    pub version: SetVersion,
    /// `ETag` of the reply, sent with the next poll.
    pub etag: Option<String>,
    /// Every entry could be applied, but for what is suppressed, unconfirmed, or not understood.
    /// Until then, the same version is applied again.
    #[serde(rename = "whole")]
    pub fully_applied: bool,
    /// Set while it is in doubt whether CHaS's database was restored or replaced.
    #[serde(default)]
    pub restored: Option<RestoredEpoch>,
    /// Part of the set that waits for a confirmation.
    #[serde(default, rename = "held")]
    pub unconfirmed: Option<Unconfirmed>,
    /// Names about which push and CHaS differed.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// Entries that could not be applied; their containers stay as they were.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
    /// Whether the records hold the fingerprints of the bodies in this set. False where an older
    /// agent applied it: CHaS is then asked for the whole set once more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub has_listed_hashes: bool,
    /// Whether it was signed by a key that the operator named.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_signed: bool,
    /// Epochs that the node has left for another, the newest last: somebody may have kept their
    /// signed sets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub left_epochs: Vec<String>,
}

/// Left epochs that are remembered.
const LEFT_EPOCHS_MAX: usize = 16;

impl AppliedSet {
    /// Left epochs once a set of `epoch` is applied. One whose set nobody signed is nobody's.
    #[must_use]
    pub fn left_for(&self, epoch: &str) -> Vec<String> {
        let own = &self.version.epoch;
        let before = self.left_epochs.iter();
        let before = before.filter(|left| *left != epoch && *left != own);
        let is_left = self.is_signed && own != epoch;
        let mut left: Vec<_> = before.chain(is_left.then_some(own)).cloned().collect();
        left.drain(..left.len().saturating_sub(LEFT_EPOCHS_MAX));
        left
    }
}

/// Doubt about a set of another epoch than that of what runs here: nothing but its own word speaks
/// for it.
///
/// The guard holds back whatever such a set would end or change, until all of that is confirmed, or
/// until a set of the epoch was applied of which nothing was held back, all was understood, and
/// neither a push nor an operator stood against it. The epoch's first set was written before the
/// database was restored, so the confirmations in it count for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredEpoch {
    /// `prune_confirm` of the epoch's first set.
    #[serde(rename = "said")]
    pub prune_confirm: Option<u64>,
    /// `remove` of the epoch's first set.
    #[serde(rename = "named")]
    pub remove: BTreeSet<ContainerName>,
}

/// Part of a set that ends or changes more than a set may without a confirmation (see
/// [`crate::guard`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// Containers that the set leaves out, to be removed.
    pub omitted: BTreeSet<ContainerName>,
    /// Containers that the set lists otherwise than they run.
    pub changed: BTreeSet<ContainerName>,
    /// An operator has confirmed it; CHaS is still to be asked again for what is listed.
    pub confirmed: bool,
}

impl Unconfirmed {
    /// Every container that waits, by name.
    pub fn names(&self) -> impl Iterator<Item = &ContainerName> {
        self.omitted.union(&self.changed)
    }
}

/// Two owners that ask different things of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Name of the container.
    pub name: ContainerName,
    /// Owner whose word counts.
    pub winner: Owner,
    /// Rule that decided it, in a few words.
    pub why: String,
}

/// An entry of a set that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Name as it is written. `None`: the entry has none that can be read.
    pub name: Option<String>,
    /// Place in the list, from 0. `None`: the entry is valid, and this node cannot run it.
    pub index: Option<usize>,
    /// Every fault of the entry.
    pub errors: Vec<FieldError>,
}

impl Rejected {
    /// A valid entry that this node cannot run, and why.
    #[must_use]
    pub fn because(name: &ContainerName, why: impl Into<String>) -> Self {
        let errors = vec![FieldError {
            field: String::new(),
            message: why.into(),
        }];
        Self {
            name: Some(name.to_string()),
            index: None,
            errors,
        }
    }
}
