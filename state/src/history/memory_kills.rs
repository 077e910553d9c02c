//! The kernel's kills for want of memory, counted over the runs of a container.

use serde::{Deserialize, Serialize};

use crate::time::BootTime;

/// Processes of a container that the kernel killed for want of memory, children among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryKills {
    /// The kernel's count for the current run, at the last look.
    pub(super) in_run: u64,
    /// All of this generation.
    pub total: u64,
    /// The look that found the last one. `None`: none, or before this boot.
    pub last: Option<BootTime>,
}

impl MemoryKills {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in the kernel's count, and answers by how many it grew. A smaller one is that of
    /// another run.
    pub(super) fn note(&mut self, count: u64, now: BootTime) -> u64 {
        let grown = count.saturating_sub(self.in_run);
        self.in_run = count;
        if grown > 0 {
            (self.total, self.last) = (self.total.saturating_add(grown), Some(now));
        }
        grown
    }
}
