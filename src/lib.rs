//! The agent that keeps a node's containers running.

pub mod backoff;
pub mod network;
pub mod runtime;
