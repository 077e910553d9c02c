//! The node's resources and their use, sampled in the background at a slow pace; reading them costs
//! nothing.
//!
//! This room knows no other: not which containers there are, nor whether the node is healthy.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub(crate) mod kernel;
pub(crate) mod links;
pub(crate) mod processes;
mod sample;

use sample::Sampler;

/// Pause before the second sample: CPU usage is the difference of two samples, and the first needs
/// a second one soon, but not within the kernel's tick.
const SECOND_SAMPLE: Duration = Duration::from_millis(500);

/// The node's resources, and their use. Bytes are bytes, percentages 0 to 100.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    /// Logical processors.
    pub cpu_cores: usize,
    /// CPU usage of all processors together, between the last two samples.
    pub cpu_usage_percent: f64,
    /// Share of the memory that is not available.
    pub memory_usage_percent: f64,
    /// The node's memory.
    pub memory_total_bytes: u64,
    /// Memory that a new process could have without swapping (`MemAvailable`).
    pub memory_available_bytes: u64,
    /// The size of the file system that holds the monitored path.
    pub disk_total_bytes: u64,
    /// Free space for the agent there (statvfs(3), `f_bavail`). 0 if it cannot be asked.
    pub disk_available_bytes: u64,
    /// Files that the file system has room for. 0: it does not count them, or cannot be asked.
    pub disk_inodes_total: u64,
    /// Files that can still be created there (statvfs(3), `f_favail`).
    pub disk_inodes_available: u64,
    /// Load average over 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
    /// Time since boot, suspension included.
    pub uptime_seconds: u64,
    /// The node's own network interfaces, by name; not those of containers and virtual machines.
    pub interfaces: Vec<Interface>,
}

impl NodeFacts {
    /// The free disk space as the specification writes it: `50GB`.
    #[must_use]
    pub(crate) fn disk_available(&self) -> String {
        size_text(self.disk_available_bytes)
    }
}

/// A network interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// The name.
    pub name: String,
    /// Whether the interface can carry packets (loopback and tunnels, which do not tell, count as
    /// up).
    pub up: bool,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Bytes received since the interface exists.
    pub received_bytes: u64,
    /// Bytes sent since the interface exists.
    pub sent_bytes: u64,
}

/// The node's facts cannot be sampled.
#[derive(Debug, thiserror::Error)]
#[error("the node's resources cannot be read")]
pub(crate) struct MonitorError(#[from] sysinfo::Error);

/// The last sample of the node's facts; [`Monitor::run`] keeps it fresh.
#[derive(Debug)]
pub(crate) struct Monitor {
    facts: watch::Sender<NodeFacts>,
    sampler: std::sync::Mutex<Option<Sampler>>,
}

impl Monitor {
    /// Takes a first sample. `disk` is a path on the file system that fills up with containers (it
    /// may not exist yet). Blocks for some milliseconds.
    ///
    /// # Errors
    /// `/proc` or `/sys` cannot be read.
    pub(crate) fn new(disk: PathBuf) -> Result<Self, MonitorError> {
        let mut sampler = Sampler::new(disk)?;
        let facts = watch::Sender::new(sampler.sample());
        Ok(Self {
            facts,
            sampler: std::sync::Mutex::new(Some(sampler)),
        })
    }

    /// The facts of the last sample, at most an interval old; the uptime is that of now.
    #[must_use]
    pub(crate) fn snapshot(&self) -> NodeFacts {
        let mut facts = self.facts.borrow().clone();
        facts.uptime_seconds = u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0);
        facts
    }

    /// The facts, of which every sample is heard.
    #[must_use]
    pub(crate) fn watch(&self) -> watch::Receiver<NodeFacts> {
        self.facts.subscribe()
    }

    /// Samples every `interval` until cancelled. Running it twice at once is a fault; the second
    /// ends at once.
    pub(crate) async fn run(&self, interval: Duration, cancel: CancellationToken) {
        let taken = self
            .sampler
            .lock()
            .ok()
            .and_then(|mut sampler| sampler.take());
        let Some(mut sampler) = taken else { return };
        let mut ticks = tokio::time::interval_at(
            tokio::time::Instant::now() + SECOND_SAMPLE.min(interval),
            interval,
        );
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            // A file system that hangs must not take a worker of the runtime with it.
            let sampled = tokio::task::spawn_blocking(move || {
                let facts = sampler.sample();
                (sampler, facts)
            });
            let Some(Ok((returned, facts))) = cancel.run_until_cancelled(sampled).await else {
                return;
            };
            sampler = returned;
            self.facts.send_replace(facts);
        }
    }
}

/// A size as the specification writes it: `50GB`, or `512MB` below one. Powers of 1024, to the
/// nearest.
#[must_use]
pub(crate) fn size_text(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1 << 30 {
        (1 << 30, "GB")
    } else {
        (1 << 20, "MB")
    };
    format!("{}{name}", bytes.saturating_add(unit / 2) / unit)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn sizes_are_as_the_specification_writes_them() {
        let table = [
            (0, "0MB"),
            (512 << 20, "512MB"),
            (1 << 30, "1GB"),
            (50 << 30, "50GB"),
            (8_250_000_000, "8GB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size_text(bytes), text);
        }
        assert!(size_text(u64::MAX).ends_with("GB"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_facts_are_this_nodes_and_stay_fresh() {
        let monitor = Arc::new(Monitor::new("/nonexistent/yet".into()).unwrap());
        let facts = monitor.snapshot();
        assert!(facts.cpu_cores > 0 && facts.uptime_seconds > 0);
        assert!(
            facts.memory_available_bytes > 0
                && facts.memory_available_bytes < facts.memory_total_bytes
        );
        assert!(
            facts.disk_available_bytes > 0 && facts.disk_available_bytes <= facts.disk_total_bytes
        );
        assert!((0.0..=100.0).contains(&facts.memory_usage_percent));
        let lo = facts
            .interfaces
            .iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert!(lo.addresses.contains(&IpAddr::from([127, 0, 0, 1])));

        let cancel = CancellationToken::new();
        let mut changes = monitor.facts.subscribe();
        let running = monitor.run(Duration::from_secs(30), cancel.clone());
        let watching = async {
            for _ in 0..3 {
                changes.changed().await.unwrap();
                assert!((0.0..=100.0).contains(&changes.borrow().cpu_usage_percent));
            }
            cancel.cancel();
        };
        tokio::join!(running, watching);
    }
}
