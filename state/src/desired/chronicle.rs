//! Chronicle of a container, as it is stored beside the records: a chapter for each of its last
//! generations. What stands in one is decided by [`crate::chronicle`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Owner, Record};
use crate::reason::Reason;
use crate::reference::ImageReference;
use crate::spec::is_default;

/// Generation of a container: who asked for it, what changed by it, and how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chapter {
    /// Number of the generation.
    pub generation: u64,
    /// Caller who asked for it, or the part of the agent that made it. `None`: nobody noted it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub by: Option<String>,
    /// Time of that, milliseconds since 1970. For showing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at_ms: Option<u64>,
    /// Generation that it was made from. `None`: the first one, or nobody noted it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub from: Option<u64>,
    /// Generation whose body it has again.
    #[serde(default, skip_serializing_if = "is_default")]
    pub back_to: Option<u64>,
    /// Members of the body that are others than in `from`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub changes: Vec<MemberChange>,
    /// Further members, for which there was no room.
    #[serde(default, skip_serializing_if = "is_default")]
    pub changes_left_out: usize,
    /// End of the generation. `None`: it is the present one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub end: Option<Box<ChapterEnd>>,
}

/// Member of a body that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberChange {
    /// Path of the member, as in `resources.memory`.
    pub field: String,
    /// Value before, cut where it is long. Null also where it is not to be shown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: Value,
    /// Value after.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: Value,
    /// Kind of the change of a value that is not to be shown. `None`: it is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<HiddenChange>,
}

/// Kind of the change of a value that is not shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenChange {
    /// None was there before.
    Added,
    /// None is there any more.
    Removed,
    /// The value is another one.
    Changed,
}

/// End of a generation, with what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChapterEnd {
    /// Result of it.
    pub result: ChapterResult,
    /// Reason code of what failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: Option<Reason>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "is_default")]
    pub message: Option<String>,
    /// Time of its end, milliseconds since 1970. For showing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at_ms: Option<u64>,
    /// Owner of the container then.
    pub owner: Owner,
    /// Image, as it was asked for.
    pub image: ImageReference,
    /// Digest that the image was resolved to. `None`: it was not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_digest: Option<String>,
    /// The caller's own number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: Option<u64>,
    /// Fingerprint of the spec.
    pub spec_hash: String,
    /// Record as it was left, to be gone back to. `None`: it is too large to be kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub record: Option<Box<Record>>,
}

/// Result of a generation, at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChapterResult {
    /// The generation ran for a minute and was ready, which makes it worth going back to.
    RanWell,
    /// The generation was started, and replaced sooner.
    Ran,
    /// The generation was replaced before it was started.
    NotStarted,
    /// The process ended with 0, and stayed ended.
    Completed,
    /// The generation was failing when it was replaced.
    Failed,
    /// The generation was given up.
    RolledBack,
}

impl ChapterResult {
    /// Word of the result, as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RanWell => "ran-well",
            Self::Ran => "ran",
            Self::NotStarted => "not-started",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
        }
    }
}
