//! The way back by hand: to a generation of the chronicle, as an order of an operator about a
//! container, whoever owns it.

use std::sync::Arc;

use super::batch::Batch;
use super::chronicle::{chapters_of, opened};
use super::push::before as answered;
use super::{Accepted, Idempotent, Store, StoreError, lock};
use crate::chronicle::{is_same, last_good, past, unkept_good};
use crate::desired::answer::Outcome;
use crate::desired::rolled_back::RolledBack;
use crate::desired::set::DesiredChange;
use crate::desired::update::UpdateStage;
use crate::desired::{Record, RunState};
use crate::failure::Failure;
use crate::id::ContainerId;
use crate::ownership::answers::{self, Keyed};
use crate::reason::Reason;
use crate::spec::parse::Deploy;

/// Request to go back.
#[derive(Clone, Debug)]
pub struct RollbackRequest {
    /// Container.
    pub id: ContainerId,
    /// Generation to go back to. `None`: the last good one.
    pub generation: Option<u64>,
    /// `ETag`s ([`Record::etag`]) of which the container must have one now. `None`: any.
    pub if_match: Option<Vec<String>>,
    /// The request's `Idempotency-Key`, if it has one.
    pub keyed: Option<Keyed>,
    /// Caller, for showing.
    pub by: String,
}

/// Generation that a request goes back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackTarget {
    /// Generation that is left.
    pub present: u64,
    /// Record that is gone back to.
    pub record: Box<Record>,
    /// Whether it is what is there already.
    pub is_there: bool,
}

impl RollbackTarget {
    /// The deploy that asks for it, without the present values of secrets.
    #[must_use]
    pub fn deploy(&self) -> Deploy {
        deploy_of(&self.record, self.record.run)
    }
}

impl Store {
    /// The generation that a request goes back to, or the answer to it if it came before.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Removing`], [`StoreError::Uncertain`],
    /// [`StoreError::UnknownGeneration`], [`StoreError::UnkeptGeneration`],
    /// [`StoreError::NothingBefore`], [`StoreError::UnkeptGood`], [`StoreError::AlreadyBack`],
    /// [`StoreError::UnmatchedContainer`], [`StoreError::KeyReused`], [`StoreError::Disk`].
    pub fn rollback_target(
        &self,
        request: &RollbackRequest,
    ) -> Result<Idempotent<RollbackTarget>, StoreError> {
        let sealed = request
            .keyed
            .as_ref()
            .map(|keyed| self.sealed_request(keyed));
        let desired = self.desired();
        if let Some(answer) = answered(&desired, sealed.as_ref().zip(request.keyed.as_ref()))? {
            return Ok(Idempotent::Before(answer));
        }
        let present = desired.get(request.id);
        let present = present.ok_or(StoreError::NotFound(request.id))?;
        let tags = request.if_match.as_ref();
        if tags.is_some_and(|tags| !tags.contains(&present.etag())) {
            let (name, now) = (present.name.clone(), present.etag());
            return Err(StoreError::UnmatchedContainer(name, now));
        }
        if present.removing {
            return Err(StoreError::Removing(present.name.clone()));
        }
        if present.is_uncertain {
            return Err(StoreError::Uncertain(present.name.clone()));
        }
        let record = self.past_record(present, request.generation)?;
        Ok(Idempotent::Now(RollbackTarget {
            present: present.generation,
            is_there: record.generation == present.generation || is_same(&record, present),
            record: Box::new(record),
        }))
    }

    fn past_record(&self, present: &Record, wanted: Option<u64>) -> Result<Record, StoreError> {
        let name = || present.name.clone();
        if wanted == Some(present.generation) {
            return Ok(present.clone());
        }
        // Who asks twice goes neither two steps back nor, in the trial of the way back, forth again.
        // A later change of what goes on is another matter.
        let went_back = present.rolled_back.as_ref();
        let went_back = went_back.filter(|given_up| given_up.generation + 1 == present.generation);
        if let (None, Some(given_up)) = (wanted, went_back) {
            return Err(StoreError::AlreadyBack(name(), given_up.generation));
        }
        // What serves, or served last, while another one takes its place.
        if let Some(former) = former(present)
            && wanted.is_none_or(|wanted| wanted == former.generation)
        {
            return Ok(former.clone());
        }
        let mut files = lock(&self.files);
        // A write that failed has closed them.
        self.open_files(&mut files).map_err(StoreError::Disk)?;
        let chapters = chapters_of(opened(&files)?, present);
        let Some(wanted) = wanted else {
            let good = last_good(&chapters, present).and_then(past);
            let (_, record) = good.ok_or_else(|| StoreError::NothingBefore(name()))?;
            return match unkept_good(&chapters, present, record.generation) {
                Some(unkept) => Err(StoreError::UnkeptGood(name(), unkept, record.generation)),
                None => Ok(record.clone()),
            };
        };
        let chapter = chapters.iter().find(|of| of.generation == wanted);
        let chapter = chapter.ok_or_else(|| StoreError::UnknownGeneration(name(), wanted))?;
        let kept = past(chapter).map(|(_, record)| record);
        let kept = kept.filter(|record| record.image_digest.is_some());
        kept.cloned()
            .ok_or_else(|| StoreError::UnkeptGeneration(name(), wanted))
    }

