//! Requests with an `Idempotency-Key`: the first one that is accepted makes the answer that every
//! other one with that key gets. Pure; the store keeps the answers.

use std::time::Duration;

use crate::desired::answer::{Answer, Outcome};
use crate::desired::marks::{Mark, Marks};
use crate::desired::set::{Desired, DesiredChange};
use crate::time::BootTime;

/// Length of time that an answer is kept, of the time that the node is up.
pub const KEPT_FOR: Duration = Duration::from_hours(24);
/// Answers kept at once: three a minute, over 24 hours. Beyond that, the oldest goes.
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

/// Key and fingerprint of a request.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// Key of the request.
    pub key: Key,
    /// Fingerprint of all that the request asks for.
    pub request: String,
    /// Boot of the node that `now` is of.
    pub boot_id: String,
    /// Time of the request.
    pub now: BootTime,
}

/// Error: the key came with another request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused;

/// Age of an answer, as far as the node's clock can tell: one of another boot is as old as this
/// boot.
fn age(answer: &Answer, boot_id: &str, now: BootTime) -> Duration {
    let at = if answer.boot_id == boot_id {
        answer.at
    } else {
        BootTime::default()
    };
    now.since(at)
}

/// Whether the answer is about a deleted container, of which CHaS does not know yet.
fn is_buried(answer: &Answer, marks: &Marks) -> bool {
    match &answer.outcome {
        Outcome::Container { id, .. } => marks
            .tombstones()
            .values()
            .any(|tombstone| tombstone.id == *id),
        Outcome::Set { .. } => false,
    }
}

fn is_kept(answer: &Answer, marks: &Marks, keyed: &Keyed) -> bool {
    age(answer, &keyed.boot_id, keyed.now) < KEPT_FOR || is_buried(answer, marks)
}

/// The answer that this request got before. `None`: the request is new.
///
/// # Errors
/// [`Reused`].
pub fn before<'a>(marks: &'a Marks, keyed: &Keyed) -> Result<Option<&'a Answer>, Reused> {
    let answer = marks
        .answers()
        .get(&keyed.key.0)
        .filter(|answer| is_kept(answer, marks, keyed));
    match answer {
        Some(answer) if answer.request != keyed.request => Err(Reused),
        answer => Ok(answer.map(AsRef::as_ref)),
    }
}

/// The changes that keep an answer, and drop those that need not be kept any longer.
#[must_use]
pub fn kept(
    desired: &Desired,
    keyed: &Keyed,
    changed: bool,
    outcome: Outcome,
) -> Vec<DesiredChange> {
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
        let is_kept = is_kept(answer, marks, keyed);
        if !is_kept {
            changes.push(DesiredChange::Mark(Mark::Answer((*other).clone(), None)));
        }
        is_kept
    });
    if let Some(excess) = (others.len() + 1)
        .checked_sub(ANSWERS_MAX)
        .filter(|excess| *excess > 0)
    {
        others.sort_by_key(|(_, answer)| (is_buried(answer, marks), answer.seq));
        changes.extend(
            others
                .iter()
                .take(excess)
                .map(|(other, _)| DesiredChange::Mark(Mark::Answer((*other).clone(), None))),
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
    changes.push(DesiredChange::Mark(Mark::Answer(
        key.0,
        Some(answer.into()),
    )));
    changes
}

#[cfg(test)]
mod tests;
