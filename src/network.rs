//! The containers' network. Its first and only driver is [`bridge`]; what any driver needs stands beside it.

pub mod bridge;
mod directory;
mod fault;
mod hosts_files;
mod netns;

pub use bridge::{Attached, Network, NetworkConfig, listener_on};
pub use fault::{NetworkError, Part};
