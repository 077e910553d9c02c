//! Lines of the log about one kind of data: when its sending begins to fail, once a minute while it does
//! or anything is lost, and when it works again.

use std::time::Duration;

use tokio::time::Instant;

/// Time between two lines about a fault that lasts.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Faults of the sending of one kind of data.
#[derive(Debug)]
pub(super) struct SignalLog {
    signal: &'static str,
    host: String,
    is_failing: bool,
    told_at: Option<Instant>,
    lost: u64,
    fault: String,
}

impl SignalLog {
    pub(super) fn new(signal: &'static str, host: &str) -> Self {
        Self {
            signal,
            host: host.to_owned(),
            is_failing: false,
            told_at: None,
            lost: 0,
            fault: String::new(),
        }
    }

    /// Notes a failed call.
    pub(super) fn failed(&mut self, fault: &str) {
        fault.clone_into(&mut self.fault);
        self.is_failing = true;
        self.tell();
    }

    /// Notes that items were lost.
    pub(super) fn lost(&mut self, count: u64) {
        self.lost = self.lost.saturating_add(count);
        if self.lost > 0 {
            self.tell();
        }
    }

    /// Notes that items were refused.
    pub(super) fn refused(&mut self, count: u64, fault: &str) {
        if count > 0 {
            fault.clone_into(&mut self.fault);
            self.lost(count);
        }
    }

    /// Notes that a call succeeded.
    pub(super) fn worked(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            self.fault.clear();
            tracing::info!(
                signal = self.signal,
                host = self.host,
                "OTLP export works again"
            );
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        if self.told_at.is_some_and(|at| now - at < AGAIN_AFTER) {
            return;
        }
        self.told_at = Some(now);
        let (lost, error) = (std::mem::take(&mut self.lost), self.fault.as_str());
        tracing::warn!(
            signal = self.signal,
            host = self.host,
            lost,
            error,
            "OTLP export failed"
        );
    }
}
