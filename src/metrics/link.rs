//! Counts of the calls to CHaS; its silence, and the containers that rest for it.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Metrics, OfResult};

/// Results of calls that CHaS answered as it should; all others are failures.
const SUCCESSES: [&str; 2] = ["taken", "unchanged"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    call: &'static str,
}

/// Counts of the link to CHaS.
#[derive(Clone, Debug, Default)]
pub(super) struct LinkCounts {
    polls: Family<OfResult, Counter>,
    reports: Family<OfResult, Counter>,
    succeeded: Family<OfCall, Gauge<f64, AtomicU64>>,
    up: Gauge,
    unconfirmed: Gauge,
    cordoned: Gauge,
    silence: Gauge<f64, AtomicU64>,
    suspended: Gauge,
}

impl LinkCounts {
    pub(super) fn register(&self, all: &mut Registry) {
        let polls = "Times that CHaS was asked what should run, by what came of it";
        all.register("link_polls", polls, self.polls.clone());
        let reports = "Reports to CHaS, by what came of them";
        all.register("link_reports", reports, self.reports.clone());
        all.register_with_unit(
            "link_last_success_timestamp",
            "When a call to CHaS did last what it should, since 1970, by call; 0: not since the agent started",
            Unit::Seconds,
            self.succeeded.clone(),
        );
        let up = "1 while CHaS answers, else 0; 0 where none is configured";
        all.register("link_up", up, self.up.clone());
        let unconfirmed = "Containers that CHaS no longer lists, or lists otherwise, and that wait for a confirmation";
        all.register("link_pending_prune", unconfirmed, self.unconfirmed.clone());
        let cordoned = "1 while the node takes no new containers, else 0";
        all.register("cordoned", cordoned, self.cordoned.clone());
        all.register_with_unit(
            "link_silence",
            "Time since the last answer of CHaS, in boot time and over reboots; 0 without a CHaS",
            Unit::Seconds,
            self.silence.clone(),
        );
        all.register(
            "containers_disconnected",
            "Containers that are stopped since CHaS does not answer (on_disconnect.stop_after)",
            self.suspended.clone(),
        );
        for call in ["register", "poll", "report"] {
            drop(self.succeeded.get_or_create(&OfCall { call }));
        }
        for result in SUCCESSES.into_iter().chain(["away"]) {
            drop(self.polls.get_or_create(&OfResult { result }));
        }
        for result in ["taken", "away"] {
            drop(self.reports.get_or_create(&OfResult { result }));
        }
    }
}

impl Metrics {
    /// Counts a poll of CHaS that ended.
    pub fn polled(&self, result: &'static str) {
        self.link.polls.get_or_create(&OfResult { result }).inc();
        self.chas_answered("poll", result);
    }

    /// Counts a report to CHaS that ended.
    pub fn reported(&self, result: &'static str) {
        self.link.reports.get_or_create(&OfResult { result }).inc();
        self.chas_answered("report", result);
    }

    /// Notes that CHaS accepted the node's registration.
    pub fn registered_at_chas(&self) {
        self.chas_answered("register", "taken");
    }

    fn chas_answered(&self, call: &'static str, result: &str) {
        if SUCCESSES.contains(&result) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let succeeded = self.link.succeeded.get_or_create(&OfCall { call });
            succeeded.set(now.unwrap_or_default().as_secs_f64());
        }
    }

    /// Sets whether CHaS answers now, how many containers wait for a confirmation, and whether the
    /// node takes new containers.
    pub fn link(&self, up: bool, unconfirmed: usize, cordoned: bool) {
        self.link.up.set(i64::from(up));
        let unconfirmed = i64::try_from(unconfirmed).unwrap_or(i64::MAX);
        self.link.unconfirmed.set(unconfirmed);
        self.link.cordoned.set(i64::from(cordoned));
    }

    /// Shows for how long CHaS has been silent, and how many containers rest for that.
    pub fn show_contact(&self, silent_for: Duration, suspended: usize) {
        self.link.silence.set(silent_for.as_secs_f64());
        let suspended = i64::try_from(suspended).unwrap_or(i64::MAX);
        self.link.suspended.set(suspended);
    }
}
