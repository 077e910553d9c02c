//! What goes over the line between a node and the CHaS API, and what of its answers is believed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use state::desired::pulled::{Conflict, Rejected};
use state::desired::{Owner, PortBinding};
use state::ownership::PulledSet;
use state::spec::parse::{self, FieldError};

/// The version of the desired state that this agent reads.
const SCHEMA: u64 = 1;
/// What CHaS may wish for as a pace.
const PACE: std::ops::RangeInclusive<u64> = 1..=3600;
/// Containers that are listed for one node: beyond what any can run.
const ENTRIES_MAX: usize = 10_000;
/// Entries that are not understood of which each is told apart.
const REJECTED_MAX: usize = 256;
/// Faults told of one entry.
const ERRORS_MAX: usize = 16;

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
        Self { desired_state: SCHEMA }
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

fn pace(seconds: Option<u64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds.clamp(*PACE.start(), *PACE.end())))
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

/// `PUT /nodes/{node_id}/health`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What changes from look to look.
    #[serde(flatten)]
    pub vitals: Vitals,
    /// What is worth a report of its own when it changes.
    #[serde(flatten)]
    pub content: Content,
    /// The store's counter when it was made. Not sent.
    #[serde(skip)]
    pub up_to_seq: u64,
}

/// A report in which nothing changed but the vitals, for a server that keeps the rest ([`Welcome::report_changes`]): of a
/// node with fifty containers, a tenth of the bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Heartbeat<'a> {
    /// What changes from look to look.
    #[serde(flatten)]
    pub vitals: &'a Vitals,
    /// As in the whole report.
    pub status: &'static str,
    /// The boot that the whole report was of.
    pub boot_id: &'a str,
    /// All else is as in the whole report that was acknowledged last.
    pub unchanged: bool,
}

impl Report {
    /// All that differs if nothing but the vitals changed.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat<'_> {
        let Self { vitals, content, .. } = self;
        Heartbeat { vitals, status: content.status, boot_id: &content.boot_id, unchanged: true }
    }
}

/// The part of a report that changes from look to look.
#[derive(Clone, Debug, Serialize)]
pub struct Vitals {
    /// Orders reports of one boot: milliseconds since it.
    pub seq: u64,
    /// How busy the node is.
    pub resources: Resources,
    /// Seconds since boot.
    pub uptime: u64,
    /// Over 1, 5 and 15 minutes.
    pub load_average: [f64; 3],
    /// How old what was pulled is.
    pub desired: Freshness,
}

/// How busy a node is, in the words of the specification.
#[derive(Clone, Debug, Serialize)]
pub struct Resources {
    /// Percent.
    pub cpu_usage: f64,
    /// Percent.
    pub memory_usage: f64,
    /// As in `50GB`.
    pub disk_available: String,
    /// Containers that run.
    pub container_count: usize,
}

/// The part of a report that is worth one of its own when it changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Content {
    /// `healthy`, `degraded` or `unhealthy`.
    pub status: &'static str,
    /// The boot.
    pub boot_id: String,
    /// Tells two nodes of one name apart.
    pub instance_uuid: String,
    /// The generation that is stored. `None`: none yet.
    pub observed_generation: Option<u64>,
    /// The epoch that it is of.
    pub observed_epoch: Option<String>,
    /// The newest that the node was seen to be as it lists. `None`: none since the agent started.
    pub applied_generation: Option<u64>,
    /// All is as asked.
    pub converged: bool,
    /// What waits for a confirmation.
    pub pending_prune: Option<PendingPrune>,
    /// The node takes nothing new.
    pub cordoned: bool,
    /// Every container.
    pub containers: Vec<Reported>,
    /// Names about which push and pull differed.
    pub conflicts: Vec<Conflict>,
    /// What of the set could not be taken.
    pub rejected: Vec<Rejected>,
    /// What the agent's start found lost of its state.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<String>,
    /// What went wrong lately.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// Said along with the rest; that it is another one is no news.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Aside<T>(pub T);

impl<T> PartialEq for Aside<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What waits for a confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PendingPrune {
    /// How many.
    pub count: usize,
    /// Their names.
    pub names: Vec<String>,
    /// The generation that is to be confirmed.
    pub generation: u64,
}

/// One container, as it is reported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reported {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub owner: Owner,
    /// CHaS's number for its specification.
    pub revision: Option<u64>,
    /// The agent's number for it.
    pub generation: u64,
    /// The fingerprint of its specification.
    pub spec_hash: String,
    /// One word.
    pub status: &'static str,
    /// It runs and can be used.
    pub ready: bool,
    /// Why it is not as desired.
    pub reason: Option<&'static str>,
    /// That in a sentence.
    pub message: Option<String>,
    /// How often it was started again.
    pub restart_count: u32,
    /// How it ended last.
    pub exit_code: Option<u32>,
    /// RFC 3339.
    pub next_attempt: Aside<Option<String>>,
    /// What its image reference was resolved to.
    pub image_digest: Option<String>,
    /// Its published ports.
    pub ports: Vec<PortBinding>,
}

