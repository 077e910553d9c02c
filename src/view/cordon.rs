//! Cordon and drain of the node.

use state::cordon::{CordonedBy, OperatorCordon};
use state::id::ContainerName;

/// Cordon of the node, and how far a drain has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct CordonView {
    /// Holders.
    pub by: CordonedBy,
    /// The operator's order. `None`: none stands.
    pub operator: Option<OperatorCordon>,
    /// Containers that still run on a node that is drained.
    pub left: Vec<LeftView>,
    /// Cause for which more may run on a node that is drained than is known. `None`: all is known.
    pub unsure: Option<String>,
}

impl CordonView {
    /// Whether the node is drained, and nothing runs any more that a drain stops, as far as
    /// all of it is known.
    #[must_use]
    pub(crate) fn is_drained(&self) -> bool {
        let is_ordered = self
            .operator
            .as_ref()
            .is_some_and(|one| one.drained_ms.is_some());
        is_ordered && self.unsure.is_none() && self.left.iter().all(|left| left.stays)
    }
}

/// Container that runs on a node that is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftView {
    /// Name, or the id of one that is not managed.
    pub name: String,
    /// The same, of a managed one.
    pub managed: Option<ContainerName>,
    /// Cause for which it runs, in a sentence.
    pub why: String,
    /// Whether the drain leaves it running.
    pub stays: bool,
}
