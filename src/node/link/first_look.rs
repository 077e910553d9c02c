//! The first look at containerd, before which CHaS hears nothing: a node that has only been started is
//! not unhealthy.

use std::time::Duration;

use state::alarm::Weight;
use tokio::time::{sleep, timeout};

use super::AgentLink;

/// Time that the link waits for the look where an alarm says what is in its way.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval of the looks for such an alarm after that.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time that the link waits at most.
const WAIT_MAX: Duration = Duration::from_mins(1);

impl AgentLink {
    /// Waits until containerd was looked at, or does not answer. Not for long where an alarm says what
    /// keeps the agent from looking, and not for ever.
    pub(crate) async fn first_look(&self) {
        let board = self.node.board();
        let mut changes = board.changes();
        let looked = changes.wait_for(|_| board.reachability().is_known());
        let either = async {
            tokio::select! {
                _looked = looked => {}
                () = self.kept_from_it() => {}
            }
        };
        let _without_it = timeout(WAIT_MAX, either).await;
    }

    /// Waits until an alarm says what keeps the agent from looking.
    async fn kept_from_it(&self) {
        sleep(PATIENCE).await;
        let is_told = || {
            let mut alarms = self.node.journal.alarms().into_iter();
            alarms.any(|kept| kept.alarm.weight() == Weight::Disabling)
        };
        while !is_told() {
            sleep(LOOK_EVERY).await;
        }
    }
}
