//! Registered nodes, with their registration and last report. Pure; time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::Problem;

/// Most nodes: ten times as many as this example was tested with.
const NODES_MAX: usize = 100_000;
/// Health intervals without a call after which a node is offline, and another one may take over its
/// name.
pub(super) const SILENT_INTERVALS: u32 = 3;

/// The SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// Registration of a node, as it was sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Registration {
    pub(super) node_id: String,
    pub(super) hostname: String,
    pub(super) ip_address: Option<String>,
    pub(super) port: u16,
    pub(super) resources: Value,
    pub(super) instance_uuid: String,
    pub(super) boot_id: String,
    pub(super) agent_version: String,
    pub(super) api: Value,
    pub(super) labels: BTreeMap<String, String>,
}

/// The members of a report that this server reads.
#[derive(Debug, Deserialize)]
pub(super) struct ReportSummary {
    pub(super) status: String,
    pub(super) boot_id: String,
    pub(super) instance_uuid: String,
    pub(super) seq: u64,
    pub(super) observed_generation: Option<u64>,
    #[serde(default)]
    pub(super) observed_epoch: Option<String>,
    pub(super) applied_generation: Option<u64>,
    pub(super) converged: bool,
    pub(super) pending_prune: Option<Value>,
    pub(super) containers: Vec<IgnoredAny>,
    pub(super) conflicts: Vec<IgnoredAny>,
    pub(super) rejected: Vec<IgnoredAny>,
}

/// A report: the members that are read, and all of it as it was sent.
#[derive(Debug)]
pub(super) struct StoredReport {
    pub(super) summary: ReportSummary,
    pub(super) sent: Bytes,
}

/// A heartbeat: new measurements, while the rest of the report is unchanged.
#[derive(Debug, Deserialize)]
pub(super) struct Heartbeat {
    pub(super) boot_id: String,
    pub(super) seq: u64,
    /// Measurements, as they were sent.
    #[serde(flatten)]
    pub(super) vitals: BTreeMap<String, Value>,
}

impl Heartbeat {
    /// The members of the report that the heartbeat replaces.
    pub(super) fn told(&self) -> impl Iterator<Item = (String, Value)> {
        let vitals = self.vitals.iter().filter(|(name, _)| *name != "unchanged");
        vitals
            .map(|(name, value)| (name.clone(), value.clone()))
            .chain([("seq".to_owned(), self.seq.into())])
    }
}

/// The outcome of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportOutcome {
    /// The report is stored, or a newer one is.
    Known,
    /// The report that a heartbeat refers to is not stored.
    Unknown,
}

/// A registered node.
#[derive(Clone, Debug)]
pub(super) struct KnownNode {
    pub(super) registration: Arc<Registration>,
    /// Hash of the node's own token, if one was issued.
    pub(super) token: Option<TokenHash>,
    /// Time of the last registration or report, in milliseconds since 1970.
    pub(super) heard_ms: u64,
    pub(super) report: Option<Arc<StoredReport>>,
    /// Last heartbeat since the report.
    pub(super) heartbeat: Option<Arc<Heartbeat>>,
    /// Whether the report is the one acknowledged last. One from the disk is not: a newer one may
    /// be lost.
    pub(super) is_acknowledged: bool,
}

impl KnownNode {
    /// Whether the node reported this generation as stored.
    pub(super) fn has(&self, epoch: &str, generation: u64) -> bool {
        self.report.as_ref().is_some_and(|report| {
            let ReportSummary {
                observed_generation,
                observed_epoch,
                ..
            } = &report.summary;
            *observed_generation == Some(generation)
                && observed_epoch
                    .as_deref()
                    .is_none_or(|observed| observed == epoch)
        })
    }

    fn seq(&self) -> Option<u64> {
        let report = self.report.as_ref().map(|report| report.summary.seq);
        self.heartbeat
            .as_ref()
            .map(|heartbeat| heartbeat.seq)
            .or(report)
    }
}

/// All registered nodes.
#[derive(Debug, Default)]
pub(super) struct KnownNodes {
    by_id: BTreeMap<String, KnownNode>,
    /// Node ids by the hash of their token. The time of a lookup by hash reveals nothing of a
    /// token.
    owners: HashMap<TokenHash, String>,
    /// Start of this server, in milliseconds since 1970: silence before it does not count.
    listening_ms: u64,
}

