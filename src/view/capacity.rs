//! Capacity of the node, and what of it is given away.

use state::capacity::{Amounts, Capacity};

/// Capacity of the node, what containers reserve of it, and what is used now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapacityView {
    /// Amounts of the node.
    pub capacity: Capacity,
    /// Amounts that containers reserve.
    pub reserved: Amounts,
    /// CPU time per second that is used, by whomever, in cores.
    pub used_cpu: f64,
    /// Memory that is used, by whomever.
    pub used_memory: u64,
    /// Most containers, and containers.
    pub containers: (usize, usize),
}