/// How old what was pulled is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Where what is desired comes from: `chas` if it answered since the agent started, else `disk`.
    pub source: &'static str,
    /// Seconds since CHaS said that it is so. `None`: not since the agent started.
    pub age_s: Option<u64>,
    /// CHaS did not say so when it was asked last.
    pub stale: bool,
    /// What was wrong with what it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<SetFault>,
}

/// What was wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetFault {
    /// `bad_desired_state`, or `not_stored`.
    pub code: &'static str,
    /// In a sentence.
    pub message: String,
    /// How often in a row.
    pub count: u64,
}

/// CHaS's answer to a report. It may be empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Acknowledgement {
    /// The generation that CHaS lists now.
    pub desired_generation: Option<u64>,
    /// The epoch that it is of. `None`: that of the node's.
    pub desired_epoch: Option<String>,
    /// It does not know what the report left out.
    pub send_all: bool,
}

impl Acknowledgement {
    /// Whether CHaS lists what the node has. `None`: it does not say.
    #[must_use]
    pub fn lists(&self, reported: &Content) -> Option<bool> {
        let same_epoch = self.desired_epoch.is_none() || self.desired_epoch == reported.observed_epoch;
        let generation = self.desired_generation?;
        Some(same_epoch && Some(generation) == reported.observed_generation)
    }
}

/// What CHaS lists.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The set.
    pub set: PulledSet,
    /// Between polls that are not held.
    pub poll_after: Option<Duration>,
}

/// Reads a set that was listed for `node_id`, asked for after change `sent_after`.
///
/// # Errors
/// Why it is no such set, in a sentence. An entry that is not understood is no reason.
pub fn listing(body: &[u8], node_id: &str, etag: Option<String>, sent_after: u64) -> Result<Listing, String> {
    if body.is_empty() {
        return Err("the answer is empty".to_owned());
    }
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))?;
    if !body.is_object() {
        return Err("the answer is no JSON object".to_owned());
    }
    let text = |field: &str| body[field].as_str().filter(|text| !text.is_empty());
    let schema = body.get("schema").map_or(Some(SCHEMA), Value::as_u64);
    if schema != Some(SCHEMA) {
        return Err(format!("its schema is {}, and this agent reads {SCHEMA}", body["schema"]));
    }
    if text("node_id") != Some(node_id) {
        return Err(format!("it is for the node {}, and this one is {node_id:?}", body["node_id"]));
    }
    if body["complete"] != Value::Bool(true) {
        return Err("it does not say that it is complete".to_owned());
    }
    let epoch = text("epoch").ok_or("it has no epoch")?.to_owned();
    let generation = body["generation"].as_u64().ok_or("it has no generation")?;
    let entries = body["containers"].as_array().ok_or("it has no list of containers")?;
    if entries.len() > ENTRIES_MAX {
        return Err(format!("it lists {} containers, and a node takes {ENTRIES_MAX} at most", entries.len()));
    }
    let (containers, rejected) = read(entries);
    let named = |entry: &Value| entry["name"].as_str().or(entry.as_str()).and_then(|name| name.parse().ok());
    let remove = body["remove"].as_array().into_iter().flatten().filter_map(named).collect();
    let prune_confirm = body["prune_confirm"].as_u64();
    let cordon = body["cordon"].as_bool().unwrap_or(false);
    let set = PulledSet { epoch, generation, etag, containers, remove, rejected, prune_confirm, cordon, sent_after };
    Ok(Listing { set, poll_after: pace(body["poll_after_s"].as_u64()) })
}

fn read(entries: &[Value]) -> (Vec<parse::Deploy>, Vec<Rejected>) {
    let (mut containers, mut rejected) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        match parse::deploy(entry) {
            Ok(deploy) => containers.push(deploy),
            Err(errors) => {
                // All of their names count: what bears one is left alone.
                let name = entry["name"].as_str().map(str::to_owned);
                let errors = if rejected.len() < REJECTED_MAX { few(errors) } else { Vec::new() };
                rejected.push(Rejected { name, index: Some(index), errors });
            }
        }
    }
    (containers, rejected)
}

fn few(mut errors: Vec<FieldError>) -> Vec<FieldError> {
    let more = errors.len().saturating_sub(ERRORS_MAX);
    if more > 0 {
        errors.truncate(ERRORS_MAX);
        errors.push(FieldError { field: String::new(), message: format!("and {more} more faults") });
    }
    errors
}
