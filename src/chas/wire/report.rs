//! `PUT /nodes/{node_id}/health`: the node's state, and the answer of CHaS.

use serde::{Deserialize, Serialize};
use state::desired::applied::{Conflict, Rejected};
use state::desired::rolled_back::RolledBack;
use state::desired::{Owner, PortBinding};

use super::CapacityReport;

/// Body of `PUT /nodes/{node_id}/health`: the node's state.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Measurements.
    #[serde(flatten)]
    pub vitals: Vitals,
    /// State of the node and its containers.
    #[serde(flatten)]
    pub content: ReportContent,
    /// Change counter of the store when the report was made. Not sent.
    #[serde(skip)]
    pub up_to_seq: u64,
}

/// A report without its content, for a server that keeps it
/// ([`super::RegisterReply::report_changes`]). For a node with fifty containers, it has a tenth of
/// the bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Heartbeat<'a> {
    /// Measurements.
    #[serde(flatten)]
    pub vitals: &'a Vitals,
    /// Status of the node, as in the full report.
    pub status: &'static str,
    /// Boot that the full report was made in.
    pub boot_id: &'a str,
    /// Always `true`: the content is that of the full report acknowledged last.
    pub unchanged: bool,
}

impl Report {
    /// The heartbeat that stands for this report while its content is unchanged.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat<'_> {
        let Self {
            vitals, content, ..
        } = self;
        Heartbeat {
            vitals,
            status: content.status,
            boot_id: &content.boot_id,
            unchanged: true,
        }
    }
}

/// Measurements of a node. A change of them alone triggers no report.
#[derive(Clone, Debug, Serialize)]
pub struct Vitals {
    /// Order of the reports of one boot: milliseconds since boot.
    pub seq: u64,
    /// Resources in use.
    pub resources: ResourceUsage,
    /// Seconds since boot.
    pub uptime: u64,
    /// Load average over 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
    /// Age of the applied set.
    pub desired: SetFreshness,
}

/// Resources in use on a node, in the units of the specification.
#[derive(Clone, Debug, Serialize)]
pub struct ResourceUsage {
    /// Processor use in percent.
    pub cpu_usage: f64,
    /// Memory use in percent.
    pub memory_usage: f64,
    /// Free disk space, such as `50GB`.
    pub disk_available: String,
    /// Number of running containers.
    pub container_count: usize,
}

/// State of a node and its containers. A change of it triggers a report, except for a change of
/// [`ContainerReport::next_attempt`] alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReportContent {
    /// Status of the node: `healthy`, `degraded` or `unhealthy`.
    pub status: &'static str,
    /// Id of the current boot.
    pub boot_id: String,
    /// Random id of the installation; tells two nodes with one `node_id` apart.
    pub instance_uuid: String,
    /// Generation of the set that is stored. `None`: none is stored yet.
    pub observed_generation: Option<u64>,
    /// Epoch of the set that is stored.
    pub observed_epoch: Option<String>,
    /// Generation of the newest set to which the node has converged. `None`: none since the agent
    /// started.
    pub applied_generation: Option<u64>,
    /// Whether the node has converged: nothing is left to do for the desired state.
    pub converged: bool,
    /// Containers whose removal awaits a confirmation.
    pub pending_prune: Option<PendingPrune>,
    /// Whether the node is cordoned: it starts no new containers.
    pub cordoned: bool,
    /// Capacity of the node, and what containers reserve of it.
    pub capacity: CapacityReport,
    /// Every container with a record.
    pub containers: Vec<ContainerReport>,
    /// Names that both push and CHaS claim.
    pub conflicts: Vec<Conflict>,
    /// Entries of the set that are rejected.
    pub rejected: Vec<Rejected>,
    /// Parts of its state that the agent found lost when it started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
    /// Recent errors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

impl ReportContent {
    /// A copy without the times of next attempts, which move on with each attempt. Where two copies
    /// differ, the change is worth a report of its own.
    #[must_use]
    pub fn without_retry_times(&self) -> Self {
        let mut content = self.clone();
        for container in &mut content.containers {
            container.next_attempt = None;
        }
        content
    }
}

/// Containers whose removal awaits a confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PendingPrune {
    /// Number of containers.
    pub count: usize,
    /// Names of the containers.
    pub names: Vec<String>,
    /// Generation of the set to confirm.
    pub generation: u64,
}

/// A container in a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContainerReport {
    /// Id of the container.
    pub id: String,
    /// Name of the container.
    pub name: String,
    /// Owner: `push` or `chas`.
    pub owner: Owner,
    /// Number that CHaS gave the spec.
    pub revision: Option<u64>,
    /// Number that the agent gave the spec.
    pub generation: u64,
    /// Hash of the spec.
    pub spec_hash: String,
    /// Status in one word.
    pub status: &'static str,
    /// Whether the container runs as specified.
    pub ready: bool,
    /// Whether the last answer of its probe is too old to say so now. Left out where it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Reason code of the closed set. `None`: the container is as desired.
    pub reason: Option<&'static str>,
    /// Sentence that explains the reason.
    pub message: Option<String>,
    /// Number of restarts.
    pub restart_count: u32,
    /// Exit code of the last end.
    pub exit_code: Option<u32>,
    /// Time of the next attempt, RFC 3339.
    pub next_attempt: Option<String>,
    /// Time of the next run of one with a schedule, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run: Option<String>,
    /// Digest of the image.
    pub image_digest: Option<String>,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Generation that was given up, so that the one before is back, with its digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
}

/// The age of the set that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetFreshness {
    /// Source of the desired state: `chas` once CHaS confirmed it since the agent started, `disk`
    /// before.
    pub source: &'static str,
    /// Seconds since CHaS last confirmed the set. `None`: not since the agent started.
    pub age_s: Option<u64>,
    /// Whether the last poll failed to confirm the set.
    pub stale: bool,
    /// Error of the last answer to a poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<SetError>,
}

/// An answer to a poll that could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetError {
    /// Code: `bad_desired_state`, `bad_signature`, `set_keys_unusable`, `stale_generation`,
    /// `left_epoch` or `not_stored`.
    pub code: &'static str,
    /// Sentence that explains the code.
    pub message: String,
    /// Number of such answers in a row.
    pub count: u64,
}

/// The answer of CHaS to a report. It may be empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReportReply {
    /// Generation of the set that CHaS lists now.
    pub desired_generation: Option<u64>,
    /// Epoch of that set. `None`: the node's epoch.
    pub desired_epoch: Option<String>,
    /// Whether CHaS lacks the content that the report left out, and asks for all of it.
    pub send_all: bool,
}

impl ReportReply {
    /// Whether CHaS lists the set that the node reported. `None`: CHaS does not say.
    #[must_use]
    pub fn confirms(&self, reported: &ReportContent) -> Option<bool> {
        let same_epoch =
            self.desired_epoch.is_none() || self.desired_epoch == reported.observed_epoch;
        let generation = self.desired_generation?;
        Some(same_epoch && Some(generation) == reported.observed_generation)
    }
}
