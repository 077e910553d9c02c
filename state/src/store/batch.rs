//! A batch of records decided on in one transaction, each seeing those before it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::kept::{kept_end, kept_job, replaces_at_once};
use super::{Accepted, Store, StoreError};
use crate::assign::{AddressWish, AssignError};
use crate::blobs::Blobs;
use crate::capacity::Amounts;
use crate::desired::set::{Desired, DesiredChange};
use crate::desired::{Owner, Record};
use crate::id::ContainerName;
use crate::order::circle;
use crate::policy::Policy;
use crate::seal::NodeKey;
use crate::spec::Network;
use crate::spec::network::NODE_RULES_MAX;
use crate::spec::parse::Deploy;

mod parts;

/// Tries of those that would wait for themselves, until others of the set are as it asks.
const CIRCLE_ROUNDS_MAX: usize = 8;

/// The records decided so far, and the changes that store them.
pub(super) struct Batch<'a> {
    store: &'a Store,
    /// The policy, which is one for the whole batch.
    policy: Arc<Policy>,
    now_ms: u64,
    /// Number of the one change that the whole batch is.
    pub(super) seq: u64,
    /// The desired state with the changes so far.
    pub(super) desired: Desired,
    /// The changes so far, in order.
    pub(super) changes: Vec<DesiredChange>,
    /// Containers of the request that are not decided on yet.
    pub(super) retaken: BTreeSet<ContainerName>,
}

impl Store {
    /// Looks at the host for deploys that are to be decided on, if they have ports: whoever waits for
    /// the files does not wait for that.
    pub(super) fn look_ahead<'d>(&self, deploys: impl IntoIterator<Item = &'d Deploy>) {
        let mut deploys = deploys.into_iter();
        if deploys.any(|deploy| !deploy.spec.ports.is_empty()) {
            self.limits.network.look();
        }
    }
}

impl<'a> Batch<'a> {
    /// An empty batch. `now_ms` is the wall time, for showing.
    ///
    /// # Errors
    /// [`StoreError::Rebuilding`].
    pub(super) fn new(
        store: &'a Store,
        desired: &Desired,
        now_ms: u64,
    ) -> Result<Self, StoreError> {
        if desired.adoption().is_some_and(|adoption| !adoption.is_new) {
            return Err(StoreError::Rebuilding);
        }
        let (seq, desired) = (desired.seq() + 1, desired.clone());
        Ok(Self {
            store,
            policy: store.policy(),
            now_ms,
            seq,
            desired,
            changes: Vec::new(),
            retaken: BTreeSet::new(),
        })
    }

    /// The node's key.
    pub(super) fn key(&self) -> NodeKey {
        self.store.key.node_key()
    }

    /// The store that it is for.
    pub(super) const fn store(&self) -> &Store {
        self.store
    }

    /// Contents beside the records.
    pub(super) const fn blobs(&self) -> &Blobs {
        &self.store.blobs
    }

    /// Wall time of the batch, for showing.
    pub(super) const fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Decides that a record is what `deploy` asks for, whatever the policy says by now: it was taken
    /// in before. What has ended and stays so is not run again for it. Answers it if it is another one
    /// then.
    pub(super) fn renew(
        &mut self,
        before: &Record,
        deploy: Deploy,
    ) -> Result<Option<Arc<Record>>, StoreError> {
        let decided = self.decide(Some(before), deploy, before.owner)?;
        let record = Record {
            listed_hash: before.listed_hash.clone(),
            finished: before.finished.clone(),
            ..decided
        };
        if is_same(before, &record) {
            return Ok(None);
        }
        self.apply([DesiredChange::Put(Box::new(record.clone()))]);
        Ok(Some(Arc::new(record)))
    }

    /// Adds changes to the batch.
    pub(super) fn apply(&mut self, changes: impl IntoIterator<Item = DesiredChange>) {
        for change in changes {
            self.desired.apply(&change);
            self.changes.push(change);
        }
    }

    /// Decides that the name is what `deploy` asks for, and belongs to `owner`.
    pub(super) fn take(&mut self, deploy: Deploy, owner: Owner) -> Result<Accepted, StoreError> {
        if self.desired.is_unreadable_name(&deploy.name) {
            return Err(StoreError::UnreadableRecord(deploy.name));
        }
        let before = self.desired.named(&deploy.name).cloned();
        let containers_max = self.store.limits.containers_max;
        if before.is_none() && self.desired.records().count() >= containers_max {
            return Err(StoreError::TooMany(containers_max));
        }
        if let Some(bad) = before
            .as_ref()
            .and_then(|before| before.has_given_up(&deploy.spec, deploy.revision))
        {
            return Err(StoreError::RolledBack(deploy.name, bad.told()));
        }
        self.check(before.as_deref(), &deploy, owner)?;
        let record = self.decide(before.as_deref(), deploy, owner)?;
        let Some(before) = before.filter(|before| is_same(before, &record)) else {
            self.apply([DesiredChange::Put(Box::new(record.clone()))]);
            return Ok(Accepted {
                record: Arc::new(record),
                changed: true,
            });
        };
        let record = self.note_listed(before, record.listed_hash);
        Ok(Accepted {
            record,
            changed: false,
        })
    }

