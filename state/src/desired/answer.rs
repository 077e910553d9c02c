//! Answers to requests with an `Idempotency-Key`, as they are stored. How long they are kept is
//! [`crate::ownership::answers`]'s.

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, ContainerName};
use crate::time::BootTime;

/// Answer to an accepted request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`Desired::seq`](super::set::Desired::seq) of the change that the request made.
    pub seq: u64,
    /// The boot that `at` is of.
    pub boot_id: String,
    /// Time of the answer.
    pub at: BootTime,
    /// Fingerprint of the request.
    pub request: String,
    /// Whether the request changed anything.
    pub changed: bool,
    /// Result of the request.
    pub outcome: Outcome,
}

/// Result of an accepted request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A deploy.
    Container {
        /// Id of the container.
        id: ContainerId,
        /// Name of the container.
        name: ContainerName,
        /// Generation at that time.
        generation: u64,
    },
    /// A replacement of the set owned by push.
    Set {
        /// Fingerprint of the set at that time.
        etag: String,
    },
}
