//! Processes of a container.

use std::sync::Arc;

use state::desired::Record;

use crate::monitor::processes::ContainerProcess;

/// Processes of a container that runs.
#[derive(Clone, Debug)]
pub(crate) struct ProcessesView {
    /// The desired entry.
    pub record: Arc<Record>,
    /// The generation that was looked at.
    pub generation: u64,
    /// Processes, by their numbers in the container.
    pub processes: Vec<ContainerProcess>,
    /// Whether there are more of them.
    pub is_cut: bool,
}