    /// Checks that the policy and the node allow what is asked for, beside all others.
    pub(super) fn check(
        &self,
        before: Option<&Record>,
        deploy: &Deploy,
        owner: Owner,
    ) -> Result<(), StoreError> {
        let denials = self.policy.judge(deploy, owner, &self.desired);
        if !denials.is_empty() {
            return Err(StoreError::Denied(deploy.name.clone(), denials));
        }
        self.check_rules(before, &deploy.spec.network)?;
        self.check_capacity(before, deploy)?;
        self.check_sizes(before.map(|before| before.id), deploy)?;
        self.check_circle(before, deploy)
    }

    /// Checks that the kernel can have the rules of all network sections, with `new` in place of that
    /// of `before`. What takes no more passes also on a node that has too many from before.
    fn check_rules(&self, before: Option<&Record>, new: &Network) -> Result<(), StoreError> {
        if !new.is_ruled() || before.is_some_and(|before| before.spec.network == *new) {
            return Ok(());
        }
        let own = |record: &&Arc<Record>| before.is_some_and(|before| before.id == record.id);
        let others = self.desired.records().filter(|record| !own(record));
        let others = others.map(|record| &record.spec.network);
        let rules = Network::rules(others.chain([new]));
        let all = self.desired.records().map(|record| &record.spec.network);
        if rules > NODE_RULES_MAX && rules > Network::rules(all) {
            return Err(StoreError::TooManyRules(rules));
        }
        Ok(())
    }

    /// Checks that the node has what the container reserves, beside the others.
    fn check_capacity(&self, before: Option<&Record>, deploy: &Deploy) -> Result<(), StoreError> {
        let wanted = Amounts::reserved_by(&deploy.spec);
        let own = before.map(|before| before.id);
        // Also of one that has ended for good: the same body again asks for nothing more.
        let before = before.filter(|before| !before.removing);
        let reserved = before.map_or(Amounts::NONE, Amounts::of_record);
        let records = self.desired.records().map(AsRef::as_ref);
        let others = records.filter(|record| Some(record.id) != own);
        let admitted =
            self.store
                .limits
                .capacity
                .admit(wanted, reserved, Amounts::reserved(others));
        admitted.map_err(|short| StoreError::NoCapacity(deploy.name.clone(), short))
    }

    /// Notes the fingerprint of the body by which CHaS lists a container. It is no change of what
    /// is desired.
    pub(super) fn note_listed(
        &mut self,
        record: Arc<Record>,
        listed_hash: Option<String>,
    ) -> Arc<Record> {
        if record.listed_hash == listed_hash {
            return record;
        }
        let noted = Record {
            listed_hash,
            ..Record::clone(&record)
        };
        self.apply([DesiredChange::Put(Box::new(noted.clone()))]);
        Arc::new(noted)
    }

    /// Checks that the container does not wait for itself, by way of what is decided so far. Who waits
    /// for nobody else than before closes no circle.
    fn check_circle(&self, before: Option<&Record>, deploy: &Deploy) -> Result<(), StoreError> {
        let before = before.filter(|before| !before.removing);
        if before.is_some_and(|before| before.spec.after == deploy.spec.after) {
            return Ok(());
        }
        let circle = circle::closed(&self.desired, &deploy.name, &deploy.spec.after);
        circle.map_or(Ok(()), |circle| {
            Err(StoreError::Circle(deploy.name.clone(), circle))
        })
    }

