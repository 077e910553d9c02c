//! When calls are made, and what follows from their answers.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use state::desired::marks;
use state::ownership::{PullOutcome, PulledSet};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::chas::client::{Fault, FaultKind, Polled};
use crate::chas::wire::{
    Acknowledgement, Capacity, Content, Freshness, Listing, Registration, Report, Resources, Speaks, Vitals, Welcome,
};
use crate::chas::{Asking, Calls, Contact, Link, Node, Settings};
use crate::metrics::Metrics;

/// A server that answers as it is told to, and writes down who called when.
#[derive(Default)]
struct Server {
    calls: Mutex<Vec<(Instant, &'static str)>>,
    /// By call; none: it answers well.
    faults: Mutex<BTreeMap<&'static str, (FaultKind, Option<Duration>)>>,
    generation: AtomicU64,
    /// It holds polls.
    holds: bool,
    changed: Notify,
    cluster_size: Option<u64>,
    /// It keeps what it was told.
    keeps: bool,
    forgets: AtomicBool,
}

impl Server {
    fn called(&self, call: &'static str) -> Result<(), Fault> {
        self.calls.lock().unwrap().push((Instant::now(), call));
        let faults = self.faults.lock().unwrap();
        match faults.get(call).or(faults.get("all")) {
            Some(&(kind, retry_after)) => Err(Fault { kind, message: "as told".to_owned(), retry_after }),
            None => Ok(()),
        }
    }

    fn fail(&self, call: &'static str, kind: FaultKind) {
        self.faults.lock().unwrap().insert(call, (kind, None));
    }

    fn recover(&self) {
        self.faults.lock().unwrap().clear();
    }

    fn list(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// The calls since the last time, without their times.
    fn heard(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().drain(..).map(|(_, call)| call).collect()
    }

    fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(_, called)| *called == call).count()
    }
}

/// One node's calls to it.
struct Line(Arc<Server>);

impl Calls for Line {
    async fn register(&self, _: &Registration) -> Result<Welcome, Fault> {
        self.0.called("register")?;
        Ok(Welcome { cluster_size: self.0.cluster_size, report_changes: self.0.keeps, ..Welcome::default() })
    }

    async fn report(&self, _: &Report, whole: bool) -> Result<Acknowledgement, Fault> {
        self.0.called(if whole { "report" } else { "heartbeat" })?;
        let send_all = self.0.forgets.swap(false, Ordering::Relaxed);
        Ok(Acknowledgement { desired_generation: Some(self.0.generation.load(Ordering::Relaxed)), send_all })
    }

    async fn poll(&self, etag: Option<&str>, _: u64, hold: Duration) -> Result<Polled, Fault> {
        self.0.called("poll")?;
        let tag = || self.0.generation.load(Ordering::Relaxed).to_string();
        if self.0.holds && etag == Some(&tag()) {
            let changed = self.0.changed.notified();
            let _either = tokio::time::timeout(hold, changed).await;
            // What broke off meanwhile did so for those who waited, too.
            self.0
                .faults
                .lock()
                .unwrap()
                .get("all")
                .map_or(Ok(()), |&(kind, retry_after)| Err(Fault { kind, message: "as told".to_owned(), retry_after }))?;
        }
        if etag == Some(&tag()) {
            return Ok(Polled::Unchanged { held: self.0.holds });
        }
        let generation = self.0.generation.load(Ordering::Relaxed);
        let set = PulledSet { epoch: "e".to_owned(), generation, etag: Some(tag()), ..PulledSet::default() };
        Ok(Polled::Listing { listing: Box::new(Listing { set, poll_after: None }) })
    }

    fn has_other_credentials(&self) -> impl Future<Output = bool> + Send {
        ready(false)
    }
}

/// What a small node says of itself.
pub(super) fn registration() -> Registration {
    let resources = Capacity { cpu_cores: 1, memory_total: "1GB".to_owned(), disk_total: "1GB".to_owned() };
    let (node_id, hostname) = ("n".to_owned(), "n".to_owned());
    let (instance_uuid, boot_id, labels) = (String::new(), String::new(), BTreeMap::new());
    let (api, agent_version) = (Speaks::default(), "0");
    Registration { node_id, hostname, ip_address: None, port: 1, resources, instance_uuid, boot_id, agent_version, api, labels }
}

