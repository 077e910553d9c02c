//! Images of the node, their users, and the progress of a fetch.

use std::collections::BTreeSet;
use std::time::SystemTime;

use state::id::ContainerName;

/// Image on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageView {
    /// Digest of its manifest or index.
    pub digest: String,
    /// Names, sorted.
    pub names: Vec<String>,
    /// Whether the agent made all of its names.
    pub managed: bool,
    /// Time since which it is there. `None`: unknown.
    pub created: Option<SystemTime>,
    /// Time until which it is kept without a container. `None`: it is not.
    pub kept_until: Option<SystemTime>,
    /// Bytes of its layers, packed. `None`: unknown.
    pub packed_bytes: Option<u64>,
    /// Containers that need it: now, for the generation before, or to go back to.
    pub used_by: BTreeSet<ContainerName>,
}

impl ImageView {
    /// Cause for which it is not removed, in a phrase without a subject. `None`: nothing keeps it.
    #[must_use]
    pub(crate) fn obstacle(&self) -> Option<String> {
        if !self.managed {
            return Some("has a name that this agent did not make, and is left alone".to_owned());
        }
        let names: Vec<_> = self.used_by.iter().map(ContainerName::as_str).collect();
        (!names.is_empty()).then(|| format!("is used by {}", names.join(", ")))
    }
}

/// Progress of an image's fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FetchProgress {
    /// Bytes that have come.
    pub fetched_bytes: u64,
    /// Bytes in all; 0: not known yet.
    pub total_bytes: u64,
    /// Cause of a wait. `None`: it moves.
    pub message: Option<String>,
}
