//! What the reconciler knows, for those who show it, and the clock that it goes by.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use state::id::ContainerId;
use state::memory::{BootTime, Memory};
use state::observed::Seen;
use state::reason::Reason;
use state::status::Activity;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::lock::lock;
use crate::runtime::{Foreign, PullProgress};

/// Errors kept for `/health`.
const ERRORS_MAX: usize = 20;

/// Time since boot, from a clock that tests can stop: tokio's, from the moment the agent started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at_start: Duration,
    start: Instant,
    boot_id: u128,
}

impl Clock {
    /// A clock that shows `CLOCK_BOOTTIME` now and goes on from there.
    #[must_use]
    pub fn start() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id =
            u128::from_str_radix(&boot_id.trim().replace('-', ""), 16).unwrap_or_default();
        Self::at(Duration::try_from(time).unwrap_or_default(), boot_id)
    }

    /// A clock that shows `at_start` now, in the boot with this id.
    #[must_use]
    pub fn at(at_start: Duration, boot_id: u128) -> Self {
        Self {
            at_start,
            start: Instant::now(),
            boot_id,
        }
    }

    /// Which boot of the node its times are of.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("{:032x}", self.boot_id)
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> BootTime {
        BootTime(self.at_start + self.start.elapsed())
    }

    /// The wall time at `point`, for showing.
    #[must_use]
    pub fn wall(&self, point: BootTime) -> SystemTime {
        let now = self.now();
        SystemTime::now() + point.since(now) - now.since(point)
    }
}

/// What is known of one container beyond its record.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What the last look found.
    pub seen: Seen,
    /// What happened to it lately.
    pub memory: Memory,
    /// What is being done for it.
    pub activity: Option<Activity>,
    /// How far its pull is.
    pub pull: Option<Arc<PullProgress>>,
}

/// Something that went wrong, for `/health`.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When.
    pub at: SystemTime,
    /// Its code.
    pub reason: Reason,
    /// What happened, with the container's name.
    pub message: String,
}

/// Whether the runtime answers, and since when it does or does not.
#[derive(Clone, Debug)]
pub struct Reachability {
    /// It answers.
    pub reachable: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// What it said last when it did not.
    pub error: Option<String>,
}

/// What the reconciler knows, shared with those who show it.
#[derive(Debug)]
pub struct Board {
    pub(super) known: Mutex<BTreeMap<ContainerId, Known>>,
    foreign: Mutex<Vec<Foreign>>,
    troubles: Mutex<VecDeque<Trouble>>,
    reachability: Mutex<Reachability>,
    changes: watch::Sender<u64>,
    /// The time everything is measured in.
    pub clock: Clock,
}

impl Board {
    pub(super) fn new(clock: Clock) -> Self {
        let reachability = Reachability {
            reachable: false,
            since: SystemTime::now(),
            error: Some("not asked yet".to_owned()),
        };
        Self {
            known: Mutex::default(),
            foreign: Mutex::default(),
            troubles: Mutex::default(),
            reachability: Mutex::new(reachability),
            changes: watch::Sender::new(0),
            clock,
        }
    }

    /// What is known of one container; nothing, if it was never looked at.
    #[must_use]
    pub fn known(&self, id: ContainerId) -> Known {
        lock(&self.known).get(&id).cloned().unwrap_or_default()
    }

    /// The containers of which anything is known.
    #[must_use]
    pub fn known_ids(&self) -> Vec<ContainerId> {
        lock(&self.known).keys().copied().collect()
    }

    /// Containers in our namespace that are not ours.
    #[must_use]
    pub fn foreign(&self) -> Vec<Foreign> {
        lock(&self.foreign).clone()
    }

    /// What went wrong lately, oldest first.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        lock(&self.troubles).iter().cloned().collect()
    }

    /// Whether the runtime answers.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        lock(&self.reachability).clone()
    }

    /// A number that grows whenever anything on the board changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells those who watch that something changed.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(super) fn update<T>(&self, id: ContainerId, update: impl FnOnce(&mut Known) -> T) -> T {
        let result = update(lock(&self.known).entry(id).or_default());
        self.changed();
        result
    }

    pub(super) fn set_foreign(&self, foreign: Vec<Foreign>) {
        *lock(&self.foreign) = foreign;
    }

    pub(super) fn drop_known(&self, id: ContainerId) {
        lock(&self.known).remove(&id);
        self.changed();
    }

    pub(super) fn trouble(&self, reason: Reason, message: String) {
        let mut troubles = lock(&self.troubles);
        if troubles.len() == ERRORS_MAX {
            troubles.pop_front();
        }
        troubles.push_back(Trouble {
            at: SystemTime::now(),
            reason,
            message,
        });
    }

    pub(super) fn reached(&self, error: Option<String>) {
        let mut now = lock(&self.reachability);
        // Before the first answer or refusal it is neither: the first of either is news too.
        let is_news = if error.is_none() {
            !now.reachable
        } else {
            now.error.is_none()
        };
        if is_news {
            match &error {
                None => tracing::info!("containerd answers"),
                Some(error) => tracing::warn!(%error, "containerd does not answer"),
            }
            now.since = SystemTime::now();
        }
        (now.reachable, now.error) = (error.is_none(), error);
        drop(now);
        self.changed();
    }
}
