//! The real runtime: containerd over gRPC, with the agent's own network.

pub mod client;
mod content;
mod durable;
pub mod image;
mod lease;
pub mod registry;
mod unpack;
