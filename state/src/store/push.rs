//! What is asked of the node by those who push: one container, the whole set, or an order about one that is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::batch::Batch;
use super::{Accepted, Store, StoreError};
use crate::desired::answer::{Answer, Outcome};
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, PortBinding, Record};
use crate::id::ContainerId;
use crate::ownership::answers::{self, Keyed};
use crate::ownership::{self, Order, Pushed};
use crate::spec::parse::Deploy;

/// What became of a request that may have come before.
#[derive(Clone, Debug)]
pub enum Answered<T> {
    /// It was taken now.
    Now(T),
    /// It was taken before, and this came of it. Nothing was done.
    Before(Answer),
}

/// The whole set owned by push, as it is to be.
#[derive(Clone, Debug, Default)]
pub struct ReplaceRequest {
    /// Everything in it; no name twice.
    pub wanted: Vec<Deploy>,
    /// It must be one of these now, by [`ownership::etag`]. `None`: whichever it is.
    pub if_match: Option<Vec<String>>,
    /// The request's key.
    pub keyed: Option<Keyed>,
    /// Nothing is to be stored.
    pub dry_run: bool,
}

/// What the set came to.
#[derive(Clone, Debug)]
pub struct Replaced {
    /// [`ownership::etag`] of it. On a dry run: as it would be.
    pub etag: String,
    /// The records that are not as before, as they are (or would be) now.
    pub changed: Vec<Arc<Record>>,
}

impl Store {
    /// Takes in a deploy. On a `dry_run`, answers what it would come to and stores nothing.
    ///
    /// `listening` says whether a process of this host listens on a binding; `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// As [`StoreError`] has them; nothing is stored then.
    pub fn deploy(
        &self,
        deploy: Deploy,
        owner: Owner,
        dry_run: bool,
        now_ms: u64,
        listening: impl Fn(&PortBinding) -> bool,
    ) -> Result<Accepted, StoreError> {
        self.transact(|desired| {
            let mut batch = Batch::new(self, desired, now_ms, &listening)?;
            let accepted = match owner {
                Owner::Push => push_one(&mut batch, deploy)?,
                Owner::Chas => batch.take(deploy, owner)?,
            };
            Ok((if dry_run { Vec::new() } else { batch.changes }, accepted))
        })
    }

    /// Takes in a deploy that was pushed with a key, once.
    ///
    /// # Errors
    /// As [`Store::deploy`], and [`StoreError::KeyReused`]. A request that is refused does not use its key up.
    pub fn deploy_once(
        &self,
        deploy: Deploy,
        keyed: &Keyed,
        now_ms: u64,
        listening: impl Fn(&PortBinding) -> bool,
    ) -> Result<Answered<Accepted>, StoreError> {
        self.transact(|desired| {
            if let Some(answer) = before(desired, Some(keyed))? {
                return Ok((Vec::new(), Answered::Before(answer)));
            }
            let mut batch = Batch::new(self, desired, now_ms, &listening)?;
            let accepted = push_one(&mut batch, deploy)?;
            let Record {
                id,
                name,
                generation,
                ..
            } = &*accepted.record;
            let outcome = Outcome::Container {
                id: *id,
                name: name.clone(),
                generation: *generation,
            };
            batch.apply(answers::kept(desired, keyed, accepted.changed, outcome));
            Ok((batch.changes, Answered::Now(accepted)))
        })
    }

    /// Makes the set owned by push what is asked: adds, changes, and takes away what is left out. All of it, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Unmatched`], [`StoreError::KeyReused`], [`StoreError::Several`] with every container that cannot be had,
    /// and those of every change.
    pub fn replace(
        &self,
        replacing: ReplaceRequest,
        now_ms: u64,
        listening: impl Fn(&PortBinding) -> bool,
    ) -> Result<Answered<Replaced>, StoreError> {
        let ReplaceRequest {
            wanted,
            if_match,
            keyed,
            dry_run,
        } = replacing;
        // Nothing comes of a dry run that could be answered again.
        let keyed = keyed.filter(|_| !dry_run);
        self.transact(|desired| {
            if let Some(answer) = before(desired, keyed.as_ref())? {
                return Ok((Vec::new(), Answered::Before(answer)));
            }
            let etag = ownership::etag(desired);
            if if_match.is_some_and(|tags| !tags.contains(&etag)) {
                return Err(StoreError::Unmatched(etag));
            }
            let mut batch = Batch::new(self, desired, now_ms, &listening)?;
            let mut changed = omitted(&mut batch, &wanted);
            changed.extend(push_all(&mut batch, wanted)?);
            let replaced = Replaced {
                etag: ownership::etag(&batch.desired),
                changed,
            };
            if let Some(keyed) = &keyed {
                let outcome = Outcome::Set {
                    etag: replaced.etag.clone(),
                };
                batch.apply(answers::kept(
                    desired,
                    keyed,
                    !replaced.changed.is_empty(),
                    outcome,
                ));
            }
            Ok((
                if dry_run { Vec::new() } else { batch.changes },
                Answered::Now(replaced),
            ))
        })
    }

