//! Last generations of a container, with what changed and how each went.

use state::desired::chronicle::Chapter;

use super::ManagedView;

/// Chronicle of a container.
#[derive(Clone, Debug)]
pub(crate) struct ChronicleView {
    /// The container as it is now.
    pub container: ManagedView,
    /// Generations of it, the newest first.
    pub chapters: Vec<Chapter>,
}
