//! The part of a set that the node's budget of changes lets through, for now.

use super::batch::Batch;
use super::{Accepted, StoreError};
use crate::desired::applied::Rejected;
use crate::desired::{Owner, Record};
use crate::guard::{self, SetEffects};
use crate::id::{ContainerId, ContainerName};
use crate::policy::budget;
use crate::spec::parse::Deploy;

/// Allowance of changes of running containers, and what became of it.
#[derive(Debug)]
pub(super) struct Budgeted {
    left: usize,
    /// Running containers that were changed or ended.
    pub(super) spent: Vec<ContainerId>,
    /// Containers that are left as they are for now.
    pub(super) deferred: Vec<ContainerName>,
}

impl Budgeted {
    pub(super) const fn new(allowance: usize) -> Self {
        Self {
            left: allowance,
            spent: Vec::new(),
            deferred: Vec::new(),
        }
    }

    fn spend(&mut self, id: ContainerId) {
        self.left = self.left.saturating_sub(1);
        self.spent.push(id);
    }

    /// Whether the container may be ended now.
    pub(super) fn may_end(&mut self, record: &Record) -> bool {
        if !guard::runs(record) {
            return true;
        }
        if self.left == 0 {
            self.deferred.push(record.name.clone());
            return false;
        }
        self.spend(record.id);
        true
    }

    /// Takes what the budget lets through. Who fails for another reason leaves its place to the
    /// next.
    pub(super) fn take_all(
        &mut self,
        batch: &mut Batch<'_>,
        wanted: Vec<Deploy>,
    ) -> (Vec<Accepted>, Vec<(ContainerName, StoreError)>) {
        let costly = SetEffects::of(&batch.desired, &[], &wanted).changed;
        let (mut waiting, mut now): (Vec<_>, Vec<_>) = wanted
            .into_iter()
            .partition(|deploy| costly.contains(&deploy.name));
        waiting.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut accepted, mut failed) = (Vec::new(), Vec::new());
        loop {
            now.extend(waiting.drain(..self.left.min(waiting.len())));
            if now.is_empty() {
                break;
            }
            let (taken, refused) = batch.take_all(now, Owner::Chas);
            let changed = taken.iter().filter(|accepted| accepted.changed);
            changed
                .filter(|accepted| costly.contains(&accepted.record.name))
                .for_each(|accepted| self.spend(accepted.record.id));
            accepted.extend(taken);
            failed.extend(refused);
            now = Vec::new();
        }
        self.deferred
            .extend(waiting.into_iter().map(|deploy| deploy.name));
        (accepted, failed)
    }

    /// The entries of the report for what is left as it is.
    pub(super) fn rejected(&self) -> impl Iterator<Item = Rejected> {
        let why = format!(
            "policy rule {:?} denies it for now: no more running containers may be changed or \
             ended by CHaS within this hour, or none while the policy cannot be used; it is tried \
             again",
            budget::RULE
        );
        self.deferred
            .iter()
            .map(move |name| Rejected::because(name, why.clone()))
    }
}
