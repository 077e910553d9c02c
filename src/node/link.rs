//! The running agent as its link to CHaS sees it: the store for the set that CHaS lists, the read
//! model for reports.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use state::desired::applied::Unconfirmed;
use state::desired::set::Desired;
use state::desired::{Record, marks};
use state::ownership::{ChasSet, SetOutcome};
use tokio::sync::watch;

use super::budget::SharedLedger;
use super::{AgentNode, health, wall_ms};
use crate::chas::wire::{
    ContainerReport, NodeCapacity, PendingPrune, Registration, Report, ReportContent,
    ResourceUsage, SupportedSchemas, Vitals,
};
use crate::chas::{self, LastApplied, LinkState};
use crate::config;
use crate::lock::lock;
use crate::monitor::size_text;
use crate::reconcile::Board;
use crate::view::{HealthView, ManagedView};

mod first_look;

/// Time that a set waits for the first look at containerd, before CHaS is asked for it again.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(5);
/// Wait before the next look for the identity of the node, while the stored one cannot be read.
const IDENTITY_RETRY: Duration = Duration::from_secs(1);

/// The configured part of the node's registration.
#[derive(Clone, Debug)]
pub(crate) struct LinkConfig {
    /// `node` of the configuration.
    pub(crate) node: config::NodeSection,
    /// The port that the agent's own API listens on.
    pub(crate) port: u16,
    /// The host of `api.chas_url`, if that is an address.
    pub(crate) chas_address: Option<IpAddr>,
}

/// The running agent, as its link to CHaS sees it.
#[derive(Debug)]
pub(crate) struct AgentLink {
    node: Arc<AgentNode>,
    contact: Arc<LinkState>,
    config: LinkConfig,
    /// The identity of this node until one is stored.
    new_uuid: String,
    /// The newest generation of the set with which the node was seen converged.
    applied: Mutex<Option<u64>>,
    ledger: SharedLedger,
}

impl AgentLink {
    pub(crate) fn new(node: Arc<AgentNode>, contact: Arc<LinkState>, config: LinkConfig) -> Self {
        let new_uuid = uuid::Uuid::new_v4().simple().to_string();
        Self {
            node,
            contact,
            config,
            new_uuid,
            applied: Mutex::default(),
            ledger: SharedLedger::default(),
        }
    }

    /// Stores the identity of this node, before CHaS hears of it. As long as it is not known
    /// whether the node has one, CHaS does not: another would be another node to it.
    pub(crate) async fn prepare(&self) {
        let is_known = || {
            let desired = self.node.writer.store().desired();
            !desired.is_unknown() || desired.marks().identity().is_some()
        };
        while !is_known() {
            tokio::time::sleep(IDENTITY_RETRY).await;
        }
        let node_id = self.config.node.id.clone();
        self.note(move |link| link.node_id = node_id).await;
    }

    async fn note(&self, change: impl FnOnce(&mut marks::NodeIdentity) + Send + 'static) {
        let uuid = self.new_uuid.clone();
        let change = move |link: &mut marks::NodeIdentity| {
            if link.instance_uuid.is_empty() {
                link.instance_uuid = uuid;
            }
            change(link);
        };
        if let Err(error) = self
            .node
            .writer
            .write(move |store| store.set_identity(change))
            .await
        {
            tracing::warn!(%error, "cannot persist the node identity used with CHaS");
        }
    }

    fn instance_uuid(&self) -> String {
        let stored = self
            .node
            .writer
            .store()
            .desired()
            .marks()
            .identity()
            .map(|link| link.instance_uuid.clone());
        stored
            .filter(|uuid| !uuid.is_empty())
            .unwrap_or_else(|| self.new_uuid.clone())
    }

    fn content(&self, health: &HealthView) -> ReportContent {
        let desired = self.node.writer.store().desired();
        let applied = desired.marks().applied_set();
        let observed_generation = applied.map(|applied| applied.version.generation);
        let converged = self.node.converged();
        let applied_generation = self.applied_generation(converged, observed_generation);
        ReportContent {
            status: health.status(),
            boot_id: self.node.board().clock.boot_id(),
            instance_uuid: self.instance_uuid(),
            observed_generation,
            observed_epoch: applied.map(|applied| applied.version.epoch.clone()),
            applied_generation,
            converged,
            pending_prune: pending(applied.and_then(|applied| {
                Some((applied.unconfirmed.as_ref()?, applied.version.generation))
            })),
            cordoned: desired.marks().cordoned_by().any(),
            capacity: self.node.capacity_report(),
            containers: self.reported(),
            conflicts: applied
                .map(|applied| applied.conflicts.clone())
                .unwrap_or_default(),
            rejected: applied
                .map(|applied| applied.rejected.clone())
                .unwrap_or_default(),
            losses: health.losses.clone(),
            errors: health::report_errors(health),
        }
    }

