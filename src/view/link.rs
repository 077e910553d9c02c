//! The node's link to CHaS.

use std::time::SystemTime;

/// The node's link to CHaS.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// CHaS answers.
    pub reachable: bool,
    /// The time since which it does, or does not.
    pub since: SystemTime,
    /// The error of the last call that failed; `None` while calls succeed.
    pub error: Option<String>,
    /// CHaS took the node's registration.
    pub registered: bool,
    /// Another node has this node's id.
    pub identity_conflict: bool,
    /// CHaS did not confirm, when it was asked last, that the stored set is the one that it lists.
    pub stale: bool,
    /// Seconds since it confirmed that. `None`: not since the agent started.
    pub age_s: Option<u64>,
    /// The fault of the set that it answered last, if that was invalid.
    pub fault: Option<String>,
    /// The generation of the stored set.
    pub generation: Option<u64>,
    /// Containers that CHaS owns.
    pub owned: usize,
    /// Names that wait for a confirmation before they end.
    pub pending_prune: Vec<String>,
    /// The node takes nothing new.
    pub cordoned: bool,
    /// Names about which push and CHaS differed.
    pub conflicts: usize,
    /// Entries of the set that could not be taken.
    pub rejected: usize,
}
