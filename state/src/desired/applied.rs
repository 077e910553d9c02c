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
    /// Fingerprints of the keys that signed it. Empty: none did, or an older agent applied it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signed_by: BTreeSet<String>,
    /// Epochs that are left once the doubt about this one is over (see [`Self::restored`]).
    #[serde(default, skip_serializing_if = "is_default")]
    pub doubted_epochs: Vec<String>,
    /// Set of a left epoch that was refused since, until an operator lets it in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refused: Option<SetVersion>,
}

/// Left epochs that are remembered.
const LEFT_EPOCHS_MAX: usize = 16;

impl AppliedSet {
    /// The same set, once nobody doubts it: whatever epochs were there before it are left.
    #[must_use]
    pub fn without_doubts(mut self) -> Self {
        self.restored = None;
        let doubted = std::mem::take(&mut self.doubted_epochs);
        for epoch in doubted {
            self.left_epochs.retain(|left| *left != epoch);
            self.left_epochs.push(epoch);
        }
        self.left_epochs.retain(|left| *left != self.version.epoch);
        let excess = self.left_epochs.len().saturating_sub(LEFT_EPOCHS_MAX);
        self.left_epochs.drain(..excess);
        self
    }

    /// Epochs that a set of `epoch` leaves, if it stays. One whose set nobody signed is nobody's,
    /// and so is one that was in doubt itself.
    #[must_use]
    pub fn doubted_for(&self, epoch: &str) -> Vec<String> {
        let own = Some(&self.version.epoch);
        let own = own.filter(|_| self.is_signed && self.restored.is_none());
        let before = self.doubted_epochs.iter().chain(own);
        let mut doubted: Vec<_> = before.filter(|left| *left != epoch).cloned().collect();
        doubted.dedup();
        doubted.drain(..doubted.len().saturating_sub(LEFT_EPOCHS_MAX));
        doubted
    }

    /// The same as of a node with another name, whose sets are counted and signed apart.
    #[must_use]
    pub fn renamed(self) -> Self {
        Self {
            version: SetVersion::default(),
            etag: None,
            is_signed: false,
            signed_by: BTreeSet::new(),
            left_epochs: Vec::new(),
            doubted_epochs: Vec::new(),
            refused: None,
            ..self
        }
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
