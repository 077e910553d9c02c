//! Generation that was given up, as the record keeps it from which it was gone back.

use serde::{Deserialize, Serialize};

use super::Record;
use crate::failure::Failure;
use crate::reason::Reason;
use crate::spec::{Spec, is_default};

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
    /// Generation whose body is back. `None`: that before, as older versions left it out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub back_to: Option<u64>,
    /// Bodies that were given up before on the way back, the last first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub earlier: Vec<GivenUpBody>,
    /// Fingerprint of its spec that values of secrets do not change. `None`: it uses none, or as older
    /// versions left it out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bare_hash: Option<String>,
}

/// Body that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUpBody {
    /// Fingerprint of the spec.
    pub spec_hash: String,
    /// The caller's own number for it.
    pub revision: Option<u64>,
    /// Fingerprint as of [`RolledBack::bare_hash`].
    #[serde(default, skip_serializing_if = "is_default")]
    pub bare_hash: Option<String>,
}

/// Bodies that are kept of a way back by several steps.
const EARLIER_MAX: usize = 9;

impl RolledBack {
    /// Whether a body asks for the same again: with another content, or a higher revision, it is tried.
    /// Another value of a secret is no other content.
    #[must_use]
    pub fn is_of(&self, spec: &Spec, revision: Option<u64>) -> bool {
        let (hash, bare_hash) = (spec.hash(), spec.bare_hash());
        let is_of = |body: &GivenUpBody| {
            let is_newer = match (revision, body.revision) {
                (Some(asked), Some(own)) => asked > own,
                (asked, None) => asked.is_some(),
                (None, Some(_)) => false,
            };
            let is_bare_same = bare_hash.is_some() && body.bare_hash == bare_hash;
            !is_newer && (body.spec_hash == hash || is_bare_same)
        };
        is_of(&self.body()) || self.earlier.iter().any(is_of)
    }

    /// Body of the generation that was given up last.
    fn body(&self) -> GivenUpBody {
        GivenUpBody {
            spec_hash: self.spec_hash.clone(),
            revision: self.revision,
            bare_hash: self.bare_hash.clone(),
        }
    }

    /// Sentence for those who ask for it, or see the container.
    #[must_use]
    pub fn told(&self) -> String {
        let back = match self.back_to {
            Some(back_to) => format!("generation {back_to}"),
            None => "the one before".to_owned(),
        };
        format!(
            "generation {} was given up, and {back} is back ({}: {}); it is not tried again unless its body \
             changes or bears a higher revision",
            self.generation, self.reason, self.message
        )
    }
}

impl Record {
    /// The mark by which this record is given up for `why`, and the body of `back_to` is back.
    #[must_use]
    pub(crate) fn given_up_for(&self, why: &Failure, back_to: &Self, at_ms: u64) -> RolledBack {
        let before = self.rolled_back.as_ref();
        let last = before.map(RolledBack::body);
        let earlier = before
            .into_iter()
            .flat_map(|before| before.earlier.iter().cloned());
        let is_other = |body: &GivenUpBody| body.spec_hash != back_to.spec_hash;
        let earlier = last.into_iter().chain(earlier).filter(is_other);
        RolledBack {
            generation: self.generation,
            spec_hash: self.spec_hash.clone(),
            revision: self.revision,
            image_digest: self.image_digest.clone(),
            reason: why.reason,
            message: why.message.clone(),
            at_ms,
            back_to: Some(back_to.generation),
            earlier: earlier.take(EARLIER_MAX).collect(),
            bare_hash: self.spec.bare_hash(),
        }
    }

    /// The mark of a body, if it was given up. What is there already was not.
    #[must_use]
    pub fn has_given_up(&self, spec: &Spec, revision: Option<u64>) -> Option<&RolledBack> {
        let given_up = self.rolled_back.as_ref();
        given_up.filter(|given_up| self.spec != *spec && given_up.is_of(spec, revision))
    }
}
