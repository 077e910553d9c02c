//! Budget of CHaS for changes of what runs, and the sets that spend it.

use std::sync::{Arc, Mutex};

use state::desired::set::Desired;
use state::desired::{Owner, Record};
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
        ledger.look(running(&store.desired()).map(|record| record.id), now);
        let allowance = allowance(&mut ledger, store, now);
        let apply = || store.apply_set_within(set, now_ms, allowance);
        let outcome = acting(AuditCall::of("chas"), apply)?;
        ledger.note(&outcome.spent, now);
        ledger.look(running(&store.desired()).map(|record| record.id), now);
        Ok(outcome)
    }
}

/// The number of running containers that the set may change or end.
fn allowance(ledger: &mut ChangeLedger, store: &Store, now: BootTime) -> usize {
    let policy = store.policy();
    // Nobody knows what it permits.
    if policy.unusable.is_some() {
        return 0;
    }
    let desired = store.desired();
    let proven = running(&desired).filter(|record| record.is_proven);
    policy.changes_per_hour.map_or(usize::MAX, |budget| {
        ledger.allowance(budget, proven.map(|record| record.id), now)
    })
}

/// The containers of CHaS that are to run.
fn running(desired: &Desired) -> impl Iterator<Item = &Record> {
    let records = desired.records().map(AsRef::as_ref);
    records.filter(|record: &&Record| record.owner == Owner::Chas && guard::runs(record))
}
