//! The node's capacity, for people and for CHaS.

use state::capacity::{Amounts, CapacityReport};

use super::AgentNode;
use crate::view::CapacityView;

impl AgentNode {
    /// The node's capacity.
    pub(super) fn capacity(&self) -> CapacityView {
        let (store, facts) = (self.writer.store(), self.monitor.snapshot());
        let desired = store.desired();
        CapacityView {
            capacity: store.capacity(),
            reserved: Amounts::reserved(desired.records().map(AsRef::as_ref)),
            used_cpu: facts.cpu_usage_percent * facts.cpu_cores as f64 / 100.0,
            used_memory: facts
                .memory_total_bytes
                .saturating_sub(facts.memory_available_bytes),
            containers: (store.containers_max(), desired.records().count()),
        }
    }

    /// The same, as CHaS needs it.
    pub(super) fn capacity_report(&self) -> CapacityReport {
        let view = self.capacity();
        CapacityReport::of(view.capacity, view.reserved)
    }
}
