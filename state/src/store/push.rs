//! Pushed requests: a deploy of one container, the whole set owned by push, or an order about one
//! container. [`crate::ownership`] decides; here its decisions are stored in one transaction.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::batch::Batch;
use super::{Accepted, Store, StoreError};
use crate::access::NameScope;
use crate::desired::answer::{Answer, Outcome};
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, Record};
use crate::guard;
use crate::id::{ContainerId, ContainerName};
use crate::ownership::answers::{self, Keyed};
use crate::ownership::{self, Order, Pushed};
use crate::spec::parse::Deploy;

/// Outcome of a request with an `Idempotency-Key`, which may be a repetition.
#[derive(Clone, Debug)]
pub enum Idempotent<T> {
    /// The request is new, and was carried out now.
    Now(T),
    /// The request was carried out before, with this answer. Nothing was done now.
    Before(Answer),
}

/// Container that a deploy expects to change, by its `ETag` ([`Record::etag`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExpectedTag {
    /// Any container, or none.
    #[default]
    Any,
    /// Any container that is there.
    There,
    /// No container of the name; one that is being removed still has it.
    Absent,
    /// Container with one of these.
    OneOf(Vec<String>),
}

impl ExpectedTag {
    /// Refuses a change of another container than the one that its caller has seen.
    fn check(&self, desired: &Desired, name: &ContainerName) -> Result<(), StoreError> {
        let present = desired.named(name);
        match (self, present) {
            (Self::Any, _) | (Self::There, Some(_)) | (Self::Absent, None) => Ok(()),
            (Self::Absent, Some(present)) => {
                Err(StoreError::UnmatchedPresent(name.clone(), present.etag()))
            }
            (Self::There | Self::OneOf(_), None) => Err(StoreError::UnmatchedAbsent(name.clone())),
            (Self::OneOf(tags), Some(present)) if tags.contains(&present.etag()) => Ok(()),
            (Self::OneOf(_), Some(present)) => {
                Err(StoreError::UnmatchedContainer(name.clone(), present.etag()))
            }
        }
    }
}

/// Request to replace the whole set owned by push.
#[derive(Clone, Debug, Default)]
pub struct ReplaceRequest {
    /// All containers of the set; no name twice.
    pub wanted: Vec<Deploy>,
    /// Names that the caller has to do with: of the set, only these are replaced. All in `wanted`
    /// are among them.
    pub scope: NameScope,
    /// Versions of the set, by [`ownership::etag_of`], one of which it must have now. `None`: any.
    pub if_match: Option<Vec<String>>,
    /// Running containers that the caller says may end. `None`: no more than go without saying.
    pub confirm: Option<usize>,
    /// The request's `Idempotency-Key`, if it has one.
    pub keyed: Option<Keyed>,
    /// Whether only the outcome is asked for, and nothing is to be stored.
    pub dry_run: bool,
}

/// Outcome of replacing the set owned by push.
#[derive(Clone, Debug)]
pub struct ReplaceOutcome {
    /// [`ownership::etag_of`] of the set. On a dry run: as it would be.
    pub etag: String,
    /// Records that differ from before, as they are (or would be) now.
    pub changed: Vec<Arc<Record>>,
    /// On a dry run: running containers that would end, where they are so many that the request has
    /// to say their number.
    pub unconfirmed: Option<usize>,
    /// The desired state with the whole set in it. On a dry run: as it would be.
    pub desired: Desired,
}

impl Store {
    /// Accepts a deploy. A `dry_run` answers the outcome, and stores nothing.
    ///
    /// `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// Any refusal by [`StoreError`]; nothing is stored then.
    pub fn deploy(
        &self,
        deploy: Deploy,
        owner: Owner,
        dry_run: bool,
        now_ms: u64,
    ) -> Result<Accepted, StoreError> {
        self.deploy_to(&ExpectedTag::Any, deploy, owner, dry_run, now_ms)
    }

    /// [`Store::deploy`] of a container that is as expected.
    ///
    /// # Errors
    /// As [`Store::deploy`], [`StoreError::UnmatchedContainer`], [`StoreError::UnmatchedAbsent`], and
    /// [`StoreError::UnmatchedPresent`].
    pub fn deploy_to(
        &self,
        expected: &ExpectedTag,
        deploy: Deploy,
        owner: Owner,
        dry_run: bool,
        now_ms: u64,
    ) -> Result<Accepted, StoreError> {
        self.look_ahead([&deploy]);
        let deploy = self.sealed(deploy)?;
        self.transact(|desired| {
            expected.check(desired, &deploy.name)?;
            let mut batch = Batch::new(self, desired, now_ms)?;
            let deploy = batch.resolved(deploy)?;
            let accepted = match owner {
                Owner::Push => push_one(&mut batch, deploy)?,
                Owner::Chas => batch.take(deploy, owner)?,
            };
            Ok((if dry_run { Vec::new() } else { batch.changes }, accepted))
        })
    }

