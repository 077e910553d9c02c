//! Carries out what [`state::plan`] decides, for ever: one step, then another look.
//!
//! [`queue`] says *when* a container has its turn, the plan *what* is done in it, the [`Runtime`] *how*. Whoever wakes a
//! container does not say why: a turn looks for itself. So a missed event costs time, never correctness.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use state::desired::Record;
use state::id::ContainerId;
use state::memory::{BootTime, Memory};
use state::observed::Seen;
use state::plan::{Step, step};
use state::reason::Reason;
use state::status::Activity;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::runtime::{Foreign, PullProgress, Runtime, RuntimeEvent};
use crate::writer::Writer;
use queue::Queue;

mod leftovers;
pub mod queue;
mod turn;

/// Hints that may wait to be read. More than a thousand containers cause at once; beyond it, a resync finds the rest.
const EVENTS_MAX: usize = 4096;
/// Errors kept for `/health`.
const ERRORS_MAX: usize = 20;
/// How soon after a failed listing the next one is tried.
const RELIST_AFTER: Duration = Duration::from_millis(500);

/// Time since boot, from a clock that tests can stop: tokio's, from the moment the agent started.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at_start: Duration,
    start: Instant,
    boot_id: u128,
}

impl Clock {
    /// A clock that shows `CLOCK_BOOTTIME` now and goes on from there.
    #[must_use]
    pub fn start() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id = u128::from_str_radix(&boot_id.trim().replace('-', ""), 16).unwrap_or_default();
        Self::at(Duration::try_from(time).unwrap_or_default(), boot_id)
    }

    /// A clock that shows `at_start` now, in the boot with this id.
    #[must_use]
    pub fn at(at_start: Duration, boot_id: u128) -> Self {
        Self { at_start, start: Instant::now(), boot_id }
    }

    /// Which boot of the node its times are of.
    #[must_use]
    pub fn boot_id(&self) -> String {
        format!("{:032x}", self.boot_id)
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> BootTime {
        BootTime(self.at_start + self.start.elapsed())
    }

    /// The wall time at `point`, for showing.
    #[must_use]
    pub fn wall(&self, point: BootTime) -> SystemTime {
        let now = self.now();
        SystemTime::now() + point.since(now) - now.since(point)
    }
}

/// What is known of one container beyond its record.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What the last look found.
    pub seen: Seen,
    /// What happened to it lately.
    pub memory: Memory,
    /// What is being done for it.
    pub activity: Option<Activity>,
    /// How far its pull is.
    pub pull: Option<Arc<PullProgress>>,
}

/// Something that went wrong, for `/health`.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// When.
    pub at: SystemTime,
    /// Its code.
    pub reason: Reason,
    /// What happened, with the container's name.
    pub message: String,
}

/// Whether the runtime answers, and since when it does or does not.
#[derive(Clone, Debug)]
pub struct Reachability {
    /// It answers.
    pub reachable: bool,
    /// Since when that is so.
    pub since: SystemTime,
    /// What it said last when it did not.
    pub error: Option<String>,
}

/// What the reconciler knows, shared with those who show it.
#[derive(Debug)]
pub struct Board {
    known: Mutex<BTreeMap<ContainerId, Known>>,
    foreign: Mutex<Vec<Foreign>>,
    troubles: Mutex<VecDeque<Trouble>>,
    reachability: Mutex<Reachability>,
    changes: watch::Sender<u64>,
    /// The time everything is measured in.
    pub clock: Clock,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    fn new(clock: Clock) -> Self {
        let reachability = Reachability { reachable: false, since: SystemTime::now(), error: Some("not asked yet".to_owned()) };
        Self {
            known: Mutex::default(),
            foreign: Mutex::default(),
            troubles: Mutex::default(),
            reachability: Mutex::new(reachability),
            changes: watch::Sender::new(0),
            clock,
        }
    }

    /// What is known of one container; nothing, if it was never looked at.
    #[must_use]
    pub fn known(&self, id: ContainerId) -> Known {
        lock(&self.known).get(&id).cloned().unwrap_or_default()
    }

