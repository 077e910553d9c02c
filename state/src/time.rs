//! Time since the node's boot. Nothing in this crate reads a clock: whoever decides passes `now`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time since the node's boot (`CLOCK_BOOTTIME`): no step of the wall clock moves it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// The point `wait` later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// The length from `earlier` to this point; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}