/// A node without containers.
struct Bare {
    asking: Mutex<Asking>,
    link: Mutex<marks::Link>,
    changes: watch::Sender<u64>,
    status: Mutex<&'static str>,
    stores: Mutex<bool>,
}

impl Default for Bare {
    fn default() -> Self {
        let asking = Mutex::new(Asking { whole: true, ..Asking::default() });
        let (changes, link) = (watch::Sender::new(0), Mutex::new(marks::Link::default()));
        Self { asking, link, changes, status: Mutex::new("healthy"), stores: Mutex::new(true) }
    }
}

impl Node for Bare {
    fn registration(&self) -> Registration {
        registration()
    }

    fn report(&self) -> Report {
        let observed_generation = self.asking.lock().unwrap().generation;
        let resources = Resources { cpu_usage: 0.0, memory_usage: 0.0, disk_available: "1GB".to_owned(), container_count: 0 };
        let desired = Freshness { source: "chas", age_s: None, stale: false, fault: None };
        let content = Content {
            status: *self.status.lock().unwrap(),
            boot_id: String::new(),
            instance_uuid: String::new(),
            observed_generation,
            applied_generation: observed_generation,
            converged: true,
            pending_prune: None,
            cordoned: false,
            containers: Vec::new(),
            conflicts: Vec::new(),
            rejected: Vec::new(),
            losses: Vec::new(),
            errors: Vec::new(),
        };
        Report { vitals: Vitals { seq: 0, resources, uptime: 0, load_average: [0.0; 3], desired }, content, up_to_seq: 0 }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn asking(&self) -> Asking {
        self.asking.lock().unwrap().clone()
    }

    fn pull(&self, set: PulledSet) -> impl Future<Output = Result<PullOutcome, String>> + Send {
        if !*self.stores.lock().unwrap() {
            return ready(Err("the disk is full".to_owned()));
        }
        let mut asking = self.asking.lock().unwrap();
        let stale = asking.generation >= Some(set.generation);
        if !stale {
            (asking.generation, asking.etag) = (Some(set.generation), set.etag);
            self.changes.send_modify(|count| *count += 1);
        }
        ready(Ok(PullOutcome { stale, ..PullOutcome::default() }))
    }

    fn acknowledged(&self, _: u64) -> impl Future<Output = ()> + Send {
        ready(())
    }

    fn link(&self) -> marks::Link {
        self.link.lock().unwrap().clone()
    }

    fn met(&self, cluster_size: Option<u64>) -> impl Future<Output = ()> + Send {
        let mut link = self.link.lock().unwrap();
        (link.boot_id, link.cluster_size) = ("b".to_owned(), cluster_size.unwrap_or_default());
        ready(())
    }
}

struct Running {
    node: Arc<Bare>,
    server: Arc<Server>,
    contact: Arc<Contact>,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn join(server: &Arc<Server>, node: &Arc<Bare>, stop: &CancellationToken, tracker: &TaskTracker) -> Arc<Contact> {
    let contact = Arc::new(Contact::default());
    let settings = Settings { boot_id: "b".to_owned(), health_interval: Duration::from_secs(30) };
    let link = Link::new(Arc::clone(node), Line(Arc::clone(server)), settings, Arc::clone(&contact), Metrics::new());
    tracker.spawn(link.run(stop.clone()));
    contact
}

fn start(server: Server) -> Running {
    let (node, server, stop, tracker) = (Arc::default(), Arc::new(server), CancellationToken::new(), TaskTracker::new());
    server.generation.store(1, Ordering::Relaxed);
    let contact = join(&server, &node, &stop, &tracker);
    Running { node, server, contact, stop, tracker }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn it_registers_reports_and_then_asks_and_an_idle_minute_is_three_calls() {
    let running = start(Server { holds: true, ..Server::default() });
    pass(5).await;
    // The set that it got is a change, and reported.
    assert_eq!(running.server.heard(), ["register", "report", "poll", "poll", "report"]);
    assert_eq!(running.node.asking().generation, Some(1));
    pass(600).await;
    let calls = running.server.heard();
    let of = |call: &str| calls.iter().filter(|called| **called == call).count();
    assert!((19..=21).contains(&of("report")) && (10..=13).contains(&of("poll")) && of("register") == 0, "{calls:?}");
    let standing = running.contact.standing();
    assert!(standing.reachable && standing.registered && !standing.freshness.stale);
    running.stop.cancel();
    running.tracker.close();
    running.tracker.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_there_at_once_by_a_held_poll_and_by_a_report_where_polls_are_not_held() {
    for holds in [true, false] {
        let running = start(Server { holds, ..Server::default() });
        pass(100).await;
        running.server.list(2);
        pass(if holds { 1 } else { 32 }).await;
        assert_eq!(running.node.asking().generation, Some(2), "{holds}");
        // Without a hold, it is asked every 7.5 to 22.5 s.
        running.server.heard();
        pass(600).await;
        let polls = running.server.count("poll");
        assert!(if holds { (10..=13).contains(&polls) } else { (27..=81).contains(&polls) }, "{holds} {polls}");
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_reported_within_a_second_joined_and_two_seconds_apart() {
    let running = start(Server { holds: true, ..Server::default() });
    pass(45).await;
    running.server.heard();
    for (status, changes) in [("degraded", 20), ("healthy", 20)] {
        *running.node.status.lock().unwrap() = status;
        for _ in 0..changes {
            running.node.changes.send_modify(|count| *count += 1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let reports = || running.server.heard().into_iter().filter(|call| *call == "report").count();
    assert_eq!(reports(), 1);
    pass(2).await;
    assert_eq!(reports(), 1);
    // What is no change is none.
    running.node.changes.send_modify(|count| *count += 1);
    pass(5).await;
    assert_eq!(reports(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_what_it_was_told_hears_only_what_changes() {
    let running = start(Server { holds: true, keeps: true, ..Server::default() });
    pass(5).await;
    running.server.heard();
    pass(100).await;
    assert_eq!((running.server.count("report"), running.server.count("heartbeat")), (0, 3));
    // It forgot, or is another one: all of it, soon.
    running.server.forgets.store(true, Ordering::Relaxed);
    pass(30).await;
    running.server.heard();
    pass(3).await;
    assert_eq!((running.server.count("report"), running.server.count("heartbeat")), (0, 0));
    *running.node.status.lock().unwrap() = "degraded";
    running.node.changes.send_modify(|count| *count += 1);
    pass(2).await;
    assert_eq!((running.server.count("report"), running.server.count("heartbeat")), (1, 0));
    running.server.fail("all", FaultKind::Away);
    running.server.changed.notify_waiters();
    pass(40).await;
    running.server.heard();
    running.server.recover();
    pass(60).await;
    assert_eq!(running.server.heard()[0], "report", "what it knows is not known");
}

#[tokio::test(start_paused = true)]
async fn what_is_away_is_tried_a_few_times_a_minute_and_first_of_all_reported_to() {
    let running = start(Server { holds: true, ..Server::default() });
    pass(45).await;
    running.server.fail("all", FaultKind::Away);
    running.server.changed.notify_waiters();
    pass(600).await;
    assert!(!running.contact.standing().reachable && running.contact.standing().freshness.stale);
    running.server.heard();
    pass(600).await;
    let calls = running.server.heard();
    assert!((10..=40).contains(&calls.len()) && calls.iter().all(|call| *call == "report"), "{calls:?}");
    running.server.recover();
    pass(60).await;
    let calls = running.server.heard();
    assert_eq!(calls[..2], ["report", "poll"], "{calls:?}");
    assert!(running.contact.standing().reachable && !running.contact.standing().freshness.stale);
}

#[tokio::test(start_paused = true)]
async fn each_fault_has_its_own_pace_and_consequence() {
    for (kind, polls, registers) in [
        (FaultKind::Unauthorized, 4..=40, 0),
        (FaultKind::Conflict, 4..=40, 0),
        (FaultKind::Refused, 4..=40, 0),
        (FaultKind::Bad, 20..=90, 0),
        (FaultKind::Away, 20..=90, 0),
        (FaultKind::NotOffered, 1..=7, 0),
    ] {
        let running = start(Server { holds: true, ..Server::default() });
        pass(10).await;
        running.server.fail("poll", kind);
        running.server.changed.notify_waiters();
        running.server.heard();
        // Reports go on, which is what says that something is wrong.
        pass(1800).await;
        let calls = running.server.heard();
        let of = |call: &str| calls.iter().filter(|called| **called == call).count();
        assert!(polls.contains(&of("poll")) && of("register") == registers && of("report") >= 59, "{kind:?} {calls:?}");
        running.server.recover();
        running.server.list(2);
        pass(700).await;
        assert_eq!(running.node.asking().generation, Some(2), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_known_registers_again() {
    for call in ["poll", "report"] {
        let running = start(Server { holds: true, ..Server::default() });
        pass(10).await;
        running.server.heard();
        running.server.fail(call, FaultKind::Unknown);
        running.server.list(2);
        pass(31).await;
        running.server.recover();
        assert!((1..10).contains(&running.server.count("register")), "{call}");
        pass(301).await;
        assert_eq!(running.node.asking().generation, Some(2), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_set_that_cannot_be_stored_is_said_and_asked_for_again() {
    let running = start(Server { holds: true, ..Server::default() });
    pass(10).await;
    *running.node.stores.lock().unwrap() = false;
    running.server.list(2);
    pass(60).await;
    let fault = running.contact.standing().freshness.fault.unwrap();
    assert_eq!((fault.code, fault.message.as_str()), ("not_stored", "the disk is full"));
    *running.node.stores.lock().unwrap() = true;
    pass(60).await;
    assert_eq!((running.node.asking().generation, running.contact.standing().freshness.fault), (Some(2), None));
}

#[tokio::test(start_paused = true)]
async fn an_older_generation_changes_nothing() {
    let running = start(Server { holds: true, ..Server::default() });
    running.server.list(9);
    pass(10).await;
    running.server.list(3);
    pass(300).await;
    assert_eq!(running.node.asking().generation, Some(9));
    // And is not asked for without a pause.
    assert!(running.server.count("poll") < 45, "{}", running.server.count("poll"));
}

/// Calls by second, from a moment on.
fn by_second(server: &Server, from: Instant, seconds: usize) -> Vec<usize> {
    let mut counts = vec![0; seconds];
    for (at, _) in server.calls.lock().unwrap().iter() {
        let second = at.checked_duration_since(from).map(|since| since.as_secs());
        if let Some(count) = second.and_then(|second| counts.get_mut(usize::try_from(second).unwrap())) {
            *count += 1;
        }
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_fleet_does_not_boot_come_back_or_go_on_after_a_change_all_at_once() {
    const NODES: usize = 3000;
    let server = Arc::new(Server { holds: true, cluster_size: Some(NODES as u64), ..Server::default() });
    server.generation.store(1, Ordering::Relaxed);
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let nodes: Vec<Arc<Bare>> = (0..NODES).map(|_| Arc::default()).collect();
    for node in &nodes {
        // They met CHaS in another boot.
        *node.link.lock().unwrap() = marks::Link { cluster_size: NODES as u64, ..marks::Link::default() };
        join(&server, node, &stop, &tracker);
    }
    let begun = Instant::now();
    pass(30).await;
    // Over 30 s, each with its registration, two reports and two polls.
    let peak = *by_second(&server, begun, 30).iter().max().unwrap();
    assert!(peak <= 5 * NODES / 30 * 13 / 10, "{peak} calls in one second while they boot");
    pass(570).await;
    let steady = by_second(&server, begun + Duration::from_secs(300), 300);
    let mean = steady.iter().sum::<usize>() / steady.len();
    assert!((NODES / 22..=NODES / 17).contains(&mean), "{mean}");

    // What all of them are told at once does not make them one.
    server.list(2);
    pass(10).await;
    let told = Instant::now();
    pass(300).await;
    let peak = *by_second(&server, told, 300).iter().max().unwrap();
    assert!(peak < 2 * mean, "{peak} calls in one second after a change, and {mean} usually");

    server.fail("all", FaultKind::Away);
    server.changed.notify_waiters();
    pass(300).await;
    server.recover();
    let back = Instant::now();
    pass(180).await;
    let calls = by_second(&server, back, 180);
    let peak = *calls.iter().max().unwrap();
    assert!(peak < 2 * mean, "{peak} calls in one second, and {mean} usually: {calls:?}");
    let reached = server.calls.lock().unwrap().iter().filter(|(at, call)| *at >= back && *call == "poll").count();
    assert!(reached >= NODES, "{reached}");
    stop.cancel();
}