    /// Accepts a deploy that was pushed with an `Idempotency-Key`, once.
    ///
    /// # Errors
    /// As [`Store::deploy_to`], and [`StoreError::KeyReused`]. A refused request does not use its key
    /// up.
    pub fn deploy_once(
        &self,
        expected: &ExpectedTag,
        deploy: Deploy,
        keyed: &Keyed,
        now_ms: u64,
    ) -> Result<Idempotent<Accepted>, StoreError> {
        self.look_ahead([&deploy]);
        let deploy = self.sealed(deploy)?;
        let sealed = self.sealed_request(keyed);
        self.transact(|desired| {
            if let Some(answer) = before(desired, Some((&sealed, keyed)))? {
                return Ok((Vec::new(), Idempotent::Before(answer)));
            }
            expected.check(desired, &deploy.name)?;
            let mut batch = Batch::new(self, desired, now_ms)?;
            let deploy = batch.resolved(deploy)?;
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
            batch.apply(answers::kept(desired, &sealed, accepted.changed, outcome));
            Ok((batch.changes, Idempotent::Now(accepted)))
        })
    }

    /// Replaces the set owned by push: adds, changes, and removes what is left out. All of it, or
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::Unmatched`], [`StoreError::KeyReused`], [`StoreError::Unconfirmed`],
    /// [`StoreError::Several`] with every refused container, and those of every change.
    pub fn replace(
        &self,
        request: ReplaceRequest,
        now_ms: u64,
    ) -> Result<Idempotent<ReplaceOutcome>, StoreError> {
        let ReplaceRequest {
            wanted,
            scope,
            if_match,
            confirm,
            keyed,
            dry_run,
        } = request;
        // A dry run has no effect whose answer would be worth keeping.
        let keyed = keyed.filter(|_| !dry_run);
        self.look_ahead(&wanted);
        let wanted = self.sealed_all(wanted)?;
        let sealed = keyed.as_ref().map(|keyed| self.sealed_request(keyed));
        self.transact(|desired| {
            if let Some(answer) = before(desired, sealed.as_ref().zip(keyed.as_ref()))? {
                return Ok((Vec::new(), Idempotent::Before(answer)));
            }
            let etag = ownership::etag_of(desired, &scope);
            if if_match.is_some_and(|tags| !tags.contains(&etag)) {
                return Err(StoreError::Unmatched(etag));
            }
            let mut batch = Batch::new(self, desired, now_ms)?;
            let wanted = resolved_all(&batch, wanted)?;
            let gone = omitted(&batch, &wanted, &scope);
            let unconfirmed = guard::push::unconfirmed(desired, &gone, confirm);
            if !unconfirmed.is_empty() && !dry_run {
                return Err(StoreError::Unconfirmed(unconfirmed));
            }
            let mut changed = remove(&mut batch, gone);
            changed.extend(push_all(&mut batch, wanted)?);
            let outcome = ReplaceOutcome {
                etag: ownership::etag_of(&batch.desired, &scope),
                changed,
                unconfirmed: (!unconfirmed.is_empty()).then_some(unconfirmed.len()),
                desired: batch.desired.clone(),
            };
            if let Some(keyed) = &sealed {
                let has_changed = !outcome.changed.is_empty();
                let etag = outcome.etag.clone();
                batch.apply(answers::kept(
                    desired,
                    keyed,
                    has_changed,
                    Outcome::Set { etag },
                ));
            }
            Ok((
                if dry_run { Vec::new() } else { batch.changes },
                Idempotent::Now(outcome),
            ))
        })
    }

    /// Carries out an operator's order about one container. Answers the record as it is stored
    /// then.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Denied`] for a start, [`StoreError::Disk`].
    pub fn order(&self, id: ContainerId, order: Order) -> Result<Arc<Record>, StoreError> {
        self.order_to(&ExpectedTag::Any, id, order)
    }

    /// Order about a container that is as its caller has seen it: given again because its answer was
    /// lost, it is not carried out twice.
    ///
    /// # Errors
    /// As [`Store::order`], and [`StoreError::UnmatchedContainer`].
    pub fn order_to(
        &self,
        expected: &ExpectedTag,
        id: ContainerId,
        order: Order,
    ) -> Result<Arc<Record>, StoreError> {
        self.transact(|desired| {
            let before = desired.get(id).ok_or(StoreError::NotFound(id))?;
            expected.check(desired, &before.name)?;
            match order {
                // What is to run already stays so, and the order changes nothing.
                Order::Start if guard::runs(before) && !before.is_uncertain => {}
                Order::Start | Order::Restart => self.judge_order(before)?,
                Order::Stop | Order::Remove => {}
            }
            let (record, changes) = ownership::ordered(desired, before, order);
            Ok((changes, Arc::new(record)))
        })
    }
}

