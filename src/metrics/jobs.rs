//! Counts of the runs of containers with a schedule, by how they went.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Metrics, OfResult};

/// Runs by their results.
#[derive(Clone, Debug, Default)]
pub(super) struct JobNumbers {
    runs: Family<OfResult, Counter>,
}

impl JobNumbers {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "job_runs",
            "Runs of containers with a schedule, by result: succeeded, failed, replaced; and times without one: skipped (one was under way), missed",
            self.runs.clone(),
        );
        for result in [
            "succeeded",
            "failed",
            "replaced",
            "stopped",
            "missed",
            "skipped",
        ] {
            drop(self.runs.get_or_create(&OfResult { result }));
        }
    }
}

impl Metrics {
    /// Counts a run that is over, or a time without one.
    pub fn job_ran(&self, result: &'static str) {
        self.jobs.runs.get_or_create(&OfResult { result }).inc();
    }
}
