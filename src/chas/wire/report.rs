//! `PUT /nodes/{node_id}/health`: how the node is, and what CHaS answers.

use serde::{Deserialize, Serialize};
use state::desired::applied::{Conflict, Rejected};
use state::desired::{Owner, PortBinding};

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

/// A report in which nothing changed but the vitals, for a server that keeps the rest ([`super::Welcome::report_changes`]): of a
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
        let same_epoch =
            self.desired_epoch.is_none() || self.desired_epoch == reported.observed_epoch;
        let generation = self.desired_generation?;
        Some(same_epoch && Some(generation) == reported.observed_generation)
    }
}
