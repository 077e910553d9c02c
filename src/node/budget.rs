//! Budget of CHaS for changes of what runs, and the sets that spend it.

use std::sync::{Arc, Mutex};

use state::desired::Owner;
use state::guard;
use state::ownership::{ChasSet, SetOutcome};
use state::policy::budget::ChangeLedger;
use state::store::{Store, StoreError};
use state::time::BootTime;

use crate::audit::{AuditCall, acting};
use crate::lock::lock;

/// Changes by CHaS within the last hour. Clones share them. They begin anew with the agent.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLedger(Arc<Mutex<ChangeLedger>>);

impl SharedLedger {
    /// Applies a set within the budget of the policy, if it has one.
    pub(super) fn apply(
        &self,
        store: &Store,
        set: &ChasSet,
        now_ms: u64,
        now: BootTime,
    ) -> Result<SetOutcome, StoreError> {
        let mut ledger = lock(&self.0);
        let desired = store.desired();
        let owned = desired
            .records()
            .filter(|record| record.owner == Owner::Chas);
        let running = owned.filter(|record| guard::runs(record)).count();
        let budget = store.policy().changes_per_hour;
        let allowance = budget.map_or(usize::MAX, |budget| ledger.allowance(budget, running, now));
        let apply = || store.apply_set_within(set, now_ms, allowance);
        let outcome = acting(AuditCall::of("chas"), apply)?;
        ledger.note(outcome.spent, running, now);
        Ok(outcome)
    }
}
