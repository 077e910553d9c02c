//! Fakes for tests of the link: a server and nodes, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use state::desired::marks;
use state::ownership::{ChasSet, SetOutcome, SetSignature};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chas::client::{ChasError, ChasErrorKind, PollReply};
use crate::chas::wire::{
    CapacityReport, NodeCapacity, RegisterReply, Registration, Report, ReportContent, ReportReply,
    ResourceUsage, SetFreshness, SetReply, SupportedSchemas, Vitals,
};
use crate::chas::{ChasCalls, ChasLink, LastApplied, LinkNode, LinkSettings, LinkState};
use crate::journal::Journal;

/// A server that answers as a test tells it, and records its calls.
#[derive(Default)]
pub(super) struct Server {
    pub(super) calls: Mutex<Vec<(Instant, &'static str)>>,
    /// Errors by call; a call without one succeeds.
    pub(super) faults: Mutex<BTreeMap<&'static str, (ChasErrorKind, Option<Duration>)>>,
    pub(super) generation: AtomicU64,
    /// Whether the server keeps polls open.
    pub(super) holds: bool,
    pub(super) changed: Notify,
    pub(super) cluster_size: Option<u64>,
    /// Whether the server keeps reports.
    pub(super) keeps: bool,
    pub(super) forgets: AtomicBool,
    /// Time that an answer to a poll takes.
    pub(super) poll_takes: Duration,
    /// Whether sets have no tag.
    pub(super) tagless: bool,
    /// Whether sets are signed.
    pub(super) signs: bool,
    /// Whether a set has another tag each time.
    pub(super) fickle: bool,
}

impl Server {
    pub(super) fn called(&self, call: &'static str) -> Result<(), ChasError> {
        self.calls.lock().unwrap().push((Instant::now(), call));
        let faults = self.faults.lock().unwrap();
        match faults.get(call).or(faults.get("all")) {
            Some(&(kind, retry_after)) => Err(error(kind, retry_after)),
            None => Ok(()),
        }
    }

    pub(super) fn fail(&self, call: &'static str, kind: ChasErrorKind) {
        self.faults.lock().unwrap().insert(call, (kind, None));
    }

    pub(super) fn recover(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub(super) fn list(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// The calls since the last time this was called.
    pub(super) fn heard(&self) -> Vec<&'static str> {
        self.calls
            .lock()
            .unwrap()
            .drain(..)
            .map(|(_, call)| call)
            .collect()
    }

    pub(super) fn count(&self, call: &str) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, called)| *called == call)
            .count()
    }
}

pub(super) fn error(kind: ChasErrorKind, retry_after: Option<Duration>) -> ChasError {
    ChasError {
        kind,
        message: "as told".to_owned(),
        retry_after,
        is_answer: !kind.is_unreachable(),
        is_cut: kind == ChasErrorKind::Unreachable,
        credentials_fingerprint: 0,
    }
}

/// The calls of one node to a server.
pub(super) struct Line(pub(super) Arc<Server>);

impl ChasCalls for Line {
    async fn register(&self, _: &Registration) -> Result<RegisterReply, ChasError> {
        self.0.called("register")?;
        Ok(RegisterReply {
            cluster_size: self.0.cluster_size,
            report_changes: self.0.keeps,
            ..RegisterReply::default()
        })
    }

    async fn report(&self, _: &Report, is_full: bool) -> Result<ReportReply, ChasError> {
        self.0
            .called(if is_full { "report" } else { "heartbeat" })?;
        let send_all = self.0.forgets.swap(false, Ordering::Relaxed);
        let desired_generation = Some(self.0.generation.load(Ordering::Relaxed));
        Ok(ReportReply {
            desired_generation,
            desired_epoch: None,
            send_all,
        })
    }

    async fn poll(
        &self,
        etag: Option<&str>,
        _: u64,
        wait: Duration,
    ) -> Result<PollReply, ChasError> {
        self.0.called("poll")?;
        let tag = || self.0.generation.load(Ordering::Relaxed).to_string();
        let holds = self.0.holds && !wait.is_zero();
        if holds && etag == Some(&tag()) {
            let changed = self.0.changed.notified();
            let _either = tokio::time::timeout(wait, changed).await;
            // What broke off meanwhile did so for those who waited, too.
            self.0
                .faults
                .lock()
                .unwrap()
                .get("all")
                .map_or(Ok(()), |&(kind, retry_after)| Err(error(kind, retry_after)))?;
        }
        if etag == Some(&tag()) {
            return Ok(PollReply::Unchanged { waited: holds });
        }
        tokio::time::sleep(self.0.poll_takes).await;
        let generation = self.0.generation.load(Ordering::Relaxed);
        let tag = if self.0.fickle {
            format!("{:?}", Instant::now())
        } else {
            tag()
        };
        let etag = (!self.0.tagless).then_some(tag);
        let set = ChasSet {
            epoch: "e".to_owned(),
            generation,
            etag,
            signature: self.0.signs.then(fake_signature),
            ..ChasSet::default()
        };
        Ok(PollReply::Set(Box::new(SetReply {
            set,
            poll_after: None,
        })))
    }

    fn believes(&self, signed_by: &BTreeSet<String>) -> impl Future<Output = bool> + Send {
        ready(!self.0.signs || signed_by.contains("k"))
    }

    fn has_other_credentials(&self, _: u64) -> impl Future<Output = bool> + Send {
        ready(false)
    }
}