    /// Containers in our namespace that are not ours.
    #[must_use]
    pub fn foreign(&self) -> Vec<Foreign> {
        lock(&self.foreign).clone()
    }

    /// What went wrong lately, oldest first.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        lock(&self.troubles).iter().cloned().collect()
    }

    /// Whether the runtime answers.
    #[must_use]
    pub fn reachability(&self) -> Reachability {
        lock(&self.reachability).clone()
    }

    /// A number that grows whenever anything on the board changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Tells those who watch that something changed.
    pub fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn update<T>(&self, id: ContainerId, update: impl FnOnce(&mut Known) -> T) -> T {
        let result = update(lock(&self.known).entry(id).or_default());
        self.changed();
        result
    }

    fn drop_known(&self, id: ContainerId) {
        lock(&self.known).remove(&id);
        self.changed();
    }

    fn trouble(&self, reason: Reason, message: String) {
        let mut troubles = lock(&self.troubles);
        if troubles.len() == ERRORS_MAX {
            troubles.pop_front();
        }
        troubles.push_back(Trouble { at: SystemTime::now(), reason, message });
    }

    fn reached(&self, error: Option<String>) {
        let mut now = lock(&self.reachability);
        // Before the first answer or refusal it is neither: the first of either is news too.
        let is_news = if error.is_none() { !now.reachable } else { now.error.is_none() };
        if is_news {
            match &error {
                None => tracing::info!("containerd answers"),
                Some(error) => tracing::warn!(%error, "containerd does not answer"),
            }
            now.since = SystemTime::now();
        }
        (now.reachable, now.error) = (error.is_none(), error);
        drop(now);
        self.changed();
    }
}

/// The part of the reconciler that others hold: it wakes containers, and shows what is known.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: Arc<Queue>,
    board: Arc<Board>,
}

impl Handle {
    /// Gives the container a turn now; one that is pulling an image meanwhile gives up if it is no longer wanted.
    pub fn wake(&self, id: ContainerId) {
        self.queue.interrupt(id);
        self.queue.wake(id);
        self.board.changed();
    }

    /// What the reconciler knows.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

/// The reconciler: everything it needs, and nothing of what it knows.
#[derive(Debug)]
pub struct Reconciler<R> {
    runtime: Arc<R>,
    writer: Writer,
    queue: Arc<Queue>,
    board: Arc<Board>,
    /// The runtime is (again) there: what happened before is unknown.
    look_at_all: Notify,
    resync_interval: Duration,
    metrics: Metrics,
}

impl<R: Runtime> Reconciler<R> {
    /// A reconciler that has not begun. A whole look at everything is taken every `resync_interval`.
    #[must_use]
    pub fn new(runtime: Arc<R>, writer: Writer, clock: Clock, resync_interval: Duration) -> Self {
        let board = Arc::new(Board::new(clock));
        for (id, memory) in writer.store().memories(&clock.boot_id()) {
            board.update(id, |known| known.memory = memory);
        }
        let (queue, look_at_all, metrics) = (Arc::default(), Notify::new(), Metrics::new());
        Self { runtime, writer, queue, board, look_at_all, resync_interval, metrics }
    }

    /// Counts what it does in `metrics`.
    #[must_use]
    pub fn counting(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// What others hold of it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { queue: Arc::clone(&self.queue), board: Arc::clone(&self.board) }
    }