    /// Goes back to that generation, unless another change came since it was looked for. `is_former_there`: the
    /// instance of the generation before exists. `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// [`StoreError::Changed`], [`StoreError::KeyReused`], [`StoreError::Unopenable`], and those of a
    /// deploy.
    pub fn go_back(
        &self,
        request: &RollbackRequest,
        target: &RollbackTarget,
        is_former_there: bool,
        now_ms: u64,
    ) -> Result<Idempotent<Accepted>, StoreError> {
        let sealed = request
            .keyed
            .as_ref()
            .map(|keyed| self.sealed_request(keyed));
        self.look_ahead([&target.deploy()]);
        self.transact(|desired| {
            let keyed = sealed.as_ref().zip(request.keyed.as_ref());
            if let Some(answer) = answered(desired, keyed)? {
                return Ok((Vec::new(), Idempotent::Before(answer)));
            }
            let before = desired.get(request.id);
            let before = before.ok_or(StoreError::NotFound(request.id))?;
            let expected = request.if_match.as_ref();
            let is_other = expected.is_some_and(|tags| !tags.contains(&before.etag()));
            if before.generation != target.present || before.removing || is_other {
                return Err(match request.if_match {
                    Some(_) => StoreError::UnmatchedContainer(before.name.clone(), before.etag()),
                    None => StoreError::Changed(before.name.clone(), before.generation),
                });
            }
            let mut batch = Batch::new(self, desired, now_ms)?;
            let record = match target.is_there {
                true => Arc::clone(before),
                false => batch.go_back(before, target, (is_former_there, &request.by))?,
            };
            let changed = !target.is_there;
            if let Some(sealed) = &sealed {
                let outcome = Outcome::Container {
                    id: record.id,
                    name: record.name.clone(),
                    generation: record.generation,
                };
                batch.apply(answers::kept(desired, sealed, changed, outcome));
            }
            let accepted = Accepted { record, changed };
            Ok((batch.changes, Idempotent::Now(accepted)))
        })
    }
}

/// The generation before, while an update may still go back to it.
fn former(present: &Record) -> Option<&Record> {
    let update = present.update.as_ref()?;
    (update.stage != UpdateStage::Leaving).then_some(&*update.former)
}

fn deploy_of(record: &Record, run: RunState) -> Deploy {
    Deploy {
        name: record.name.clone(),
        spec: record.spec.clone(),
        run,
        priority: record.priority,
        revision: record.revision,
        body_hash: String::new(),
    }
}

impl Batch<'_> {
    /// Decides that a record is what it was in an earlier generation. Secrets have their present
    /// values, and its place is looked for anew.
    fn go_back(
        &mut self,
        before: &Record,
        target: &RollbackTarget,
        (is_former_there, by): (bool, &str),
    ) -> Result<Arc<Record>, StoreError> {
        let past = &*target.record;
        let why = Failure::new(Reason::RolledBack, format!("by hand, by {by}"));
        let is_former = former(before).is_some_and(|former| former.generation == past.generation);
        let back = match is_former {
            true => before.back(is_former_there, &why, self.now_ms()),
            false => None,
        };
        let record = match back {
            Some(back) => Record {
                run: before.run,
                seq: self.seq,
                ..back
            },
            None => {
                let given_up = before.given_up_for(&why, past, self.now_ms());
                self.again(before, past, given_up)?
            }
        };
        // Nothing is given up for what cannot be started. What is there has its values.
        if !(is_former && is_former_there) {
            let unopenable = |failure: Failure| {
                StoreError::Unopenable(before.name.clone(), past.generation, failure.message)
            };
            self.store().openable(&record).map_err(unopenable)?;
        }
        self.apply([DesiredChange::Put(Box::new(record.clone()))]);
        Ok(Arc::new(record))
    }

    fn again(
        &self,
        before: &Record,
        past: &Record,
        given_up: RolledBack,
    ) -> Result<Record, StoreError> {
        let deploy = self.resolved(deploy_of(past, before.run))?;
        self.check(Some(before), &deploy, before.owner)?;
        let decided = self.decide(Some(before), deploy, before.owner)?;
        let made_at = decided.instance().generation;
        let goes_on = made_at == before.instance().generation;
        let is_other_image = past.image_digest != before.image_digest;
        let runs = before.run == RunState::Running && before.finished.is_none();
        let mut record = Record {
            generation: before.generation + 1,
            made_at: goes_on.then_some(made_at),
            listed_hash: before.listed_hash.clone(),
            image_digest: past.image_digest.clone(),
            is_proven: past.is_proven,
            former_image: past.former_image.clone(),
            tag_check: None,
            rolled_back: Some(given_up),
            ..decided
        };
        // The same instance is made anew, of that image.
        if goes_on && is_other_image && runs {
            record.ask_restart(self.seq.saturating_mul(2));
        }
        Ok(record)
    }
}
