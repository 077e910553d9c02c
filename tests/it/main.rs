//! The reconciler, queue, plan and real store on the in-memory runtime, in virtual time; and the example of a CHaS API.

#![allow(
    clippy::too_many_lines,
    reason = "a row of a table stands over several lines"
)]

use chas_node_agent::runtime;

#[cfg(test)]
#[path = "../support/memory_runtime.rs"]
mod memory_runtime;

#[cfg(test)]
#[path = "../support/script.rs"]
mod script;

#[cfg(test)]
mod chas_api;

#[cfg(test)]
mod command;

#[cfg(test)]
mod contract;

#[cfg(test)]
mod cycles;

#[cfg(test)]
mod examples;

#[cfg(test)]
mod health;

#[cfg(test)]
mod house_log;

#[cfg(test)]
mod house_rules;
mod house_words;

#[cfg(test)]
mod live;

#[cfg(test)]
mod monitoring;

#[cfg(test)]
mod node;

#[cfg(test)]
mod order;

#[cfg(test)]
mod pages;

#[cfg(test)]
mod policy;

#[cfg(test)]
mod probes_cost;

#[cfg(test)]
mod quickstart;

#[cfg(test)]
mod reasons;

#[cfg(test)]
mod reconcile;

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tags;

#[cfg(test)]
mod updates;

#[cfg(test)]
#[cfg(not(feature = "otlp"))]
mod without_otlp;
