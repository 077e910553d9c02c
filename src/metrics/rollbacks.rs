//! Number of generations that were given up.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCause {
    by: &'static str,
}

/// Rollbacks by who asked for them.
#[derive(Clone, Debug, Default)]
pub(super) struct RollbackCounts(Family<OfCause, Counter>);

impl RollbackCounts {
    pub(super) fn register(&self, all: &mut Registry) {
        let help = "Generations that were given up for an earlier one: by the agent, since they failed, or by hand";
        all.register("rollbacks", help, self.0.clone());
        for by in ["agent", "hand"] {
            drop(self.0.get_or_create(&OfCause { by }));
        }
    }
}

impl Metrics {
    /// Counts a generation that was given up.
    pub fn rolled_back(&self, by_hand: bool) {
        let by = if by_hand { "hand" } else { "agent" };
        self.rollbacks.0.get_or_create(&OfCause { by }).inc();
    }
}