    /// Reconciles until `stop`. Turns under way go on in `tracker`, which is what to wait for then.
    pub async fn run(self, stop: CancellationToken, tracker: TaskTracker) {
        let this = Arc::new(self);
        let (events, mut hints) = mpsc::channel(EVENTS_MAX);
        let follower = Arc::clone(&this);
        let stopped = stop.clone();
        tracker.spawn(async move {
            tokio::select! {
                () = follower.runtime.follow(events) => {}
                () = stopped.cancelled() => {}
            }
        });
        let (resyncing, stopped) = (Arc::clone(&this), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                () = resyncing.resync_for_ever() => {}
                () = stopped.cancelled() => {}
            }
        });
        loop {
            tokio::select! {
                // In this order, so that the same happenings have the same consequences.
                biased;
                // A pull may take minutes; what it has fetched is kept.
                () = stop.cancelled() => return this.queue.interrupt_all(),
                Some(hint) = hints.recv() => match hint {
                    RuntimeEvent::Changed(id) => this.queue.wake(id),
                    RuntimeEvent::Connected => this.look_at_all.notify_one(),
                    RuntimeEvent::Disconnected => this.board.reached(Some("the connection broke".to_owned())),
                },
                (id, interrupt) = this.queue.next() => {
                    let turn = Arc::clone(&this);
                    tracker.spawn(async move { turn.turn(id, interrupt).await });
                }
            }
        }
    }

    /// Beside the turns, since a sweep may take seconds and a container that ended is not to wait for it.
    async fn resync_for_ever(&self) {
        loop {
            let wait = if self.resync().await { self.resync_interval } else { RELIST_AFTER };
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.look_at_all.notified() => {}
            }
        }
    }

    /// Looks at everything; wakes what is not as wanted, and takes away what belongs to nobody. False if it could not.
    async fn resync(&self) -> bool {
        let listing = match self.runtime.list().await {
            Ok(listing) => listing,
            Err(error) => {
                self.board.reached(Some(error.to_string()));
                return false;
            }
        };
        self.board.reached(None);
        *lock(&self.board.foreign) = listing.foreign;
        if self.writer.store().desired().adoption().is_some() && !self.adopt().await {
            return false;
        }
        // Taken after the listing: what was deployed meanwhile is wanted, and is looked at in its own turn.
        let desired = self.writer.store().desired();
        let now = self.board.clock.now();
        let unsettled = desired.records().filter(|record| {
            let seen = listing.ours.get(&record.id).cloned().unwrap_or_default();
            let mut known = self.board.known(record.id);
            known.memory.look(record, &seen, now, |_| Duration::ZERO);
            known.seen != seen || step(record.id, Some(record), &seen, &known.memory, now) != Step::Settled
        });
        let mut wake: Vec<_> = unsettled.map(|record| (record.priority, record.id)).collect();
        let is_orphan = |id: &&ContainerId| desired.get(**id).is_none() && !desired.holds(**id);
        wake.extend(listing.ours.keys().filter(is_orphan).map(|id| (0, *id)));
        wake.sort_by(|a, b| b.cmp(a));
        for (_, id) in wake {
            self.queue.wake(id);
        }
        self.board.changed();
        // What a record asks for that is not understood cannot be told from a leftover.
        if desired.opaque_count() == 0 {
            self.sweep(desired.records().map(|record| (**record).clone()).collect()).await;
        }
        true
    }

    /// Takes in the runtime's copies of what is desired, after the state was begun or rebuilt. False if that could not be.
    async fn adopt(&self) -> bool {
        let copies = match self.runtime.salvage().await {
            Ok(copies) => copies,
            Err(error) => {
                tracing::warn!(%error, "what is desired cannot be read from containerd's labels yet");
                return false;
            }
        };
        match self.writer.write(move |store| store.adopt(&copies)).await {
            Ok(taken) => {
                for line in taken {
                    tracing::warn!(%line, "the state was rebuilt");
                    self.board.trouble(Reason::StateLost, line);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the state cannot be rebuilt yet");
                self.board.trouble(Reason::DiskFull, error.to_string());
                false
            }
        }
    }

    async fn sweep(&self, wanted: Vec<Record>) {
        match self.runtime.sweep(&wanted).await {
            Ok(swept) => swept.removed.iter().for_each(|line| tracing::info!(what = %line, "swept")),
            Err(error) => {
                tracing::warn!(%error, "could not sweep");
                self.board.trouble(Reason::RemoveFailed, format!("leftovers could not be taken away: {error}"));
            }
        }
    }
}