    /// Decides as [`take`](Self::take) does on each. Those that fail are answered apart. A
    /// container whose host port is given up by a later one is tried again, and gets it; so is one
    /// that waits for one that is to wait for it no more, and one that a sum of the policy, of network rules or of the capacity denied, once the others have given up what they do.
    pub(super) fn take_all(
        &mut self,
        mut wanted: Vec<Deploy>,
        owner: Owner,
    ) -> (Vec<Accepted>, Vec<(ContainerName, StoreError)>) {
        // Containers that name host ports come first, so that none of these is chosen for another.
        wanted.sort_by_key(|deploy| deploy.spec.ports.iter().all(|port| port.host.is_none()));
        let (mut taken, mut refused, mut denied) = (Vec::new(), Vec::new(), Vec::new());
        self.retaken = wanted.iter().map(|deploy| deploy.name.clone()).collect();
        for round in 0.. {
            let (tried, mut later) = (wanted.len(), Vec::new());
            for deploy in wanted {
                self.retaken.remove(&deploy.name);
                match self.take(deploy.clone(), owner) {
                    Ok(accepted) => taken.push(accepted),
                    Err(error @ StoreError::Assign(AssignError::TakenByContainer { .. })) => {
                        self.retaken.insert(deploy.name.clone());
                        later.push((deploy, error));
                    }
                    Err(error @ StoreError::Circle(..)) if round < CIRCLE_ROUNDS_MAX => {
                        later.push((deploy, error));
                    }
                    Err(
                        StoreError::Denied(..)
                        | StoreError::TooManyRules(_)
                        | StoreError::NoCapacity(..),
                    ) => {
                        self.retaken.insert(deploy.name.clone());
                        denied.push(deploy);
                    }
                    Err(error) => refused.push((deploy.name, error)),
                }
            }
            if later.is_empty() || later.len() == tried {
                let later = later.into_iter();
                refused.extend(later.map(|(deploy, error)| (deploy.name, error)));
                break;
            }
            wanted = later.into_iter().map(|(deploy, _)| deploy).collect();
        }
        // What takes less is never denied, so that a second try is the last.
        for deploy in denied {
            let name = deploy.name.clone();
            self.retaken.remove(&name);
            match self.take(deploy, owner) {
                Ok(accepted) => taken.push(accepted),
                Err(error) => refused.push((name, error)),
            }
        }
        (taken, refused)
    }

    pub(super) fn decide(
        &self,
        before: Option<&Record>,
        deploy: Deploy,
        owner: Owner,
    ) -> Result<Record, StoreError> {
        let id = before.map_or_else(|| self.store.new_id(&self.desired), |before| before.id);
        let mut assignment = self.place(id, &deploy, AddressWish::Kept)?;
        // Specs are compared by value: the stored fingerprint may be another agent version's. A
        // container that is being removed is not taken back: its successor is a generation of its
        // own.
        let same = before.filter(|before| {
            before.spec == deploy.spec && !before.removing && before.assignment == assignment
        });
        let finished = kept_end(before, &deploy, &assignment);
        let job = kept_job(before, &deploy, self.now_ms);
        // Where it goes on, it is a generation of its own, and of the same instance.
        let goes_on = before.filter(|before| before.can_become(&deploy.spec, &assignment));
        let update = match (same.or(goes_on), before) {
            (Some(goes_on), _) => goes_on.update.clone(),
            (None, Some(before)) => before.updated_to(&deploy),
            (None, None) => None,
        };
        if let (None, None, Some(update), Some(before)) = (same, goes_on, &update, before)
            && update.is_beside
        {
            let spare = update.spare_address(before);
            assignment = self.place(id, &deploy, AddressWish::Beside(spare))?;
        }
        let replaces_at_once = replaces_at_once(goes_on, before, &assignment);
        let former_image = match goes_on {
            Some(same) => same.former_image.clone(),
            None => before
                .filter(|before| !before.removing)
                .and_then(|before| before.former_image_for(&deploy.spec)),
        };
        let tag_check = self.tag_check((same, goes_on), before, &deploy);
        Ok(Record {
            id,
            name: deploy.name,
            spec_hash: same.map_or_else(|| deploy.spec.hash(), |same| same.spec_hash.clone()),
            spec: deploy.spec,
            listed_hash: (owner == Owner::Chas).then_some(deploy.body_hash),
            owner,
            generation: same.map_or_else(
                || before.map_or(1, |before| before.generation + 1),
                |same| same.generation,
            ),
            made_at: match (same, goes_on) {
                (Some(same), _) => same.made_at,
                (None, goes_on) => goes_on.map(|before| before.instance().generation),
            },
            revision: deploy.revision,
            seq: self.seq,
            run: deploy.run,
            priority: deploy.priority,
            removing: false,
            restart_pending: goes_on.is_some_and(|same| same.restart_pending),
            restarts_asked: goes_on.map_or(0, |same| same.restarts_asked),
            cordoned: before
                .filter(|before| !before.removing)
                .map_or(self.desired.marks().cordoned_by().any(), |before| {
                    before.cordoned
                }),
            finished,
            assignment,
            image_digest: goes_on.and_then(|same| same.image_digest.clone()),
            is_proven: goes_on.is_some_and(|same| same.is_proven),
            former_image,
            tag_check,
            update,
            rolled_back: same.or(goes_on).and_then(|same| same.rolled_back.clone()),
            replaces_at_once,
            job,
            created_ms: before
                .filter(|before| !before.removing)
                .map_or(self.now_ms, |before| before.created_ms),
            is_uncertain: false,
        })
    }
}

/// Whether two records ask for the same.
fn is_same(before: &Record, record: &Record) -> bool {
    let listed_hash = before.listed_hash.clone();
    Record {
        seq: before.seq,
        listed_hash,
        ..record.clone()
    } == *before
}
