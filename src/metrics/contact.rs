//! Numbers of the contact with CHaS: its silence, and the containers that rest for it.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

/// Silence of CHaS, and what follows from it.
#[derive(Clone, Debug, Default)]
pub(super) struct ContactNumbers {
    silence: Gauge<f64, AtomicU64>,
    suspended: Gauge,
}

impl ContactNumbers {
    pub(super) fn register(&self, all: &mut Registry) {
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
    }
}

impl Metrics {
    /// Shows for how long CHaS has been silent, and how many containers rest for that.
    pub fn show_contact(&self, silent_for: Duration, suspended: usize) {
        self.contact.silence.set(silent_for.as_secs_f64());
        let suspended = i64::try_from(suspended).unwrap_or(i64::MAX);
        self.contact.suspended.set(suspended);
    }
}