    /// The newest generation with which the node was converged: this one, if the node is converged
    /// now.
    fn applied_generation(&self, converged: bool, observed: Option<u64>) -> Option<u64> {
        let mut applied = lock(&self.applied);
        if converged {
            *applied = observed;
        }
        *applied
    }

    /// The managed containers by name, as they are reported.
    fn reported(&self) -> Vec<ContainerReport> {
        let mut views: Vec<_> = self.node.managed_containers().collect();
        views.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        views.iter().map(reported).collect()
    }
}

fn pending(unconfirmed: Option<(&Unconfirmed, u64)>) -> Option<PendingPrune> {
    let (unconfirmed, generation) = unconfirmed?;
    let names: Vec<_> = unconfirmed.names().map(ToString::to_string).collect();
    Some(PendingPrune {
        count: names.len(),
        names,
        generation,
    })
}

fn reported(view: &ManagedView) -> ContainerReport {
    let (record, condition) = (&view.record, &view.condition);
    ContainerReport {
        id: record.id.to_string(),
        name: record.name.to_string(),
        owner: record.owner,
        revision: record.revision,
        generation: record.generation,
        spec_hash: record.spec_hash.clone(),
        status: condition.status.as_str(),
        ready: view.is_ready(),
        stale: view.is_stale(),
        reason: condition.reason.map(state::reason::Reason::as_str),
        message: condition.message.clone(),
        restart_count: view.restart_count,
        exit_code: view.exit_code,
        next_attempt: view
            .next_attempt()
            .map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        next_run: view
            .next_run
            .map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        image_digest: record.image_digest.clone(),
        ports: record.assignment.ports.clone(),
        rolled_back: record.rolled_back.clone(),
    }
}

