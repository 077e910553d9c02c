//! Use of the node's resources by containers.

use std::sync::Arc;
use std::time::SystemTime;

use state::desired::Record;
use tokio::time::Instant;

use crate::cgroup::usage::GroupUsage;
use crate::logs::counts::LogCounts;
use crate::monitor::links::LinkUsage;

/// Use by a container. All parts but the log are `None` while it does not run.
#[derive(Clone, Debug)]
pub(crate) struct UsageView {
    /// The desired entry.
    pub record: Arc<Record>,
    /// The generation that was looked at. `None`: none runs.
    pub generation: Option<u64>,
    /// The time of the look.
    pub taken: SystemTime,
    /// The same by a clock that nobody sets.
    pub taken_at: Instant,
    /// CPU, memory, processes and disks.
    pub group: GroupUsage,
    /// Network, as the container sees it. `None`: it has none of its own, or does not run.
    pub network: Option<LinkUsage>,
    /// Output, over all runs of the generation, also while it does not run. `None`: its logger does not
    /// count.
    pub log: Option<LogCounts>,
}

impl UsageView {
    /// CPU time per second since an earlier look at the same process, in cores. `None`: it was
    /// another one, or the kernel does not count.
    #[must_use]
    pub(crate) fn cores_since(&self, before: &Self) -> Option<f64> {
        let (now, then) = (self.group.cpu.as_ref()?, before.group.cpu.as_ref()?);
        let passed = self.taken_at.duration_since(before.taken_at);
        if self.generation != before.generation || passed.is_zero() {
            return None;
        }
        // A group that was made anew counts from 0.
        let used = now.total.checked_sub(then.total)?;
        Some(used.as_secs_f64() / passed.as_secs_f64())
    }
}
