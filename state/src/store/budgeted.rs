//! The part of a set that the node's budget of changes lets through, for now.

use super::batch::Batch;
use super::{Accepted, StoreError};
use crate::desired::applied::Rejected;
use crate::desired::{Owner, Record};
use crate::guard::{self, SetEffects};
use crate::id::ContainerName;
use crate::policy::budget;
use crate::spec::parse::Deploy;

/// Allowance of changes of running containers, and what became of it.
#[derive(Debug)]
pub(super) struct Budgeted {
    left: usize,
    /// Changes made.
    pub(super) spent: usize,
    /// Containers that are left as they are for now.
    pub(super) deferred: Vec<ContainerName>,
}

impl Budgeted {
    pub(super) const fn new(allowance: usize) -> Self {
        Self {
            left: allowance,
            spent: 0,
            deferred: Vec::new(),
        }
    }

    fn spend(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        self.spent += count;
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
        self.spend(1);
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
            self.spend(changed.filter(|a| costly.contains(&a.record.name)).count());
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
            "policy rule {:?} denies it for now: the running containers that CHaS may change or \
             end within an hour are used up; it is tried again",
            budget::RULE
        );
        self.deferred
            .iter()
            .map(move |name| Rejected::because(name, why.clone()))
    }
}
