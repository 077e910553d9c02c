//! Generation that was given up, as the record keeps it from which it was gone back.

use serde::{Deserialize, Serialize};

use crate::reason::Reason;
use crate::spec::Spec;

/// Generation that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Number of the generation.
    pub generation: u64,
    /// Fingerprint of its spec.
    pub spec_hash: String,
    /// The caller's own number for it.
    pub revision: Option<u64>,
    /// Digest of its image. `None`: it was not resolved.
    pub image_digest: Option<String>,
    /// Code of the failure.
    pub reason: Reason,
    /// Failure, in a sentence.
    pub message: String,
    /// Time at which it was given up, milliseconds since 1970. For showing.
    pub at_ms: u64,
}

impl RolledBack {
    /// Whether a body asks for the same again: with another content, or a higher revision, it is tried.
    #[must_use]
    pub fn is_of(&self, spec: &Spec, revision: Option<u64>) -> bool {
        let is_newer = match (revision, self.revision) {
            (Some(asked), Some(own)) => asked > own,
            (asked, None) => asked.is_some(),
            (None, Some(_)) => false,
        };
        !is_newer && spec.hash() == self.spec_hash
    }

    /// Sentence for those who ask for it, or see the container.
    #[must_use]
    pub fn told(&self) -> String {
        format!(
            "generation {} was given up, and the one before is back ({}: {}); it is not tried again unless its body \
             changes or bears a higher revision",
            self.generation, self.reason, self.message
        )
    }
}
