//! Tag checks in the store: asked by an operator, answered by the reconciler.

use std::sync::Arc;

use super::{Store, StoreError};
use crate::desired::set::DesiredChange;
use crate::desired::tag_check::{TagAnswer, TagCheck, TagOutcome};
use crate::desired::{Record, RunState};
use crate::id::{ContainerId, InstanceName};

/// Characters of a failure that are kept: registries speak at length.
const MESSAGE_CHARS_MAX: usize = 1000;

impl Store {
    /// Asks for a look at what the tag of a container's image stands for now, whatever its pull
    /// policy. It is no change of what is desired, so `seq` of the record stays. Answers the record
    /// as it is stored then.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::PinnedImage`], [`StoreError::Removing`],
    /// [`StoreError::Uncertain`], [`StoreError::Denied`], [`StoreError::Disk`].
    pub fn ask_tag(&self, id: ContainerId) -> Result<Arc<Record>, StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let name = before.name.clone();
            if before.is_uncertain {
                return Err(StoreError::Uncertain(name));
            }
            if before.removing {
                return Err(StoreError::Removing(name));
            }
            if before.spec.image.digest().is_some() {
                return Err(StoreError::PinnedImage(name, before.spec.image.clone()));
            }
            self.judge_order(before)?;
            // Each question is a new one: a tag that moved meanwhile is not missed.
            let record = Record {
                tag_check: Some(TagCheck::by_change(desired.seq() + 1)),
                ..Record::clone(before)
            };
            let change = DesiredChange::Put(Box::new(record.clone()));
            Ok((vec![change], Arc::new(record)))
        })
    }

    /// Notes the answer to the question that was `asked` of this generation, and what follows: a
    /// digest that moved is the one to run, and a container that runs (`is_running`) is to be
    /// restarted for it. One that has ended meanwhile gets it with its next start.
    /// `None`: the question is not open (any more), and nothing is noted.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn answer_tag(
        &self,
        instance: InstanceName,
        asked: u64,
        outcome: TagOutcome,
        at_ms: u64,
        is_running: bool,
    ) -> Result<Option<TagAnswer>, StoreError> {
        self.transact(|desired| {
            let id = instance.id;
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let is_this = |check: &TagCheck| check.is_open() && check.asked == asked;
            if before.instance() != instance || !before.tag_check.as_ref().is_some_and(is_this) {
                return Ok((Vec::new(), None));
            }
            let answer = TagAnswer {
                at_ms,
                before: before.image_digest.clone(),
                outcome: bounded(outcome),
            };
            let record = answered(before, asked, answer.clone(), is_running);
            Ok((vec![DesiredChange::Put(Box::new(record))], Some(answer)))
        })
    }
}

fn bounded(outcome: TagOutcome) -> TagOutcome {
    match outcome {
        TagOutcome::Failed { reason, message } => TagOutcome::Failed {
            reason,
            message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
        },
        digest @ TagOutcome::Digest(_) => digest,
    }
}

/// The record after this answer.
fn answered(before: &Record, asked: u64, answer: TagAnswer, is_running: bool) -> Record {
    let mut record = before.clone();
    if let TagOutcome::Digest(digest) = &answer.outcome
        && before.image_digest.as_ref() != Some(digest)
    {
        record.image_digest = Some(digest.clone());
        if before.image_digest.is_some() {
            record.former_image = before.former_image_before(digest);
            // The new image has proven nothing yet.
            record.is_proven = false;
            let is_wanted = before.run == RunState::Running && before.finished.is_none();
            if is_running && is_wanted && !before.removing {
                record.ask_restart(answer.at_ms);
            }
        }
    }
    record.tag_check = Some(TagCheck {
        asked,
        answer: Some(answer),
    });
    record
}
