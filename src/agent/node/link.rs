//! What the link to CHaS sees of the agent: the store for what is pulled, the board for what is reported.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use state::desired::applied::Unconfirmed;
use state::desired::marks;
use state::desired::{Owner, Record};
use state::ownership::{ChasSet, SetOutcome};
use state::phase::Phase;
use state::status::Status;
use tokio::sync::watch;

use super::{AgentNode, listening, wall_ms};
use crate::api::{self, View};
use crate::chas::wire::{
    Aside, Capacity, Content, PendingPrune, Registration, Report, Reported, Resources, Speaks,
    Vitals,
};
use crate::chas::{self, Asking, Contact};
use crate::config::Config;
use crate::monitor::size_text;
use crate::reconcile::Known;

/// Of what went wrong lately, so much goes into a report.
const ERRORS_MAX: usize = 5;
/// How long a set waits for the first look at containerd, before it is asked for again.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(5);

/// The running agent, as its link to CHaS sees it.
#[derive(Debug)]
pub(in crate::agent) struct AgentLink {
    node: Arc<AgentNode>,
    contact: Arc<Contact>,
    config: Config,
    /// As long as none is stored.
    new_uuid: String,
    /// The newest generation that the node was seen to be as it lists.
    applied: Mutex<Option<u64>>,
}

impl AgentLink {
    pub(in crate::agent) fn new(
        node: Arc<AgentNode>,
        contact: Arc<Contact>,
        config: Config,
    ) -> Self {
        let new_uuid = uuid::Uuid::new_v4().simple().to_string();
        Self {
            node,
            contact,
            config,
            new_uuid,
            applied: Mutex::default(),
        }
    }

