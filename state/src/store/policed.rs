//! The policy that the store holds every change against.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Limits, Store, StoreError};
use crate::desired::Record;
use crate::failure::Failure;
use crate::policy::{self, NodePrivileges, Policy};
use crate::reason::Reason;

/// The policy of a store that was given none: the agent's own rules.
pub(super) fn first(limits: &Limits) -> RwLock<Arc<Policy>> {
    let node = NodePrivileges {
        new_privileges: limits.new_privileges,
        ..NodePrivileges::default()
    };
    RwLock::new(Arc::new(Policy {
        node,
        ..Policy::default()
    }))
}

impl Store {
    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&policy)
    }

    /// Puts another policy in force: for the next change, and the next start.
    pub fn set_policy(&self, mut policy: Policy) {
        policy.node.new_privileges = self.limits.new_privileges;
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Judges a start of what is stored.
    ///
    /// # Errors
    /// The failure of the start, if the policy denies it.
    pub fn judge_start(&self, record: &Record) -> Result<(), Failure> {
        let denials = self.policy().judge_start(record);
        if denials.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Reason::PolicyDenied, policy::told(&denials)))
    }

    /// Judges an order to start what is stored: who restarts a container, or asks for its newest
    /// image, is to hear that it would not come up again, before it is stopped.
    pub(super) fn judge_order(&self, record: &Record) -> Result<(), StoreError> {
        let denials = self.policy().judge_start(record);
        if denials.is_empty() {
            return Ok(());
        }
        Err(StoreError::Denied(record.name.clone(), denials))
    }
}
