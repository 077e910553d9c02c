//! The real runtime: containerd over gRPC, with the agent's own network.

pub mod client;
