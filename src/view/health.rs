//! The node's health.

use std::time::SystemTime;

use state::reason::Reason;

use super::LinkView;
use crate::monitor::NodeFacts;

/// The node's health.
#[derive(Clone, Debug)]
pub(crate) struct HealthView {
    /// The node's resources.
    pub facts: NodeFacts,
    /// Managed containers that run.
    pub running: usize,
    /// Managed containers that are neither running nor stopped.
    pub unsettled: usize,
    /// Whether containerd answers.
    pub containerd: bool,
    /// The time since which containerd answers, or does not.
    pub containerd_since: SystemTime,
    /// The error of the last call that containerd did not answer; `None` while it does.
    pub containerd_error: Option<String>,
    /// Whether changes can be stored.
    pub writable: bool,
    /// Whether the state is being rebuilt: the stored one was damaged, and the records in
    /// containerd's labels are not adopted yet.
    pub rebuilding: bool,
    /// Losses and damage of the stored state that the start found, in sentences.
    pub losses: Vec<String>,
    /// The last errors, oldest first.
    pub errors: Vec<ErrorView>,
    /// The link to CHaS. `None`: none is configured.
    pub link: Option<LinkView>,
}

/// An error of the last hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorView {
    /// The time of the error.
    pub at: SystemTime,
    /// The reason code.
    pub reason: Reason,
    /// The error in a sentence, with the container's name in front.
    pub message: String,
}

impl HealthView {
    /// The health in a word. An unreachable CHaS is no fault of the node.
    #[must_use]
    pub(crate) fn status(&self) -> &'static str {
        let conflicts = |link: &LinkView| link.identity_conflict;
        let is_itself = !self.link.as_ref().is_some_and(conflicts);
        let is_sound = self.writable && !self.rebuilding && is_itself;
        if !self.containerd {
            "unhealthy"
        } else if is_sound && self.unsettled == 0 {
            "healthy"
        } else {
            "degraded"
        }
    }
}