/// The answer to this request, if it was carried out before: by its fingerprint as it is kept, or as
/// older versions kept it.
pub(super) fn before(
    desired: &Desired,
    keyed: Option<(&Keyed, &Keyed)>,
) -> Result<Option<Answer>, StoreError> {
    let Some((sealed, plain)) = keyed else {
        return Ok(None);
    };
    answers::before(desired.marks(), sealed)
        .or_else(|answers::Reused| answers::before(desired.marks(), plain))
        .map(Option::<&Answer>::cloned)
        .map_err(|answers::Reused| StoreError::KeyReused)
}

/// Admits or refuses a push onto a container of CHaS. Answers the record if CHaS lists the
/// container just so, and nothing is to be done.
fn admit(batch: &mut Batch<'_>, deploy: &Deploy) -> Result<Option<Arc<Record>>, StoreError> {
    let before = batch.desired.named(&deploy.name).cloned();
    match (ownership::pushed(before.as_deref(), deploy), before) {
        (Pushed::Refuse, Some(before)) => {
            return Err(StoreError::Owned(before.name.clone(), before.generation));
        }
        (Pushed::Same, Some(before)) => return Ok(Some(before)),
        (Pushed::TakeOver, _) => {
            let again = ownership::apply_again(&batch.desired);
            batch.apply(again);
        }
        (Pushed::Take | Pushed::Refuse | Pushed::Same, _) => {}
    }
    Ok(None)
}

fn push_one(batch: &mut Batch<'_>, deploy: Deploy) -> Result<Accepted, StoreError> {
    match admit(batch, &deploy)? {
        Some(record) => Ok(Accepted {
            record,
            changed: false,
        }),
        None => batch.take(deploy, Owner::Push),
    }
}

/// Accepts a whole set. Answers the records that differ from before.
fn push_all(batch: &mut Batch<'_>, wanted: Vec<Deploy>) -> Result<Vec<Arc<Record>>, StoreError> {
    let (mut admitted, mut refused) = (Vec::new(), Vec::new());
    for deploy in wanted {
        match admit(batch, &deploy) {
            Ok(Some(_)) => {}
            Ok(None) => admitted.push(deploy),
            Err(error) => refused.push((deploy.name, error)),
        }
    }
    let (taken, failed) = batch.take_all(admitted, Owner::Push);
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

/// Deploys with the values of their secrets, or every one that names a secret which is not there.
fn resolved_all(batch: &Batch<'_>, wanted: Vec<Deploy>) -> Result<Vec<Deploy>, StoreError> {
    let (mut resolved, mut refused) = (Vec::new(), Vec::new());
    for deploy in wanted {
        let name = deploy.name.clone();
        match batch.resolved(deploy) {
            Ok(deploy) => resolved.push(deploy),
            Err(error) => refused.push((name, error)),
        }
    }
    if refused.is_empty() {
        Ok(resolved)
    } else {
        Err(StoreError::Several(refused))
    }
}

/// The pushed containers of these names that are left out, as they are.
fn omitted(batch: &Batch<'_>, wanted: &[Deploy], scope: &NameScope) -> Vec<Record> {
    let names: BTreeSet<_> = wanted.iter().map(|deploy| &deploy.name).collect();
    let gone = ownership::push_set(&batch.desired)
        .into_iter()
        .filter(|record| scope.has(&record.name) && !names.contains(&record.name));
    gone.cloned().collect()
}

/// Removes these. Answers them as they are then.
fn remove(batch: &mut Batch<'_>, mut gone: Vec<Record>) -> Vec<Arc<Record>> {
    for record in &mut gone {
        (record.removing, record.seq) = (true, batch.seq);
    }
    for record in &gone {
        let buried = ownership::buried(&batch.desired, record);
        batch.apply(std::iter::once(DesiredChange::Put(Box::new(record.clone()))).chain(buried));
    }
    gone.into_iter().map(Arc::new).collect()
}
