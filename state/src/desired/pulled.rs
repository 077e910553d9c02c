//! The set that CHaS lists for this node, as far as it is noted: its version, and what of it is not as listed. What follows
//! from it is [`crate::ownership`]'s.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Owner;
use crate::id::ContainerName;
use crate::spec::parse::FieldError;

/// A version of what CHaS lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Which life of CHaS's database it is of. Two of different epochs cannot be compared.
    pub epoch: String,
    /// Counts within the epoch.
    pub generation: u64,
}

/// The set that was pulled last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Its version.
    #[serde(flatten)]
    pub version: Version,
    /// To ask for what differs from it.
    pub etag: Option<String>,
    /// All that it lists could be had, but for what is suppressed, held, or not understood. While it could not, the same
    /// version is taken again.
    pub whole: bool,
    /// Its database was restored or replaced, and that is still in doubt. `None`: it is like any other.
    #[serde(default)]
    pub restored: Option<Restored>,
    /// What of it waits for a confirmation.
    #[serde(default)]
    pub held: Option<Held>,
    /// Names about which push and pull differed.
    #[serde(default)]
    pub conflicts: Vec<Conflict>,
    /// What could not be taken. It stays as it was.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
}

/// A set of another epoch than that of what runs here: nothing but its own word speaks for it. The guard is up for whatever it
/// would end or change, until all that is held is confirmed, or a set of the epoch was taken of which nothing was held, all was
/// understood, and neither a push nor an operator stood against it.
///
/// What the epoch's first set said was said before the database was restored, and so counts for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// What it said under `prune_confirm`.
    pub said: Option<u64>,
    /// What it named under `remove`.
    pub named: BTreeSet<ContainerName>,
}

/// What would stop more than a set may without a confirmation (see [`crate::guard`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What it leaves out: to be taken away.
    pub omitted: BTreeSet<ContainerName>,
    /// What it lists otherwise than it runs. Only of a database that was restored.
    pub changed: BTreeSet<ContainerName>,
    /// An operator has confirmed it; what is listed is still to be asked for again.
    pub confirmed: bool,
}

impl Held {
    /// Whatever is held, by name.
    pub fn names(&self) -> impl Iterator<Item = &ContainerName> {
        self.omitted.union(&self.changed)
    }
}

/// Two words about one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The name.
    pub name: ContainerName,
    /// Whose word counts.
    pub winner: Owner,
    /// Why.
    pub why: String,
}

/// An entry of the set that could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its name, as it is written. `None`: it has none that can be read.
    pub name: Option<String>,
    /// Its place in the list, from 0. `None`: it was understood, and cannot be had on this node.
    pub index: Option<usize>,
    /// Everything that is wrong with it.
    pub errors: Vec<FieldError>,
}

impl Rejected {
    /// One that was understood, and cannot be had.
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
