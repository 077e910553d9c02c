//! The clock that the reconciler goes by.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use state::time::BootTime;
use tokio::time::Instant;

/// Time since boot, from a clock that tests can stop: tokio's, from the moment the agent started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at_start: Duration,
    start: Instant,
    boot_id: u128,
    /// Wall time at the start, where it goes on from there, and the seconds by which it was set on
    /// since. `None`: the host's own.
    wall: Option<(SystemTime, &'static AtomicI64)>,
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
            wall: None,
        }
    }

    /// The same, on a node whose wall shows `at` now, and whose wall clock nobody sets.
    #[must_use]
    pub fn with_wall(self, at: SystemTime) -> Self {
        static NEVER_SET: AtomicI64 = AtomicI64::new(0);
        self.with_wall_set(at, &NEVER_SET)
    }

    /// The same, on a node whose wall clock is set on by so many seconds from now on, or (below 0) back.
    #[must_use]
    pub fn with_wall_set(self, at: SystemTime, seconds: &'static AtomicI64) -> Self {
        Self {
            wall: Some((at, seconds)),
            ..self
        }
    }

    /// The wall time now, which anybody may set. Only schedules go by it.
    #[must_use]
    pub fn wall_now(&self) -> SystemTime {
        let Some((at, set)) = self.wall else {
            return SystemTime::now();
        };
        let set = set.load(Ordering::Relaxed);
        let by = Duration::from_secs(set.unsigned_abs());
        let goes_on = at + self.start.elapsed();
        match set < 0 {
            true => goes_on - by,
            false => goes_on + by,
        }
    }

    /// The boot of the node that its times are of.
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
        self.wall_now() + point.since(now) - now.since(point)
    }
}
