//! Image as the runtime has it, for those who look at it or remove it.

use std::collections::BTreeSet;
use std::time::SystemTime;

use state::id::ContainerName;

/// Image on the node, by its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoredImage {
    /// Digest of its manifest or index.
    pub digest: String,
    /// Names, sorted.
    pub names: Vec<String>,
    /// Whether the agent made all of its names.
    pub managed: bool,
    /// Time since which it is there. `None`: unknown.
    pub created: Option<SystemTime>,
    /// Time until which it is kept without a container. `None`: it is not, or not any more.
    pub kept_until: Option<SystemTime>,
    /// Bytes of its layers, packed. `None`: its manifest is not there, or not for this machine.
    pub packed_bytes: Option<u64>,
    /// Containers that exist and were made of it, as their labels say.
    pub made: BTreeSet<ContainerName>,
}