/// The address that this host speaks to others from. No packet is sent.
fn own_address(towards: Option<IpAddr>) -> Option<IpAddr> {
    // Where CHaS's own address is not known, any that is not this host's serves: this one is of
    // documents (RFC 5737).
    let towards = towards.unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let any = ["[::]:0", "0.0.0.0:0"][usize::from(towards.is_ipv4())];
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((towards, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn tenths(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

impl chas::LinkNode for AgentLink {
    fn registration(&self) -> Registration {
        let facts = self.node.monitor.snapshot();
        let first = || {
            let mut interfaces = facts.interfaces.iter().filter(|interface| interface.up);
            interfaces.find_map(|interface| {
                let mut addresses = interface.addresses.iter().copied();
                addresses.find(|address| !address.is_loopback())
            })
        };
        let own = || own_address(self.config.chas_address);
        let address = self.config.node.address.or_else(own);
        Registration {
            node_id: self.config.node.id.clone(),
            hostname: self.config.node.hostname.clone(),
            ip_address: address.or_else(first),
            port: self.config.port,
            resources: NodeCapacity {
                cpu_cores: facts.cpu_cores,
                memory_total: size_text(facts.memory_total_bytes),
                disk_total: size_text(facts.disk_total_bytes),
            },
            capacity: self.node.capacity_report(),
            instance_uuid: self.instance_uuid(),
            boot_id: self.node.board().clock.boot_id(),
            agent_version: env!("CARGO_PKG_VERSION"),
            api: SupportedSchemas::default(),
            labels: self.config.node.labels.clone(),
        }
    }

    fn report(&self) -> Report {
        // Before anything else is looked at: what changes from now on is not in it.
        let up_to_seq = self.node.writer.store().desired().seq();
        let health = self.node.health();
        let facts = &health.facts;
        let since_boot = self.node.board().clock.now().0.as_millis();
        let vitals = Vitals {
            seq: u64::try_from(since_boot).unwrap_or(u64::MAX),
            resources: ResourceUsage {
                cpu_usage: tenths(facts.cpu_usage_percent),
                memory_usage: tenths(facts.memory_usage_percent),
                disk_available: facts.disk_available(),
                container_count: health.running,
            },
            uptime: facts.uptime_seconds,
            load_average: facts.load_average,
            desired: self.contact.status().freshness,
        };
        Report {
            vitals,
            content: self.content(&health),
            up_to_seq,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.node.board().changes()
    }

    fn last_applied(&self) -> LastApplied {
        let desired = self.node.writer.store().desired();
        let applied = desired.marks().applied_set();
        LastApplied {
            // Without it CHaS sends the whole set, of which the bodies are still to be noted.
            etag: applied
                .filter(|applied| applied.has_listed_hashes)
                .and_then(|applied| applied.etag.clone()),
            generation: applied.map(|applied| applied.version.generation),
            epoch: applied.map(|applied| applied.version.epoch.clone()),
            fully_applied: applied.is_none_or(|applied| applied.fully_applied),
            signed_by: applied.map_or_else(Default::default, |set| set.signed_by.clone()),
            seq: desired.seq(),
        }
    }

    async fn apply_set(&self, set: ChasSet) -> Result<SetOutcome, String> {
        let handle = self.node.handle.clone();
        // What is to be taken over from containerd is not known yet, so nor is what the set would
        // end. On a new node that is nothing, and nothing is started before it is known either.
        let is_adopted = || !self.node.writer.store().desired().may_lack_records();
        let mut changes = self.changes();
        if tokio::time::timeout(ADOPTION_PATIENCE, changes.wait_for(|_| is_adopted()))
            .await
            .is_err()
        {
            return Err("it is not known yet what runs here, and what was asked last".to_owned());
        }
        let node_id = self.config.node.id.clone();
        let (ledger, now) = (self.ledger.clone(), self.node.board().clock.now());
        let applied = self.node.writer.write(move |store| {
            // The disk may have taken no writes when the agent started; where it did, this is free.
            store.set_identity(|link| link.node_id = node_id)?;
            let outcome = ledger.apply(store, &set, wall_ms(), now)?;
            outcome.changed.iter().for_each(|&id| handle.wake(id));
            handle.board().changed();
            Ok(outcome)
        });
        applied.await.map_err(|error| crate::cause::all(&error))
    }

    async fn report_acknowledged(&self, up_to_seq: u64) {
        if self
            .node
            .writer
            .store()
            .desired()
            .marks()
            .tombstones()
            .is_empty()
        {
            return;
        }
        let written = self
            .node
            .writer
            .write(move |store| store.report_acknowledged(up_to_seq))
            .await;
        if let Err(error) = written {
            tracing::debug!(%error, "acknowledgement of CHaS not stored, retrying with the next report");
        }
    }

    fn called(&self, answered: Option<Duration>) {
        self.node.board().record_call(answered);
    }

    fn identity(&self) -> marks::NodeIdentity {
        self.node
            .writer
            .store()
            .desired()
            .marks()
            .identity()
            .cloned()
            .unwrap_or_default()
    }

    async fn registered(&self, cluster_size: Option<u64>) {
        let boot_id = self.node.board().clock.boot_id();
        self.note(move |link| {
            link.boot_id = boot_id;
            link.cluster_size = cluster_size.unwrap_or(link.cluster_size);
        })
        .await;
    }
}

impl AgentNode {
    /// Whether the node is converged: every record is settled, the set is fully applied, and no
    /// leftover exists.
    fn converged(&self) -> bool {
        let (board, desired) = (self.board(), self.writer.store().desired());
        let applied = desired.marks().applied_set();
        board.reachability().reachable
            && !desired.may_lack_records()
            && applied.is_none_or(|applied| applied.fully_applied && applied.unconfirmed.is_none())
            && desired
                .records()
                .all(|record| is_as_asked(board, &desired, record))
            && board.leftovers(&desired).is_empty()
    }
}

/// Whether the container is settled, and nothing is being done for it. A container that a cordon
/// keeps from starting is not.
fn is_as_asked(board: &Board, desired: &Desired, record: &Record) -> bool {
    let is_idle = board.known(record.id).activity.is_none();
    is_idle && board.phase(desired, record).is_as_asked()
}