fn fake_signature() -> SetSignature {
    let keys: BTreeSet<_> = ["k".to_owned()].into();
    SetSignature {
        by: keys.clone(),
        keys,
    }
}

/// The registration of a small node.
pub(super) fn registration() -> Registration {
    let resources = NodeCapacity {
        cpu_cores: 1,
        memory_total: "1GB".to_owned(),
        disk_total: "1GB".to_owned(),
    };
    let (node_id, hostname) = ("n".to_owned(), "n".to_owned());
    let (instance_uuid, boot_id, labels) = (String::new(), String::new(), BTreeMap::new());
    let (api, agent_version) = (SupportedSchemas::default(), "0");
    Registration {
        node_id,
        hostname,
        ip_address: None,
        port: 1,
        resources,
        capacity: CapacityReport::default(),
        instance_uuid,
        boot_id,
        agent_version,
        api,
        labels,
    }
}

/// A node without containers.
pub(super) struct Bare {
    pub(super) last_applied: Mutex<LastApplied>,
    pub(super) link: Mutex<marks::NodeIdentity>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) status: Mutex<&'static str>,
    pub(super) stores: Mutex<bool>,
}

impl Default for Bare {
    fn default() -> Self {
        let last_applied = Mutex::new(LastApplied {
            fully_applied: true,
            ..LastApplied::default()
        });
        let (changes, link) = (
            watch::Sender::new(0),
            Mutex::new(marks::NodeIdentity::default()),
        );
        Self {
            last_applied,
            link,
            changes,
            status: Mutex::new("healthy"),
            stores: Mutex::new(true),
        }
    }
}

impl LinkNode for Bare {
    fn registration(&self) -> Registration {
        registration()
    }

    fn report(&self) -> Report {
        let observed_generation = self.last_applied.lock().unwrap().generation;
        let resources = ResourceUsage {
            cpu_usage: 0.0,
            memory_usage: 0.0,
            disk_available: "1GB".to_owned(),
            container_count: 0,
        };
        let desired = SetFreshness {
            source: "chas",
            age_s: None,
            stale: false,
            fault: None,
        };
        let content = ReportContent {
            status: *self.status.lock().unwrap(),
            observed_generation,
            applied_generation: observed_generation,
            converged: true,
            ..ReportContent::default()
        };
        Report {
            vitals: Vitals {
                seq: 0,
                resources,
                uptime: 0,
                load_average: [0.0; 3],
                desired,
            },
            content,
            up_to_seq: 0,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn last_applied(&self) -> LastApplied {
        self.last_applied.lock().unwrap().clone()
    }

    fn apply_set(&self, set: ChasSet) -> impl Future<Output = Result<SetOutcome, String>> + Send {
        if !*self.stores.lock().unwrap() {
            return ready(Err("the disk is full".to_owned()));
        }
        let mut last_applied = self.last_applied.lock().unwrap();
        let stale = last_applied.generation >= Some(set.generation) && !set.is_settled;
        if last_applied.generation <= Some(set.generation) || set.is_settled {
            last_applied.etag = set.etag;
            last_applied.signed_by = set
                .signature
                .map(|signature| signature.by)
                .unwrap_or_default();
        }
        if !stale {
            (last_applied.generation, last_applied.epoch) = (Some(set.generation), Some(set.epoch));
            self.changes.send_modify(|count| *count += 1);
        }
        ready(Ok(SetOutcome {
            stale,
            ..SetOutcome::default()
        }))
    }

    fn report_acknowledged(&self, _: u64) -> impl Future<Output = ()> + Send {
        ready(())
    }

    fn identity(&self) -> marks::NodeIdentity {
        self.link.lock().unwrap().clone()
    }

    fn registered(&self, cluster_size: Option<u64>) -> impl Future<Output = ()> + Send {
        let mut link = self.link.lock().unwrap();
        (link.boot_id, link.cluster_size) = ("b".to_owned(), cluster_size.unwrap_or_default());
        ready(())
    }
}

pub(super) struct Running {
    pub(super) node: Arc<Bare>,
    pub(super) server: Arc<Server>,
    pub(super) state: Arc<LinkState>,
    pub(super) journal: Journal,
    pub(super) stop: CancellationToken,
    pub(super) tracker: TaskTracker,
}

impl Running {
    /// Kinds of the events so far.
    pub(super) fn told(&self) -> Vec<&'static str> {
        let entries = self.journal.after(0);
        entries
            .iter()
            .map(|entry| entry.event.kind.as_str())
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) fn join(
    server: &Arc<Server>,
    node: &Arc<Bare>,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) -> (Arc<LinkState>, Journal) {
    let (state, journal) = (Arc::new(LinkState::default()), Journal::default());
    let settings = LinkSettings {
        boot_id: "b".to_owned(),
        health_interval: Duration::from_secs(30),
    };
    let link = ChasLink::new(
        Arc::clone(node),
        Line(Arc::clone(server)),
        settings,
        Arc::clone(&state),
        journal.clone(),
    );
    tracker.spawn(link.run(stop.clone()));
    (state, journal)
}

pub(super) fn start(server: Server) -> Running {
    let (node, server, stop, tracker) = (
        Arc::default(),
        Arc::new(server),
        CancellationToken::new(),
        TaskTracker::new(),
    );
    server.generation.store(1, Ordering::Relaxed);
    let (state, journal) = join(&server, &node, &stop, &tracker);
    Running {
        node,
        server,
        state,
        journal,
        stop,
        tracker,
    }
}

pub(super) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
