//! Rules of an update: which generation the next one takes the place of, and how the one before comes
//! back. Pure, and without time.
//!
//! An update ends in one of these: the next generation counts and nothing of the one before is left; the
//! one before is back; or the container was stopped, removed, or has ended for good.

use crate::desired::update::{Update, UpdateStage};
use crate::desired::{Record, RunState};
use crate::failure::Failure;
use crate::spec::Spec;
use crate::spec::parse::Deploy;

impl Record {
    /// Update by which `next` takes the place of this record. `None`: nothing of this one is needed
    /// once it is replaced.
    #[must_use]
    pub(crate) fn updated_to(&self, next: &Deploy) -> Option<Update> {
        let rules = next.spec.update;
        let is_start_first = starts_beside(&next.spec, &self.spec);
        let of = |stage, is_beside, former: &Self| {
            Some(Update {
                stage,
                is_beside,
                serving: (!is_beside).then(|| self.served_last()),
                former: Box::new(former.without_update()),
            })
        };
        // Both go before anything else is begun, and their places are others' only then.
        if self.removing {
            let before = self.update.as_ref()?;
            return of(UpdateStage::Leaving, false, &before.former);
        }
        let is_worth = |record: &Self| record.image_digest.is_some() && !record.is_uncertain;
        let runs = self.run == RunState::Running && self.finished.is_none();
        let wants = runs && next.run == RunState::Running;
        let is_tried = wants && (rules.rollback || is_start_first);
        // This one never came so far that anything of the one before was ended for it.
        let serves_still = |before: &Update| {
            let former = &*before.former;
            self.image_digest.is_none()
                && before.serving == Some(former.instance().generation)
                && is_worth(former)
        };
        match &self.update {
            Some(before) if serves_still(before) && is_tried => {
                of(UpdateStage::Trying, is_start_first, &before.former)
            }
            // What is on trial without another beside it is not trusted to serve meanwhile.
            Some(before) if before.stage == UpdateStage::Trying => {
                let is_beside = before.is_beside && is_start_first && wants;
                let stage = match is_tried {
                    true => UpdateStage::Trying,
                    false => UpdateStage::Leaving,
                };
                of(stage, is_beside, &before.former)
            }
            // Nobody knows whether this one has ever run, but where it is back.
            Some(before) if before.stage == UpdateStage::Leaving && self.rolled_back.is_none() => {
                of(UpdateStage::Leaving, false, &before.former)
            }
            // One without an address could not hold that of what still goes.
            before
                if is_tried
                    && is_worth(self)
                    && (before.is_none() || next.spec.network.mode.has_address()) =>
            {
                of(UpdateStage::Trying, is_start_first, self)
            }
            // Its place stays taken until it is gone.
            Some(before) => of(UpdateStage::Leaving, false, &before.former),
            None => None,
        }
    }

    /// Update that was under way where instances of this record and of an earlier one are there, of
    /// which only the instances tell: the earlier one serves until the other one was ready again. `None`:
    /// the two were never to run at once.
    #[must_use]
    pub(crate) fn resumed_from(&self, former: &Self) -> Option<Update> {
        let address = |record: &Self| record.assignment.address;
        let is_apart = match self.spec.network.mode.has_address() {
            true => address(self).is_some() && address(self) != address(former),
            false => true,
        };
        let run = |record: &Self| record.run == RunState::Running && record.image_digest.is_some();
        let is_beside =
            starts_beside(&self.spec, &former.spec) && is_apart && run(self) && run(former);
        is_beside.then(|| Update {
            stage: UpdateStage::Trying,
            is_beside,
            serving: None,
            former: Box::new(former.without_update()),
        })
    }

    /// The record by which the generation before comes back. `is_there`: its instance is. `None`: no
    /// update is under way that it could come back from.
    #[must_use]
    pub(crate) fn back(&self, is_there: bool, why: &Failure, at_ms: u64) -> Option<Self> {
        let update = self.update.as_ref()?;
        if update.stage == UpdateStage::Leaving {
            return None;
        }
        let former = &*update.former;
        let given_up = self.given_up_for(why, former, at_ms);
        Some(Self {
            generation: self.generation + 1,
            made_at: is_there.then(|| former.instance().generation),
            owner: self.owner,
            seq: self.seq,
            listed_hash: self.listed_hash.clone(),
            run: RunState::Running,
            removing: false,
            restart_pending: false,
            finished: None,
            cordoned: self.cordoned,
            tag_check: None,
            // The place of what goes is another's only once it is gone.
            update: Some(Update {
                stage: UpdateStage::Leaving,
                is_beside: false,
                serving: None,
                former: Box::new(self.without_update()),
            }),
            rolled_back: Some(given_up),
            created_ms: self.created_ms,
            is_uncertain: self.is_uncertain,
            ..former.clone()
        })
    }
}

/// Whether a generation is to start beside the one before. Not with a schedule, which a version before
/// took in: two runs would go at once.
fn starts_beside(next: &Spec, former: &Spec) -> bool {
    next.update.is_start_first() && next.schedule.is_none() && former.schedule.is_none()
}

#[cfg(test)]
mod tests;
