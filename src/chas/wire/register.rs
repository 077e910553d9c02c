//! `POST /nodes/register`: the node's facts, and the answer of CHaS.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CapacityReport, SCHEMA, interval};

/// Body of `POST /nodes/register`: the node's facts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Registration {
    /// Name of the node in CHaS.
    pub node_id: String,
    /// Hostname of the node.
    pub hostname: String,
    /// Address at which the agent's API can be reached.
    pub ip_address: Option<IpAddr>,
    /// Port of the agent's API.
    pub port: u16,
    /// Capacity of the node.
    pub resources: NodeCapacity,
    /// Capacity of the node for containers that reserve some of it.
    pub capacity: CapacityReport,
    /// Random id of the installation; tells two nodes with one `node_id` apart.
    pub instance_uuid: String,
    /// Id of the current boot.
    pub boot_id: String,
    /// Version of the agent.
    pub agent_version: &'static str,
    /// Versions of this API that the agent speaks.
    pub api: SupportedSchemas,
    /// Labels by which schedulers choose nodes.
    pub labels: BTreeMap<String, String>,
}

/// The capacity of a node, in the units of the specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeCapacity {
    /// Number of logical processors.
    pub cpu_cores: usize,
    /// Memory, such as `8GB`.
    pub memory_total: String,
    /// Disk space, such as `100GB`.
    pub disk_total: String,
}

/// Schema versions that the agent speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SupportedSchemas {
    /// Newest schema of the desired state.
    pub desired_state: u64,
}

impl Default for SupportedSchemas {
    fn default() -> Self {
        Self {
            desired_state: SCHEMA,
        }
    }
}

/// The answer of CHaS to a registration. It may be empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RegisterReply {
    /// Token for later calls. `None`: the node keeps the one it has.
    pub token: Option<String>,
    /// Interval between polls that are not kept open, in seconds.
    pub poll_after_s: Option<u64>,
    /// Interval between reports, in seconds.
    pub health_after_s: Option<u64>,
    /// Number of nodes in the cluster.
    pub cluster_size: Option<u64>,
    /// Whether CHaS keeps reports, so that one in which nothing changed may leave out the content.
    pub report_changes: bool,
}

impl RegisterReply {
    /// The interval between polls that are not kept open.
    #[must_use]
    pub fn poll_after(&self) -> Option<Duration> {
        interval(self.poll_after_s)
    }

    /// The interval between reports.
    #[must_use]
    pub fn health_after(&self) -> Option<Duration> {
        interval(self.health_after_s)
    }
}
