//! Limits of a node, which a change must not break.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::DiskCall;
use crate::assign::HostNetwork;
use crate::capacity::Capacity;

/// Limits of a node: the network places and containers that it has room for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Host ports for containers that leave the choice to the agent.
    pub ports: RangeInclusive<u16>,
    /// The node's network, which answers addresses.
    pub network: Arc<dyn HostNetwork>,
    /// Most containers that are desired at once.
    pub containers_max: usize,
    /// Capacity of the node, into which what containers reserve has to fit.
    pub capacity: Capacity,
    /// Whether a container may ask for `security.no_new_privileges: false`.
    pub new_privileges: bool,
    /// Source of new ids. [`random`](super::random), but for simulations.
    pub random: fn() -> u64,
    /// Whether the disk does what is asked of it. [`sound_disk`](super::sound_disk), but for simulations.
    pub disk: fn(DiskCall) -> std::io::Result<()>,
}
