//! The agent that keeps a node's containers running.

pub mod agent;
pub mod api;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod logs;
pub mod monitor;
pub mod network;
pub mod notify;
pub mod reconcile;
pub mod runtime;
pub mod shutdown;
pub mod telemetry;
