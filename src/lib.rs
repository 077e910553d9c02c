//! The agent that keeps a node's containers running.

pub mod network;
pub mod runtime;
