//! Tag checks: the question to a registry what the tag of a container's image stands for now, and
//! its answer. A tag that was resolved once is asked about only so.

use serde::{Deserialize, Serialize};

use crate::reason::Reason;

/// Question that an operator asked, and its answer once there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagCheck {
    /// Change by which it was asked: an answer to an earlier question is none to this one.
    pub asked: u64,
    /// Answer. `None`: it is still to be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<TagAnswer>,
}

impl TagCheck {
    /// Question asked by this change.
    #[must_use]
    pub const fn by_change(asked: u64) -> Self {
        Self {
            asked,
            answer: None,
        }
    }

    /// Whether the answer is still to be had.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.answer.is_none()
    }

    /// State of the question in a word, as it stands in JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.answer.as_ref().map_or("pending", TagAnswer::as_str)
    }
}

/// Answer of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagAnswer {
    /// Time of the answer, milliseconds since 1970. For showing.
    pub at_ms: u64,
    /// Digest that the tag had been resolved to before. `None`: it had not been.
    pub before: Option<String>,
    /// Content of the answer.
    pub outcome: TagOutcome,
}

impl TagAnswer {
    /// Answer in a word, as it stands in JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match &self.outcome {
            TagOutcome::Digest(digest) if Some(digest) == self.before.as_ref() => "unchanged",
            TagOutcome::Digest(_) => "moved",
            TagOutcome::Failed { .. } => "failed",
        }
    }
}

/// Content of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagOutcome {
    /// Digest that the tag stands for now; its image is on the node.
    Digest(String),
    /// Failure to ask, or to fetch what the tag stands for. The image before stays.
    Failed {
        /// Reason code.
        reason: Reason,
        /// Description in a sentence.
        message: String,
    },
}
