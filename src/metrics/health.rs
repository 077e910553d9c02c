//! Counts of the probes of containers, and of their verdicts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfProbe {
    probe: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    verdict: &'static str,
}

/// Counts of probes.
#[derive(Clone, Debug, Default)]
pub(super) struct ProbeCounts {
    asked: Family<OfProbe, Counter>,
    verdicts: Family<OfVerdict, Counter>,
    ready: Gauge,
    stale: Gauge,
}

impl ProbeCounts {
    pub(super) fn register(&self, all: &mut Registry) {
        all.register(
            "health_probes",
            "Probes of containers, by kind and result; of those that nobody could ask (\"unasked\"), no verdict follows",
            self.asked.clone(),
        );
        all.register(
            "health_changes",
            "Times that a container's probe came to another verdict, by that",
            self.verdicts.clone(),
        );
        for verdict in ["ready", "unhealthy"] {
            drop(self.verdicts.get_or_create(&OfVerdict { verdict }));
        }
        for probe in ["http", "tcp", "exec"] {
            for result in ["success", "failure", "unasked"] {
                drop(self.asked.get_or_create(&OfProbe { probe, result }));
            }
        }
        all.register(
            "containers_ready",
            "Containers that run and work, as far as their probes tell; those without a probe that run",
            self.ready.clone(),
        );
        all.register(
            "containers_health_stale",
            "Containers that run, and whose probe's last answer is too old to say whether they work",
            self.stale.clone(),
        );
    }
}

impl Metrics {
    /// Counts a probe.
    pub fn probed(&self, probe: &'static str, result: &'static str) {
        let of = OfProbe { probe, result };
        self.probes.asked.get_or_create(&of).inc();
    }

    /// Counts another verdict of a container's probe.
    pub fn judged(&self, verdict: &'static str) {
        let of = OfVerdict { verdict };
        self.probes.verdicts.get_or_create(&of).inc();
    }

    /// Shows how many containers are ready, and of how many the last answer is too old.
    pub fn show_ready(&self, ready: usize, stale: usize) {
        let count = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.probes.ready.set(count(ready));
        self.probes.stale.set(count(stale));
    }
}
