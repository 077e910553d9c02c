//! Container that is probed, with the probe of it that is under way, which ends with it.

use futures_util::future::AbortHandle;
use tokio::time::Instant;

use super::ProbeOrder;

/// Container that is probed.
#[derive(Debug)]
pub(super) struct ProbedContainer {
    pub(super) wanted: ProbeOrder,
    /// Number of its next probe; an answer to an earlier one is of another run.
    pub(super) number: u64,
    /// Start of the probe under way, and its end.
    pub(super) asking: Option<(Instant, AbortHandle)>,
    /// Whether it has answered well in this run.
    pub(super) has_succeeded: bool,
}

impl Drop for ProbedContainer {
    fn drop(&mut self) {
        if let Some((_, under_way)) = &self.asking {
            under_way.abort();
        }
    }
}
