//! The nodes that registered, how they registered and what they reported last. Pure; time is an argument.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::body::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::Problem;

/// Ten times the nodes that this example was tried with.
const NODES_MAX: usize = 100_000;
/// So many health intervals without a word, and a node is offline: its name may be taken over.
pub(super) const SILENT_INTERVALS: u32 = 3;

/// The SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// How a node registered.
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

/// What of a report is looked at here.
#[derive(Debug, Deserialize)]
pub(super) struct Summary {
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

/// A report: what is looked at, and all of it as it was sent.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) summary: Summary,
    pub(super) sent: Bytes,
}

/// What a heartbeat says besides that nothing changed.
#[derive(Debug, Deserialize)]
pub(super) struct Heartbeat {
    pub(super) boot_id: String,
    pub(super) seq: u64,
    /// As it was sent.
    #[serde(flatten)]
    pub(super) vitals: BTreeMap<String, Value>,
}

impl Heartbeat {
    /// What of the report is otherwise by now.
    pub(super) fn told(&self) -> impl Iterator<Item = (String, Value)> {
        let vitals = self.vitals.iter().filter(|(name, _)| *name != "unchanged");
        vitals
            .map(|(name, value)| (name.clone(), value.clone()))
            .chain([("seq".to_owned(), self.seq.into())])
    }
}

/// What a report came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is known, or something newer is.
    Known,
    /// What it refers to is not.
    Unknown,
}

/// One node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) registration: Arc<Registration>,
    /// Of its own token, if it was given one.
    pub(super) token: Option<TokenHash>,
    /// When it registered or reported last, in milliseconds since 1970.
    pub(super) heard_ms: u64,
    pub(super) report: Option<Arc<Report>>,
    /// The last one since the report.
    pub(super) heartbeat: Option<Arc<Heartbeat>>,
    /// The report is the one that was acknowledged last: it did not come from the disk, where a newer one may be missing.
    pub(super) is_acknowledged: bool,
}

impl Node {
    /// It reported that it has stored just this.
    pub(super) fn has(&self, epoch: &str, generation: u64) -> bool {
        self.report.as_ref().is_some_and(|report| {
            let Summary {
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

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    by_id: BTreeMap<String, Node>,
    /// Whose a token is. A lookup by hash tells nothing of a token by the time it takes.
    owners: HashMap<TokenHash, String>,
    /// Since when they could be heard: while the server was away, none was silent.
    listening_ms: u64,
}

impl Nodes {
    pub(super) fn since(listening_ms: u64) -> Self {
        Self {
            listening_ms,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, node_id: &str) -> Option<&Node> {
        self.by_id.get(node_id)
    }

    /// The node has a token of its own.
    pub(super) fn has_token(&self, node_id: &str) -> bool {
        self.get(node_id).is_some_and(|node| node.token.is_some())
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Every node, by name. Cheap: what is large in it is shared.
    pub(super) fn all(&self) -> Vec<Node> {
        self.by_id.values().cloned().collect()
    }

    /// The node whose own token has this hash.
    pub(super) fn owner(&self, hash: &TokenHash) -> Option<&str> {
        self.owners.get(hash).map(String::as_str)
    }

    /// Takes in a registration; with `token`, that is the node's own from now on. Answers how many nodes there are.
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
        let silent_ms = |node: &Node| now_ms.saturating_sub(node.heard_ms.max(self.listening_ms));
        if let Some(node) = known.filter(|node| is_other && silent_ms(node) <= silence_ms) {
            return Err(conflict(&id, &node.registration));
        }
        if known.is_none() && self.by_id.len() >= NODES_MAX {
            return Err(Problem::Full(format!(
                "this server knows {NODES_MAX} nodes and takes no more"
            )));
        }
        // What another instance reported says nothing of this one.
        let same = known.filter(|_| !is_other);
        let (report, heartbeat) = same
            .map(|node| (node.report.clone(), node.heartbeat.clone()))
            .unwrap_or_default();
        let is_acknowledged = same.is_some_and(|node| node.is_acknowledged);
        let token = token.or_else(|| known.and_then(|node| node.token));
        self.insert(Node {
            registration: Arc::new(registration),
            token,
            heard_ms: now_ms,
            report,
            heartbeat,
            is_acknowledged,
        });
        Ok(self.by_id.len())
    }

    /// Takes in a node as it is.
    pub(super) fn insert(&mut self, node: Node) {
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

    /// Takes in a report, unless a newer one came before it.
    pub(super) fn report(
        &mut self,
        node_id: &str,
        report: Arc<Report>,
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

    /// Takes in that nothing changed since the report that was acknowledged last.
    pub(super) fn heartbeat(
        &mut self,
        node_id: &str,
        heartbeat: Heartbeat,
        now_ms: u64,
    ) -> Result<Heard, Problem> {
        let node = self
            .by_id
            .get_mut(node_id)
            .ok_or_else(|| unknown(node_id))?;
        node.heard_ms = now_ms;
        let report = node.report.as_ref().filter(|_| node.is_acknowledged);
        if report.is_none_or(|report| report.summary.boot_id != heartbeat.boot_id) {
            return Ok(Heard::Unknown);
        }
        if node.seq() <= Some(heartbeat.seq) {
            node.heartbeat = Some(Arc::new(heartbeat));
        }
        Ok(Heard::Known)
    }

    /// Forgets a node and its token.
    pub(super) fn forget(&mut self, node_id: &str) -> Result<(), Problem> {
        let node = self.by_id.remove(node_id).ok_or_else(|| unknown(node_id))?;
        if let Some(token) = node.token {
            self.owners.remove(&token);
        }
        Ok(())
    }
}

/// The node should register.
pub(super) fn unknown(node_id: &str) -> Problem {
    Problem::NodeUnknown(format!("{node_id} is not registered"))
}

fn conflict(node_id: &str, holder: &Registration) -> Problem {
    // Whoever knows its instance may take its place: that is not told.
    Problem::IdentityConflict(format!(
        "{node_id} is another instance, on {}",
        holder.hostname
    ))
}
