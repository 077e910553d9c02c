//! The agent that keeps a node's containers running.

pub mod logs;
pub mod runtime;
