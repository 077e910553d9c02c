//! The node's link to CHaS.

use std::time::{Duration, SystemTime};

/// The node's link to CHaS.
#[derive(Clone, Debug)]
pub(crate) struct LinkView {
    /// Whether CHaS answers.
    pub reachable: bool,
    /// The time since which CHaS answers, or does not.
    pub since: SystemTime,
    /// The error of the last call that failed; `None` while calls succeed.
    pub error: Option<String>,
    /// The time of the first failed call since one succeeded. `None`: the last one succeeded, or
    /// none was made yet.
    pub failing_since: Option<SystemTime>,
    /// Whether CHaS refuses the node, which takes a person to change.
    pub refuses: bool,
    /// Time since the last answer, over restarts of agent and node. `None`: unknown.
    pub silent_for: Option<Duration>,
    /// Whether CHaS accepted the node's registration.
    pub registered: bool,
    /// Whether another node uses this node's id.
    pub identity_conflict: bool,
    /// Whether the last poll failed to confirm the stored set as the one that CHaS lists.
    pub stale: bool,
    /// Seconds since CHaS confirmed the stored set. `None`: not since the agent started.
    pub age_s: Option<u64>,
    /// The error of the set that CHaS answered last, if that was invalid.
    pub fault: Option<String>,
    /// The code of that error.
    pub fault_code: Option<&'static str>,
    /// The time since which it is so.
    pub fault_since: Option<SystemTime>,
    /// The generation of the stored set.
    pub generation: Option<u64>,
    /// Containers that CHaS owns.
    pub owned: usize,
    /// Containers whose removal awaits a confirmation.
    pub pending_prune: Vec<String>,
    /// Epoch and generation of a signed set that is refused, since the node left its epoch.
    pub refused: Option<(String, u64)>,
    /// Whether the node is cordoned: it starts no new containers.
    pub cordoned: bool,
    /// Names about which push and CHaS differed.
    pub conflicts: usize,
    /// Entries of the set that could not be applied.
    pub rejected: usize,
}
