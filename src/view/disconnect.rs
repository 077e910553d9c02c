//! Silence of CHaS, and what it means for a container.

use std::time::{Duration, SystemTime};

/// Silence of CHaS, for a container that is stopped for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DisconnectView {
    /// Length that the spec gives.
    pub stop_after: Duration,
    /// Length in force. `None`: the node has no CHaS, and nothing stops it.
    pub in_force: Option<Duration>,
    /// Silence so far. `None`: the node has no CHaS.
    pub silent_for: Option<Duration>,
    /// Time at which the container is stopped, or was to be, if CHaS does not answer.
    pub stops_at: Option<SystemTime>,
}
