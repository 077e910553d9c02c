//! `POST /nodes/register`: what the node says of itself, and what CHaS answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{SCHEMA, pace};

/// `POST /nodes/register`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registration {
    /// The node's name.
    pub node_id: String,
    /// Its hostname.
    pub hostname: String,
    /// Where its agent can be reached.
    pub ip_address: Option<IpAddr>,
    /// The port of its agent's API.
    pub port: u16,
    /// What it has.
    pub resources: Capacity,
    /// Tells two nodes of one name apart.
    pub instance_uuid: String,
    /// The boot.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: &'static str,
    /// What of this interface the agent speaks.
    pub api: Speaks,
    /// What schedulers choose by.
    pub labels: BTreeMap<String, String>,
}

/// What a node has, in the words of the specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    /// Logical processors.
    pub cpu_cores: usize,
    /// As in `8GB`.
    pub memory_total: String,
    /// As in `100GB`.
    pub disk_total: String,
}

/// What of this interface the agent speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Speaks {
    /// The newest schema of the desired state.
    pub desired_state: u64,
}

impl Default for Speaks {
    fn default() -> Self {
        Self {
            desired_state: SCHEMA,
        }
    }
}

/// CHaS's answer to a registration. It may be empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Welcome {
    /// What the node is to present from now on.
    pub token: Option<String>,
    /// Between polls that are not held, in seconds.
    pub poll_after_s: Option<u64>,
    /// Between reports, in seconds.
    pub health_after_s: Option<u64>,
    /// Nodes in the cluster.
    pub cluster_size: Option<u64>,
    /// CHaS keeps what it was told: a report in which nothing changed may say just that.
    pub report_changes: bool,
}

impl Welcome {
    /// Between polls that are not held.
    #[must_use]
    pub fn poll_after(&self) -> Option<Duration> {
        pace(self.poll_after_s)
    }

    /// Between reports.
    #[must_use]
    pub fn health_after(&self) -> Option<Duration> {
        pace(self.health_after_s)
    }
}
