//! Numbers of containers with a schedule: how their runs went, and when each last succeeded.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, OfResult};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfContainer {
    container: String,
}

/// Runs by their results, and last successes by container.
#[derive(Clone, Debug, Default)]
pub(super) struct JobNumbers {
    runs: Family<OfResult, Counter>,
    last_success: Family<OfContainer, Gauge>,
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
        all.register_with_unit(
            "job_last_success_timestamp",
            "When the last run of each container with a schedule ended that succeeded, since 1970; 0: none has",
            Unit::Seconds,
            self.last_success.clone(),
        );
    }
}

impl Metrics {
    /// Counts a run that is over, or a time without one.
    pub fn job_ran(&self, result: &'static str) {
        self.jobs.runs.get_or_create(&OfResult { result }).inc();
    }

    /// Shows when each container last succeeded, by name, in milliseconds since 1970.
    pub fn show_jobs<'a>(&self, jobs: impl Iterator<Item = (&'a str, Option<u64>)>) {
        // A container that is gone has no time.
        self.jobs.last_success.clear();
        for (name, at_ms) in jobs {
            let container = name.to_owned();
            let at = i64::try_from(at_ms.unwrap_or_default() / 1000).unwrap_or(i64::MAX);
            let gauge = self
                .jobs
                .last_success
                .get_or_create(&OfContainer { container });
            gauge.set(at);
        }
    }
}
