//! Capacity of a node, as a scheduler needs it.

use serde::Serialize;
use state::capacity::{Amounts, Capacity};
use state::quantity::CpuMillis;

/// Capacity of a node, and the rest of it for containers that reserve some.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CapacityReport {
    /// CPU time, in cores.
    pub cpu: Shares<f64>,
    /// Memory, in bytes.
    pub memory: Shares<u64>,
}

/// Parts of one resource of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shares<T> {
    /// All of it.
    pub total: T,
    /// The system's part, which no container can reserve.
    pub system: T,
    /// The part that containers reserve. It may be more than there is.
    pub reserved: T,
    /// The part that can still be reserved.
    pub free: T,
}

impl CapacityReport {
    /// The report on this capacity, of which so much is reserved.
    #[must_use]
    pub fn of(capacity: Capacity, reserved: Amounts) -> Self {
        let free = capacity.free(reserved);
        let cores = |amount: CpuMillis| amount.0 as f64 / 1000.0;
        Self {
            cpu: Shares {
                total: cores(capacity.total.cpu),
                system: cores(capacity.system.cpu),
                reserved: cores(reserved.cpu),
                free: cores(free.cpu),
            },
            memory: Shares {
                total: capacity.total.memory.0,
                system: capacity.system.memory.0,
                reserved: reserved.memory.0,
                free: free.memory.0,
            },
        }
    }
}