impl KnownNodes {
    pub(super) fn since(listening_ms: u64) -> Self {
        Self {
            listening_ms,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, node_id: &str) -> Option<&KnownNode> {
        self.by_id.get(node_id)
    }

    /// Whether the node has a token of its own.
    pub(super) fn has_token(&self, node_id: &str) -> bool {
        self.get(node_id).is_some_and(|node| node.token.is_some())
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All nodes, by name. Cheap: their large parts are shared.
    pub(super) fn all(&self) -> Vec<KnownNode> {
        self.by_id.values().cloned().collect()
    }

    /// The node whose own token has this hash.
    pub(super) fn owner(&self, hash: &TokenHash) -> Option<&str> {
        self.owners.get(hash).map(String::as_str)
    }

    /// Registers a node, whose own token has the hash `token` from now on. Returns the number of
    /// nodes.
    pub(super) fn register(
        &mut self,
        registration: Registration,
        token: Option<TokenHash>,
        now_ms: u64,
        silence_ms: u64,
    ) -> Result<usize, Problem> {
        let id = registration.node_id.clone();
        let known = self.by_id.get(&id);
        let is_other =
            known.is_some_and(|node| node.registration.instance_uuid != registration.instance_uuid);
        let silent_ms =
            |node: &KnownNode| now_ms.saturating_sub(node.heard_ms.max(self.listening_ms));
        if let Some(node) = known.filter(|node| is_other && silent_ms(node) <= silence_ms) {
            return Err(conflict(&id, &node.registration));
        }
        if known.is_none() && self.by_id.len() >= NODES_MAX {
            return Err(Problem::Full(format!(
                "this server registers at most {NODES_MAX} nodes"
            )));
        }
        // A report of another instance does not describe this one.
        let same = known.filter(|_| !is_other);
        let (report, heartbeat) = same
            .map(|node| (node.report.clone(), node.heartbeat.clone()))
            .unwrap_or_default();
        let is_acknowledged = same.is_some_and(|node| node.is_acknowledged);
        let token = token.or_else(|| known.and_then(|node| node.token));
        self.insert(KnownNode {
            registration: Arc::new(registration),
            token,
            heard_ms: now_ms,
            report,
            heartbeat,
            is_acknowledged,
        });
        Ok(self.by_id.len())
    }

    /// Inserts a node in place of the one with its id.
    pub(super) fn insert(&mut self, node: KnownNode) {
        let id = node.registration.node_id.clone();
        let token = node.token;
        let old = self
            .by_id
            .insert(id.clone(), node)
            .and_then(|old| old.token);
        if let Some(old) = old.filter(|old| Some(*old) != token) {
            self.owners.remove(&old);
        }
        if let Some(token) = token {
            self.owners.insert(token, id);
        }
    }

    /// Stores a report, unless a newer one was stored before.
    pub(super) fn report(
        &mut self,
        node_id: &str,
        report: Arc<StoredReport>,
        now_ms: u64,
    ) -> Result<(), Problem> {
        let node = self
            .by_id
            .get_mut(node_id)
            .ok_or_else(|| unknown(node_id))?;
        let new = &report.summary;
        if node.registration.instance_uuid != new.instance_uuid {
            return Err(conflict(node_id, &node.registration));
        }
        node.heard_ms = now_ms;
        let is_of_this_boot = node
            .report
            .as_ref()
            .is_some_and(|report| report.summary.boot_id == new.boot_id);
        if !is_of_this_boot || node.seq() <= Some(new.seq) {
            (node.report, node.heartbeat, node.is_acknowledged) = (Some(report), None, true);
        }
        Ok(())
    }

    /// Stores a heartbeat of the report that was acknowledged last.
    pub(super) fn heartbeat(
        &mut self,
        node_id: &str,
        heartbeat: Heartbeat,
        now_ms: u64,
    ) -> Result<ReportOutcome, Problem> {
        let node = self
            .by_id
            .get_mut(node_id)
            .ok_or_else(|| unknown(node_id))?;
        node.heard_ms = now_ms;
        let report = node.report.as_ref().filter(|_| node.is_acknowledged);
        if report.is_none_or(|report| report.summary.boot_id != heartbeat.boot_id) {
            return Ok(ReportOutcome::Unknown);
        }
        if node.seq() <= Some(heartbeat.seq) {
            node.heartbeat = Some(Arc::new(heartbeat));
        }
        Ok(ReportOutcome::Known)
    }

    /// Deletes a node and its token.
    pub(super) fn delete(&mut self, node_id: &str) -> Result<(), Problem> {
        let node = self.by_id.remove(node_id).ok_or_else(|| unknown(node_id))?;
        if let Some(token) = node.token {
            self.owners.remove(&token);
        }
        Ok(())
    }
}

/// The problem that a node is not registered.
pub(super) fn unknown(node_id: &str) -> Problem {
    Problem::NodeUnknown(format!("node {node_id} is not registered"))
}

fn conflict(node_id: &str, holder: &Registration) -> Problem {
    // The instance is not named: a caller that knows it could take the node's place.
    Problem::IdentityConflict(format!(
        "node id {node_id} is used by another instance, on host {}",
        holder.hostname
    ))
}
