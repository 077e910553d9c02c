//! Requests with an `Idempotency-Key`: the first one that is accepted is answered, and its answer is given to every other
//! one with that key. Pure; the store keeps the answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::desired::marks::{Mark, Marks};
use crate::desired::set::{Change, Desired};
use crate::id::{ContainerId, ContainerName};
use crate::memory::BootTime;

/// How long an answer is kept, of the time that the node is up.
pub const KEPT_FOR: Duration = Duration::from_hours(24);
/// Answers kept: three a minute, over 24 hours. Beyond it, the oldest goes.
pub const ANSWERS_MAX: usize = 4096;

/// An `Idempotency-Key`: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl std::str::FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits =
            (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err("must be 1 to 255 visible ASCII characters".to_owned())
        }
    }
}

/// A request that bears a key.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The key.
    pub key: Key,
    /// A fingerprint of all that the request asks for.
    pub request: String,
    /// The boot of the node that `now` is of.
    pub boot_id: String,
    /// The time.
    pub now: BootTime,
}

/// What an accepted request was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The change that it made.
    pub seq: u64,
    /// The boot that `at` is of.
    pub boot_id: String,
    /// When.
    pub at: BootTime,
    /// A fingerprint of the request.
    pub request: String,
    /// It changed something.
    pub changed: bool,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an accepted request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// A deploy.
    Container {
        /// The container's id.
        id: ContainerId,
        /// Its name.
        name: ContainerName,
        /// Its generation then.
        generation: u64,
    },
    /// The set owned by push was replaced.
    Set {
        /// The set's fingerprint then.
        etag: String,
    },
}

/// The same key came with another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused;

impl Answer {
    /// How long ago it was, as far as the node's clock can tell: another boot's answer is as old as this boot.
    fn age(&self, boot_id: &str, now: BootTime) -> Duration {
        now.since(if self.boot_id == boot_id {
            self.at
        } else {
            BootTime::default()
        })
    }

    /// It is about what was deleted, of which CHaS does not know yet.
    fn is_buried(&self, marks: &Marks) -> bool {
        match &self.outcome {
            Outcome::Container { id, .. } => marks
                .tombstones()
                .values()
                .any(|tombstone| tombstone.id == *id),
            Outcome::Set { .. } => false,
        }
    }

    fn is_kept(&self, marks: &Marks, keyed: &Keyed) -> bool {
        self.age(&keyed.boot_id, keyed.now) < KEPT_FOR || self.is_buried(marks)
    }
}

/// What this request was answered before; `None`: it is new.
///
/// # Errors
/// [`Reused`].
pub fn before<'a>(marks: &'a Marks, keyed: &Keyed) -> Result<Option<&'a Answer>, Reused> {
    let answer = marks
        .answers()
        .get(&keyed.key.0)
        .filter(|answer| answer.is_kept(marks, keyed));
    match answer {
        Some(answer) if answer.request != keyed.request => Err(Reused),
        answer => Ok(answer.map(AsRef::as_ref)),
    }
}

/// The changes that keep an answer, and drop those that need not be kept any longer.
#[must_use]
pub fn kept(desired: &Desired, keyed: &Keyed, changed: bool, outcome: Outcome) -> Vec<Change> {
    let (
        marks,
        Keyed {
            key,
            request,
            boot_id,
            now,
        },
    ) = (desired.marks(), keyed.clone());
    let mut changes = Vec::new();
    let mut others: Vec<_> = marks
        .answers()
        .iter()
        .filter(|(other, _)| **other != key.0)
        .collect();
    others.retain(|(other, answer)| {
        let is_kept = answer.is_kept(marks, keyed);
        if !is_kept {
            changes.push(Change::Mark(Mark::Answer((*other).clone(), None)));
        }
        is_kept
    });
    if let Some(excess) = (others.len() + 1)
        .checked_sub(ANSWERS_MAX)
        .filter(|excess| *excess > 0)
    {
        others.sort_by_key(|(_, answer)| (answer.is_buried(marks), answer.seq));
        changes.extend(
            others
                .iter()
                .take(excess)
                .map(|(other, _)| Change::Mark(Mark::Answer((*other).clone(), None))),
        );
    }
    let answer = Answer {
        seq: desired.seq() + 1,
        boot_id,
        at: now,
        request,
        changed,
        outcome,
    };
    changes.push(Change::Mark(Mark::Answer(key.0, Some(answer.into()))));
    changes
}

#[cfg(test)]
mod tests;