    /// Keeps what tells this node apart before CHaS hears of it.
    pub(in crate::agent) async fn prepare(&self) {
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
            tracing::warn!(%error, "what this node is to CHaS cannot be kept");
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

    fn content(&self, health: &api::Health) -> Content {
        let desired = self.node.writer.store().desired();
        let pulled = desired.marks().applied_set();
        let observed_generation = pulled.map(|pulled| pulled.version.generation);
        let converged = self.node.converged();
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        if converged {
            *applied = observed_generation;
        }
        let skipped = health.errors.len().saturating_sub(ERRORS_MAX);
        let error = |(_, reason, message): &(_, state::reason::Reason, String)| {
            format!("{reason}: {message}")
        };
        Content {
            status: health.status(),
            boot_id: self.node.handle.board().clock.boot_id(),
            instance_uuid: self.instance_uuid(),
            observed_generation,
            observed_epoch: pulled.map(|pulled| pulled.version.epoch.clone()),
            applied_generation: *applied,
            converged,
            pending_prune: pending(pulled.and_then(|pulled| {
                Some((pulled.unconfirmed.as_ref()?, pulled.version.generation))
            })),
            cordoned: desired.marks().cordoned(),
            containers: api::Node::containers(&*self.node)
                .iter()
                .filter_map(reported)
                .collect(),
            conflicts: pulled
                .map(|pulled| pulled.conflicts.clone())
                .unwrap_or_default(),
            rejected: pulled
                .map(|pulled| pulled.rejected.clone())
                .unwrap_or_default(),
            losses: health.losses.clone(),
            errors: health.errors.iter().skip(skipped).map(error).collect(),
        }
    }
}

fn pending(held: Option<(&Unconfirmed, u64)>) -> Option<PendingPrune> {
    let (held, generation) = held?;
    let names: Vec<_> = held.names().map(ToString::to_string).collect();
    Some(PendingPrune {
        count: names.len(),
        names,
        generation,
    })
}

fn reported(view: &View) -> Option<Reported> {
    let record: &Record = view.record.as_ref()?;
    let condition = &view.condition;
    Some(Reported {
        id: record.id.to_string(),
        name: record.name.to_string(),
        owner: record.owner,
        revision: record.revision,
        generation: record.generation,
        spec_hash: record.spec_hash.clone(),
        status: condition.status.as_str(),
        ready: condition.status == Status::Running
            && view.applied_generation == Some(record.generation),
        reason: condition.reason.map(state::reason::Reason::as_str),
        message: condition.message.clone(),
        restart_count: view.restart_count,
        exit_code: view.exit_code,
        next_attempt: Aside(
            view.next_attempt
                .map(|at| humantime::format_rfc3339_seconds(at).to_string()),
        ),
        image_digest: record.image_digest.clone(),
        ports: record.assignment.ports.clone(),
    })
}

/// The address that this host speaks to others from. No packet is sent.
fn own_address(towards: Option<IpAddr>) -> Option<IpAddr> {
    // Where CHaS's own address is not known, any that is not this host's serves: this one is of documents (RFC 5737).
    let towards = towards.unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    let any = if towards.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((towards, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn tenths(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

impl chas::Node for AgentLink {
    fn registration(&self) -> Registration {
        let facts = self.node.monitor.snapshot();
        let url = self
            .config
            .chas
            .as_ref()
            .and_then(|chas| chas.url.host_str());
        let towards = url.and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        let first = || {
            facts
                .interfaces
                .iter()
                .filter(|i| i.up)
                .flat_map(|i| &i.addresses)
                .find(|a| !a.is_loopback())
                .copied()
        };
        Registration {
            node_id: self.config.node.id.clone(),
            hostname: self.config.node.hostname.clone(),
            ip_address: self
                .config
                .node
                .address
                .or_else(|| own_address(towards))
                .or_else(first),
            port: self.config.api.listen.port(),
            resources: Capacity {
                cpu_cores: facts.cpu_cores,
                memory_total: size_text(facts.memory_total_bytes),
                disk_total: size_text(facts.disk_total_bytes),
            },
            instance_uuid: self.instance_uuid(),
            boot_id: self.node.handle.board().clock.boot_id(),
            agent_version: env!("CARGO_PKG_VERSION"),
            api: Speaks::default(),
            labels: self.config.node.labels.clone(),
        }
    }

    fn report(&self) -> Report {
        // Before anything else is looked at: what changes from now on is not in it.
        let up_to_seq = self.node.writer.store().desired().seq();
        let health = api::Node::health(&*self.node);
        let facts = &health.facts;
        let since_boot = self.node.handle.board().clock.now().0.as_millis();
        let vitals = Vitals {
            seq: u64::try_from(since_boot).unwrap_or(u64::MAX),
            resources: Resources {
                cpu_usage: tenths(facts.cpu_usage_percent),
                memory_usage: tenths(facts.memory_usage_percent),
                disk_available: facts.disk_available(),
                container_count: health.running,
            },
            uptime: facts.uptime_seconds,
            load_average: facts.load_average,
            desired: self.contact.standing().freshness,
        };
        Report {
            vitals,
            content: self.content(&health),
            up_to_seq,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.node.handle.board().changes()
    }

    fn asking(&self) -> Asking {
        let desired = self.node.writer.store().desired();
        let pulled = desired.marks().applied_set();
        Asking {
            // Without it CHaS sends the whole set, of which the bodies are still to be noted.
            etag: pulled
                .filter(|pulled| pulled.has_listed_hashes)
                .and_then(|pulled| pulled.etag.clone()),
            generation: pulled.map(|pulled| pulled.version.generation),
            epoch: pulled.map(|pulled| pulled.version.epoch.clone()),
            whole: pulled.is_none_or(|pulled| pulled.fully_applied),
            seq: desired.seq(),
        }
    }

    async fn pull(&self, set: ChasSet) -> Result<SetOutcome, String> {
        let handle = self.node.handle.clone();
        // What is to be taken over from containerd is not known yet, so nor is what the set would end. On a new node that is
        // nothing, and nothing is started before it is known either.
        let is_adopted = || self.node.writer.store().desired().adoption().is_none();
        let mut changes = self.changes();
        if tokio::time::timeout(ADOPTION_PATIENCE, changes.wait_for(|_| is_adopted()))
            .await
            .is_err()
        {
            return Err("containerd has not shown yet what runs here".to_owned());
        }
        let node_id = self.config.node.id.clone();
        let pulled = self.node.writer.write(move |store| {
            // The disk may have taken no writes when the agent started. This costs nothing where it is so already.
            store.set_identity(|link| link.node_id = node_id)?;
            let outcome = store.apply_set(&set, wall_ms(), listening)?;
            outcome.changed.iter().for_each(|&id| handle.wake(id));
            handle.board().changed();
            Ok(outcome)
        });
        pulled.await.map_err(|error| crate::cause::all(&error))
    }

    async fn acknowledged(&self, up_to_seq: u64) {
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
            tracing::debug!(%error, "what CHaS knows of cannot be noted; it is with the next report");
        }
    }

    fn link(&self) -> marks::NodeIdentity {
        self.node
            .writer
            .store()
            .desired()
            .marks()
            .identity()
            .cloned()
            .unwrap_or_default()
    }

    async fn met(&self, cluster_size: Option<u64>) {
        let boot_id = self.node.handle.board().clock.boot_id();
        self.note(move |link| {
            link.boot_id = boot_id;
            link.cluster_size = cluster_size.unwrap_or(link.cluster_size);
        })
        .await;
    }
}

impl AgentNode {
    /// All is as asked, and a look at everything would say so.
    fn converged(&self) -> bool {
        let (board, desired) = (self.handle.board(), self.writer.store().desired());
        let as_asked = |record: &Arc<Record>| {
            let Known {
                seen,
                history,
                activity,
                ..
            } = board.known(record.id);
            let history = history.of(record);
            activity.is_none() && Phase::of(record.id, Some(record), &seen, &history).is_as_asked()
        };
        let pulled = desired.marks().applied_set();
        board.reachability().reachable
            && desired.adoption().is_none()
            && pulled.is_none_or(|pulled| pulled.fully_applied && pulled.unconfirmed.is_none())
            && desired.records().all(as_asked)
            && board.leftovers(&desired).is_empty()
    }

    /// The link to CHaS, for `/health`.
    pub(super) fn link_shown(&self) -> Option<api::Link> {
        let standing = self.contact.as_ref()?.standing();
        let desired = self.writer.store().desired();
        let pulled = desired.marks().applied_set();
        let held = pulled.and_then(|pulled| pulled.unconfirmed.as_ref());
        let owned = desired
            .records()
            .filter(|record| record.owner == Owner::Chas && !record.removing)
            .count();
        Some(api::Link {
            reachable: standing.reachable,
            since: standing.since,
            error: standing.error,
            registered: standing.registered,
            identity_conflict: standing.identity_conflict,
            stale: standing.freshness.stale,
            age_s: standing.freshness.age_s,
            fault: standing.freshness.fault.map(|fault| fault.message),
            generation: pulled.map(|pulled| pulled.version.generation),
            owned,
            pending_prune: held
                .map(|held| held.names().map(ToString::to_string).collect())
                .unwrap_or_default(),
            cordoned: desired.marks().cordoned(),
            conflicts: pulled.map_or(0, |pulled| pulled.conflicts.len()),
            rejected: pulled.map_or(0, |pulled| pulled.rejected.len()),
        })
    }
}
