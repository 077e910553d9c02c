//! A node in memory: reconciler, queue, plan and real store on the in-memory runtime.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use chas_node_agent::journal::Journal;
use chas_node_agent::metrics::Metrics;
use chas_node_agent::probe::{Asker, Probes};
use chas_node_agent::reconcile::{Clock, Handle, Reconciler, follow_schedules, follow_tags};
use chas_node_agent::writer::Writer;
use serde_json::{Value, json};
use state::assign::QuietNetwork;
use state::desired::{Owner, RunState};
use state::id::ContainerId;
use state::status::{Condition, condition};
use state::store::{DiskCall, Limits, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::script::ScriptedRuntime;

pub(crate) struct Node {
    pub(crate) runtime: Arc<ScriptedRuntime>,
    pub(crate) store: Arc<Store>,
    pub(crate) handle: Handle,
    writer: Writer,
    pub(crate) metrics: Metrics,
    pub(crate) journal: Journal,
    pub(crate) stop: CancellationToken,
    tracker: TaskTracker,
    directory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_on(Arc::default(), tempfile::tempdir().unwrap())
    }

    pub(crate) fn start_on(runtime: Arc<ScriptedRuntime>, directory: tempfile::TempDir) -> Self {
        Self::start_at(runtime, directory, Clock::start())
    }

    /// The same, which goes by this clock.
    pub(crate) fn start_at(
        runtime: Arc<ScriptedRuntime>,
        directory: tempfile::TempDir,
        clock: Clock,
    ) -> Self {
        Self::start_with(runtime, directory, clock, state::store::sound_disk)
    }

    /// The same, on a disk that does as this one.
    pub(crate) fn start_with(
        runtime: Arc<ScriptedRuntime>,
        directory: tempfile::TempDir,
        clock: Clock,
        disk: fn(DiskCall) -> std::io::Result<()>,
    ) -> Self {
        let addresses = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 0, 99);
        let limits = Limits {
            ports: 100..=199,
            network: Arc::new(QuietNetwork(addresses)),
            containers_max: 50,
            capacity: state::capacity::Capacity::ENDLESS,
            new_privileges: false,
            random: state::store::random,
            disk,
        };
        let store = Arc::new(Store::open(directory.path(), limits).unwrap());
        let (metrics, tracker) = (Metrics::new(), TaskTracker::new());
        let journal = Journal::new(metrics.clone());
        let writer = Writer::new(Arc::clone(&store), journal.clone(), tracker.clone());
        let reconciler = Reconciler::new(
            Arc::clone(&runtime),
            writer.clone(),
            journal.clone(),
            clock,
            Duration::from_secs(30),
        );
        let (handle, stop) = (reconciler.handle(), CancellationToken::new());
        tracker.spawn(reconciler.run(stop.clone(), tracker.clone()));
        Self {
            runtime,
            store,
            handle,
            writer,
            metrics,
            journal,
            stop,
            tracker,
            directory,
        }
    }

    /// The tags of containers are asked for at this interval.
    pub(crate) fn follow_tags(&self, interval: Duration) {
        let timer = follow_tags(self.writer.clone(), self.handle.clone(), interval);
        let stop = self.stop.clone();
        self.tracker
            .spawn(async move { stop.run_until_cancelled(timer).await });
    }

    /// Containers with a schedule are run at their times.
    pub(crate) fn follow_schedules(&self) {
        let (writer, handle) = (self.writer.clone(), self.handle.clone());
        let timer = follow_schedules(writer, handle, self.journal.clone());
        let stop = self.stop.clone();
        self.tracker
            .spawn(async move { stop.run_until_cancelled(timer).await });
    }

    /// Containers with a probe are asked by `asker`.
    pub(crate) fn probe(&self, asker: Arc<dyn Asker>) {
        let probes = Probes::new(
            self.writer.clone(),
            self.handle.clone(),
            (self.journal.clone(), self.metrics.clone()),
            asker,
            |ceiling| ceiling / 2,
        );
        self.tracker.spawn(probes.run(self.stop.clone()));
    }

    /// The agent ends as on SIGTERM, and another one starts on the same disk and runtime.
    pub(crate) async fn restart(self) -> Self {
        let (runtime, directory) = self.end().await;
        Self::start_on(runtime, directory)
    }

    /// The agent ends as on SIGTERM.
    pub(crate) async fn end(self) -> (Arc<ScriptedRuntime>, tempfile::TempDir) {
        let Self {
            runtime,
            store,
            handle,
            writer,
            stop,
            tracker,
            directory,
            ..
        } = self;
        stop.cancel();
        tracker.close();
        tracker.wait().await;
        drop((store, handle, writer));
        (runtime, directory)
    }

    /// Directory of the stored state.
    pub(crate) fn state_dir(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn deploy(&self, body: &Value) -> ContainerId {
        let deploy = state::spec::parse::deploy(body).unwrap();
        let now_ms = state::time::unix_ms(self.handle.board().clock.wall_now());
        let id = self
            .store
            .deploy(deploy, Owner::Push, false, now_ms)
            .unwrap()
            .record
            .id;
        self.handle.wake(id);
        id
    }

    pub(crate) fn remove(&self, id: ContainerId) {
        self.store
            .change(id, |record| record.removing = true)
            .unwrap();
        self.handle.wake(id);
    }

    pub(crate) fn condition(&self, id: ContainerId) -> Condition {
        let known = self.handle.board().known(id);
        let desired = self.store.desired();
        let record = desired.get(id).unwrap();
        let phase = self.handle.board().phase(&desired, record);
        condition(record, &phase, &known.history, known.activity, None)
    }

    pub(crate) fn settled(&self) -> bool {
        let desired = self.store.desired();
        let wanted = desired
            .records()
            .filter(|r| r.run == RunState::Running && !r.removing)
            .map(|r| r.instance());
        desired.records().all(|r| !r.removing) && self.runtime.running() == wanted.collect()
    }
}

/// The store writes on a thread of its own, which virtual time does not wait for: so time is let go in small pieces,
/// with a breath of real time in between.
pub(crate) async fn pass(time: Duration) {
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        std::thread::sleep(Duration::from_micros(200));
        tokio::task::yield_now().await;
    }
}

pub(crate) fn web() -> Value {
    json!({"name": "web", "image": "nginx"})
}
