//! The agent that keeps a node's containers running.

pub mod config;
pub mod logs;
pub mod runtime;
