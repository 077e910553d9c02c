//! The agent's metrics, and their text for Prometheus. This room knows none of the things that it
//! counts, but for the machine (`monitor`): whoever counts says in a word what it counted.
//!
//! Names, units and meanings are those of the `HELP` lines, which are the documentation. Labels
//! take words of closed sets, so the number of series is bounded whatever callers ask for; those of
//! single containers are bounded by the containers that a node may have.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

mod api;
mod archives;
mod capacity;
mod containers;
mod execs;
mod family;
mod format;
mod health;
mod jobs;
mod link;
mod node;
mod rollbacks;
mod scrape;

use api::ApiCounts;
use archives::ArchiveCounts;
pub(crate) use archives::VolumeNumbers;
use capacity::CapacityGauges;
pub(crate) use containers::ContainerNumbers;
pub(crate) use format::MetricsFormat;
use health::ProbeCounts;
use link::LinkCounts;
pub(crate) use node::NodeNumbers;
use rollbacks::RollbackCounts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStatus {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStep {
    step: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFailure {
    step: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAlarm {
    alarm: &'static str,
}

type Timings<L> = Family<L, Histogram, fn() -> Histogram>;

/// The agent's counters and gauges. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    containers: Family<OfStatus, Gauge>,
    restarts: Counter,
    memory_kills: Counter,
    loggers_lost: Counter,
    execs: Timings<OfResult>,
    execs_running: Gauge,
    archives: ArchiveCounts,
    capacity: CapacityGauges,
    probes: ProbeCounts,
    jobs: jobs::JobNumbers,
    rollbacks: RollbackCounts,
    link: LinkCounts,
    steps: Timings<OfStep>,
    failures: Family<OfFailure, Counter>,
    pulled: Counter,
    tag_checks: Family<OfResult, Counter>,
    api: ApiCounts,
    writes: Histogram,
    containerd: Gauge,
    writable: Gauge,
    losses: Gauge,
    alarms: Family<OfAlarm, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics with every counter at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            containers: Family::default(),
            restarts: Counter::default(),
            memory_kills: Counter::default(),
            loggers_lost: Counter::default(),
            // A look inside takes a tenth of a second, a person's an hour.
            execs: Family::new_with_constructor(|| {
                Histogram::new([0.05, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0, 3600.0])
            }),
            execs_running: Gauge::default(),
            archives: ArchiveCounts::default(),
            capacity: CapacityGauges::default(),
            probes: ProbeCounts::default(),
            jobs: jobs::JobNumbers::default(),
            rollbacks: RollbackCounts::default(),
            link: LinkCounts::default(),
            // A launch takes a few tenths of a second, a pull up to minutes.
            steps: Family::new_with_constructor(|| {
                Histogram::new([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0, 600.0])
            }),
            failures: Family::default(),
            pulled: Counter::default(),
            tag_checks: Family::default(),
            api: ApiCounts::default(),
            // A good disk syncs in half a millisecond, a bad one in tens.
            writes: Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0]),
            containerd: Gauge::default(),
            writable: Gauge::default(),
            losses: Gauge::default(),
            alarms: Family::default(),
        };
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    fn registered(&self) -> Registry {
        let mut all = Registry::with_prefix("chas");
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        all.register("agent_build", "The agent that runs", version);
        self.register_containers(&mut all);
        self.archives.register(&mut all);
        self.capacity.register(&mut all);
        self.probes.register(&mut all);
        self.jobs.register(&mut all);
        self.rollbacks.register(&mut all);
        self.link.register(&mut all);
        self.api.register(&mut all);
        self.register_store_and_runtime(&mut all);
        all
    }

    fn register_containers(&self, all: &mut Registry) {
        all.register(
            "containers",
            "Containers this node is asked to run, by status, as GET /containers shows it",
            self.containers.clone(),
        );
        let again = "Containers started again after they had ended by themselves";
        all.register("restarts", again, self.restarts.clone());
        let killed = "Processes of containers that the kernel killed for want of memory, children among them";
        all.register("memory_kills", killed, self.memory_kills.clone());
        let lost = "Processes that write a container's log and ended before the container did";
        all.register("loggers_lost", lost, self.loggers_lost.clone());
        all.register_with_unit(
            "exec_duration",
            "How long programs ran that were started in containers by exec, by what ended them",
            Unit::Seconds,
            self.execs.clone(),
        );
        let running = "Programs that run in containers now by exec";
        all.register("execs_running", running, self.execs_running.clone());
        all.register_with_unit(
            "step_duration",
            "How long the reconciler's steps took that were done; their count is how many were",
            Unit::Seconds,
            self.steps.clone(),
        );
        all.register(
            "step_failures",
            "Steps of the reconciler that failed and are tried again, by step and reason",
            self.failures.clone(),
        );
        all.register_with_unit(
            "image_received",
            "Layers received from registries, failed tries included; counted when a pull ends",
            Unit::Bytes,
            self.pulled.clone(),
        );
        for result in ["unchanged", "moved", "failed"] {
            drop(self.tag_checks.get_or_create(&OfResult { result }));
        }
        all.register(
            "image_tag_checks",
            "Questions to registries what the tag of a container's image stands for now, by result",
            self.tag_checks.clone(),
        );
    }

    fn register_store_and_runtime(&self, all: &mut Registry) {
        all.register_with_unit(
            "store_write_duration",
            "How long changes of the desired state took until they were safe on the disk",
            Unit::Seconds,
            self.writes.clone(),
        );
        let up = "1 while containerd answers, else 0";
        all.register("containerd_up", up, self.containerd.clone());
        all.register(
            "store_writable",
            "1 while changes of the desired state can be stored, else 0",
            self.writable.clone(),
        );
        let losses =
            "What the last start found lost or damaged of the stored state; /health names it";
        all.register("store_losses", losses, self.losses.clone());
        let alarms = "1 while this alarm stands, else 0";
        all.register("alarm", alarms, self.alarms.clone());
    }

    /// Sets the number of containers that have this status now.
    pub fn containers(&self, status: &'static str, count: usize) {
        self.containers
            .get_or_create(&OfStatus { status })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets whether changes can be stored now, and how many losses the start found.
    pub fn store(&self, writable: bool, losses: usize) {
        self.writable.set(i64::from(writable));
        self.losses.set(i64::try_from(losses).unwrap_or(i64::MAX));
    }

    /// Sets whether an alarm stands now.
    pub fn alarm(&self, alarm: &'static str, stands: bool) {
        let gauge = self.alarms.get_or_create(&OfAlarm { alarm });
        gauge.set(i64::from(stands));
    }

    /// Sets whether containerd answers now.
    pub fn containerd(&self, up: bool) {
        self.containerd.set(i64::from(up));
    }

    /// Counts a restart of a container that had ended by itself.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// Counts processes that the kernel killed for want of memory.
    pub fn killed_for_memory(&self, kills: u64) {
        self.memory_kills.inc_by(kills);
    }

    /// Counts a logger that ended before its container did.
    pub fn logger_lost(&self) {
        self.loggers_lost.inc();
    }

    /// Counts a step that was done.
    pub fn step_done(&self, step: &'static str, took: Duration) {
        self.steps
            .get_or_create(&OfStep { step })
            .observe(took.as_secs_f64());
    }

    /// Shows a failure that may come, and did not yet.
    pub fn know_failure(&self, step: &'static str, reason: &'static str) {
        drop(self.failures.get_or_create(&OfFailure { step, reason }));
    }

    /// Counts a step that failed.
    pub fn step_failed(&self, step: &'static str, reason: &'static str) {
        self.failures
            .get_or_create(&OfFailure { step, reason })
            .inc();
    }

    /// Counts bytes that came from a registry.
    pub fn pulled(&self, bytes: u64) {
        self.pulled.inc_by(bytes);
    }

    /// Counts a question what a tag stands for, by its result.
    pub fn tag_checked(&self, result: &'static str) {
        self.tag_checks.get_or_create(&OfResult { result }).inc();
    }

    /// Counts a change of the desired state that was written.
    pub fn written(&self, took: Duration) {
        self.writes.observe(took.as_secs_f64());
    }

    /// The text of all counts, as OpenMetrics.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

#[cfg(test)]
mod tests;
