//! The agent on a real containerd, registry, network and kernel. Needs root and what `contrib/test` installs.

#![allow(
    clippy::too_many_lines,
    reason = "a row of a table stands over several lines"
)]

#[cfg(test)]
#[allow(
    dead_code,
    reason = "the harness also serves tests that are not written yet"
)]
mod harness;

#[cfg(test)]
#[allow(dead_code, reason = "a process of its own uses more of it")]
#[path = "../../examples/chas-api/server.rs"]
mod chas_api;

#[cfg(test)]
mod after;

#[cfg(test)]
mod ahead;

#[cfg(test)]
mod apart;

#[cfg(test)]
mod attack;

#[cfg(test)]
mod audit;

#[cfg(test)]
mod bundle;

#[cfg(test)]
mod capacity;

#[cfg(test)]
mod chas;

#[cfg(test)]
mod client;

#[cfg(test)]
mod confined;

#[cfg(test)]
mod cycles;

#[cfg(test)]
mod declared;

#[cfg(test)]
mod devices;

#[cfg(test)]
mod disconnect;

#[cfg(test)]
mod disk;

#[cfg(test)]
mod doctor;

#[cfg(test)]
mod doors;

#[cfg(test)]
mod events;

#[cfg(test)]
mod exec;

#[cfg(test)]
mod health;

#[cfg(test)]
mod images;

#[cfg(test)]
mod inside;

#[cfg(test)]
mod jobs;

#[cfg(test)]
mod killed_shims;

#[cfg(test)]
mod knobs;

#[cfg(test)]
mod lifecycle;

#[cfg(test)]
mod live;

#[cfg(test)]
mod loggers;

#[cfg(test)]
mod maintenance;

#[cfg(test)]
mod memory;

#[cfg(test)]
mod metrics;
mod monitoring;

#[cfg(test)]
mod network;

#[cfg(test)]
mod nodes;

#[cfg(test)]
mod orders;

#[cfg(test)]
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(test)]
mod own;

#[cfg(test)]
mod policy;

#[cfg(test)]
mod pull;

#[cfg(test)]
mod reasons;

#[cfg(test)]
mod repair;

#[cfg(test)]
mod rights;

#[cfg(test)]
mod secrets;

#[cfg(test)]
mod stand;

#[cfg(test)]
mod signed;

#[cfg(test)]
mod state;

#[cfg(test)]
mod tags;

#[cfg(test)]
mod tasks;

#[cfg(test)]
mod testbed;

#[cfg(test)]
mod uninstall;

#[cfg(test)]
mod unit;

#[cfg(test)]
mod unresponsive;

#[cfg(test)]
mod updates;

#[cfg(test)]
mod usage;

#[cfg(test)]
mod upgrade;

#[cfg(test)]
mod volumes;

#[cfg(test)]
mod words;

#[cfg(test)]
mod workloads;