    /// Changes one container as an operator asks. Answers it as it is stored now.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Disk`].
    pub fn order(&self, id: ContainerId, order: Order) -> Result<Arc<Record>, StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            let (record, changes) = ownership::ordered(desired, before, order);
            Ok((changes, Arc::new(record)))
        })
    }
}

fn before(desired: &Desired, keyed: Option<&Keyed>) -> Result<Option<Answer>, StoreError> {
    let Some(keyed) = keyed else { return Ok(None) };
    answers::before(desired.marks(), keyed)
        .map(Option::<&Answer>::cloned)
        .map_err(|answers::Reused| StoreError::KeyReused)
}

fn push_one(batch: &mut Batch<'_>, deploy: Deploy) -> Result<Accepted, StoreError> {
    let before = batch.desired.named(&deploy.name).cloned();
    match (ownership::pushed(before.as_deref(), &deploy), before) {
        (Pushed::Refuse, Some(before)) => {
            Err(StoreError::Owned(before.name.clone(), before.generation))
        }
        (Pushed::Same, Some(before)) => Ok(Accepted {
            record: before,
            changed: false,
        }),
        (Pushed::TakeOver, _) => {
            let again = ownership::apply_again(&batch.desired);
            batch.apply(again);
            batch.take(deploy, Owner::Push)
        }
        (Pushed::Take | Pushed::Refuse | Pushed::Same, _) => batch.take(deploy, Owner::Push),
    }
}

/// Takes in a whole set. Answers the records that are not as before.
fn push_all(batch: &mut Batch<'_>, wanted: Vec<Deploy>) -> Result<Vec<Arc<Record>>, StoreError> {
    let (mut mine, mut refused) = (Vec::new(), Vec::new());
    for deploy in wanted {
        let before = batch.desired.named(&deploy.name).cloned();
        match (ownership::pushed(before.as_deref(), &deploy), before) {
            (Pushed::Refuse, Some(before)) => {
                let error = StoreError::Owned(before.name.clone(), before.generation);
                refused.push((before.name.clone(), error));
            }
            (Pushed::Same, _) => {}
            (Pushed::TakeOver, _) => {
                let again = ownership::apply_again(&batch.desired);
                batch.apply(again);
                mine.push(deploy);
            }
            (Pushed::Take | Pushed::Refuse, _) => mine.push(deploy),
        }
    }
    let (taken, failed) = batch.take_all(mine, Owner::Push);
    refused.extend(failed);
    if !refused.is_empty() {
        return Err(StoreError::Several(refused));
    }
    Ok(taken
        .into_iter()
        .filter(|accepted| accepted.changed)
        .map(|accepted| accepted.record)
        .collect())
}

/// Takes away what was pushed and is left out.
fn omitted(batch: &mut Batch<'_>, wanted: &[Deploy]) -> Vec<Arc<Record>> {
    let names: BTreeSet<_> = wanted.iter().map(|deploy| &deploy.name).collect();
    let gone = ownership::push_set(&batch.desired)
        .into_iter()
        .filter(|record| !names.contains(&record.name));
    let gone: Vec<_> = gone
        .map(|record| Record {
            removing: true,
            seq: batch.seq,
            ..record.clone()
        })
        .collect();
    for record in &gone {
        let buried = ownership::buried(&batch.desired, record);
        batch.apply(std::iter::once(DesiredChange::Put(Box::new(record.clone()))).chain(buried));
    }
    gone.into_iter().map(Arc::new).collect()
}
