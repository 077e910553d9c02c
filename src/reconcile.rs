//! Carries out the steps that [`state::plan`] decides on, for ever: one step, then another look.
//!
//! [`queue`] says *when* a container has its turn, the plan *what* is done in it, the [`Runtime`] *how*. Whoever wakes a
//! container does not say why: a turn looks for itself. So a missed event costs time, never correctness.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use state::event::{Event, EventKind};
use state::history::Cause;
use state::id::ContainerId;
use state::observed::Seen;
use state::phase::Phase;
use state::reason::Reason;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff;
use crate::journal::Journal;
use crate::runtime::{Runtime, RuntimeEvent, RuntimeListing, WantedRecords};
use crate::writer::Writer;
use liveness::Liveness;
use queue::Queue;

mod board;
mod clock;
mod contact;
mod delays;
mod drain;
mod effects;
mod ended;
mod execute;
mod failed;
mod known;
mod leftovers;
mod liveness;
mod proven;
pub(crate) mod queue;
mod schedule;
mod signed;
mod silence;
mod surroundings;
mod sweep;
mod tag_check;
mod tag_follow;
mod turn;
mod update;

pub use board::{Board, Fact, Known, Reachability};
pub use clock::Clock;
pub use contact::follow_contact;
pub use drain::follow_drain;
pub use schedule::follow_schedules;
pub use tag_follow::follow_tags;

/// Hints that may wait to be read. More than a thousand containers cause at once; beyond it, a resync finds the rest.
const EVENTS_MAX: usize = 4096;
/// Time in which the kernel, when it has told that memory ran out, has killed a process and counted it.
const KILLED_AFTER: Duration = Duration::from_millis(250);
/// Wait before the next listing after a failed one.
const RELIST_AFTER: Duration = Duration::from_millis(500);
/// Wait before the next listing while the desired state is unknown.
const UNKNOWN_RELIST_AFTER: Duration = Duration::from_secs(2);

/// The part of the reconciler that others hold: it wakes containers, shows the board, and says whether turns make progress.
#[derive(Clone, Debug)]
pub struct Handle {
    queue: Arc<Queue>,
    board: Arc<Board>,
    liveness: Arc<Liveness>,
}

impl Handle {
    /// Gives the container a turn now; one that is pulling an image meanwhile gives up if it is no longer wanted.
    pub fn wake(&self, id: ContainerId) {
        self.queue.interrupt(id);
        self.queue.wake(id);
        self.board.changed();
    }

    /// Gives the container a turn now, in which it is started whatever failed before.
    pub fn start_now(&self, id: ContainerId) {
        self.board.end_backoff(id, &[Cause::Start, Cause::Exit]);
        self.wake(id);
    }

    /// Gives the container a turn now, in which the registry is asked about its image whatever failed before.
    pub fn ask_now(&self, id: ContainerId) {
        self.board.end_backoff(id, &[Cause::Start]);
        self.wake(id);
    }

    /// Gives the container a turn now. A pull that is under way goes on.
    pub fn look_at(&self, id: ContainerId) {
        self.queue.wake(id);
    }

    /// Saves a container's history over a restart of the agent.
    pub async fn remember(&self, writer: &Writer, id: ContainerId) {
        let board = Arc::clone(&self.board);
        writer.remember(id, move || board.to_store(id)).await;
    }

    /// The board.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The number of containers that have a turn or wait for one.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }
}

/// The reconciler: everything it needs; all that it knows is on the board.
#[derive(Debug)]
pub struct Reconciler<R> {
    runtime: Arc<R>,
    writer: Writer,
    queue: Arc<Queue>,
    board: Arc<Board>,
    liveness: Arc<Liveness>,
    /// The runtime is (again) there: what happened before is unknown.
    look_at_all: Notify,
    resync_interval: Duration,
    journal: Journal,
    /// Whether it has what the agent before knew, as far as the files have it.
    remembers: AtomicBool,
    /// Draws a wait between nothing and the one given.
    draw: fn(Duration) -> Duration,
}

impl<R: Runtime> Reconciler<R> {
    /// A reconciler that has not begun. Everything is looked at every `resync_interval`.
    #[must_use]
    pub fn new(
        runtime: Arc<R>,
        writer: Writer,
        journal: Journal,
        clock: Clock,
        resync_interval: Duration,
    ) -> Self {
        let board = Arc::new(Board::new(clock));
        let (queue, look_at_all) = (Arc::default(), Notify::new());
        let this = Self {
            runtime,
            writer,
            queue,
            board,
            liveness: Arc::default(),
            look_at_all,
            resync_interval,
            journal,
            remembers: AtomicBool::new(false),
            draw: |ceiling| backoff::delay(ceiling, ceiling, 0),
        };
        this.remember_histories();
        this
    }

    /// The same, with the random part of its waits from `draw`: for simulations.
    #[must_use]
    pub fn drawing(self, draw: fn(Duration) -> Duration) -> Self {
        Self { draw, ..self }
    }

    /// The handle that others hold.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            queue: Arc::clone(&self.queue),
            board: Arc::clone(&self.board),
            liveness: Arc::clone(&self.liveness),
        }
    }

    /// Reconciles until `stop`. Turns under way go on in `tracker`, which is what to wait for then.
    pub async fn run(self, stop: CancellationToken, tracker: TaskTracker) {
        let this = Arc::new(self);
        let (events, mut hints) = mpsc::channel(EVENTS_MAX);
        let follower = Arc::clone(&this);
        let stopped = stop.clone();
        tracker.spawn(async move {
            tokio::select! {
                biased;
                () = follower.runtime.follow(events) => {}
                () = stopped.cancelled() => {}
            }
        });
        let (resyncing, stopped) = (Arc::clone(&this), stop.clone());
        tracker.spawn(async move {
            tokio::select! {
                biased;
                () = resyncing.resync_for_ever() => {}
                () = stopped.cancelled() => {}
            }
        });
        let (reviewing, stopped) = (Arc::clone(&this), stop.clone());
        tracker.spawn(async move {
            stopped
                .run_until_cancelled(reviewing.review_signatures())
                .await
        });
        loop {
            tokio::select! {
                // In this order, so that the same happenings have the same consequences.
                biased;
                // A pull may take minutes; what it has fetched is kept.
                () = stop.cancelled() => return this.queue.interrupt_all(),
                Some(hint) = hints.recv() => match hint {
                    RuntimeEvent::Changed(id) => this.changed(id),
                    RuntimeEvent::MemoryShort(id) => {
                        this.queue.wake_at(id, Instant::now() + KILLED_AFTER);
                    }
                    RuntimeEvent::Connected => this.look_at_all.notify_one(),
                    RuntimeEvent::Disconnected => this.unreachable("the connection broke"),
                },
                (id, interrupt) = this.queue.next() => {
                    let turn = Arc::clone(&this);
                    tracker.spawn(async move { turn.turn(id, interrupt).await });
                }
            }
        }
    }

    /// Gives a container that changed a turn. Whether its tag has moved can wait: it may have ended,
    /// and its restart asks no registry.
    fn changed(&self, id: ContainerId) {
        self.queue.wake(id);
        let desired = self.writer.store().desired();
        if desired
            .get(id)
            .is_some_and(|record| record.is_tag_unchecked() || record.stands_back())
        {
            self.queue.interrupt(id);
        }
    }

    /// Beside the turns, since a sweep may take seconds and a container that ended is not to wait for it.
    async fn resync_for_ever(&self) {
        self.liveness.resync_in(Duration::ZERO);
        loop {
            let is_unknown = self.writer.store().desired().is_unknown();
            if !is_unknown && !self.remembers() {
                self.become_known();
            }
            let wait = match self.resync().await {
                false => RELIST_AFTER,
                true if is_unknown || !self.remembers() => UNKNOWN_RELIST_AFTER,
                true => self.resync_interval,
            };
            self.liveness.resync_in(wait);
            tokio::select! {
                biased;
                () = tokio::time::sleep(wait) => {}
                () = self.look_at_all.notified() => {}
            }
        }
    }

    /// Looks at everything; wakes each container that is not settled, and sweeps leftovers. False if it could not.
    async fn resync(&self) -> bool {
        let listing = match self.runtime.list().await {
            Ok(listing) => listing,
            Err(error) => {
                self.unreachable(&error.to_string());
                return false;
            }
        };
        let before = self.writer.store().desired();
        self.board.note_listing(&listing, &before);
        // After that: whoever waits for the first look is to see what it found.
        self.reached();
        if before.adoption().is_some() && !before.is_unknown() {
            self.adopt().await;
        }
        self.trust(&listing).await;
        // Taken after the listing: what was deployed meanwhile is wanted, and is looked at in its own turn.
        let desired = self.writer.store().desired();
        let (now, is_unknown) = (self.board.clock.now(), desired.is_unknown());
        let records: Vec<_> = desired.records().cloned().collect();
        self.runtime.keep_logs(&listing, &records).await;
        let unsettled = desired.records().filter(|record| {
            let seen = listing.managed.get(&record.id).cloned().unwrap_or_default();
            let mut known = self.board.known(record.id);
            known
                .history
                .record_observation(record, &seen, now, |_| Duration::ZERO);
            let around = self.board.surroundings_of(&desired, record, &known.history);
            let phase = Phase::of(record.id, Some(record), &seen, &known.history, &around);
            !known.is_looked_at || known.seen != seen || (!phase.is_settled() && !is_unknown)
        });
        let mut wake: Vec<_> = unsettled
            .map(|record| (record.priority, record.id))
            .collect();
        let is_orphan =
            |id: &&ContainerId| desired.get(**id).is_none() && !desired.is_unreadable(**id);
        // Until all that may be missing of what is desired is known, nothing is known to be a leftover.
        let is_whole = !desired.may_lack_records() && !desired.is_adoption_unreadable();
        // Also what only an older copy of the state told of, while the newest could not be read.
        let unasked = self.board.known_ids().into_iter();
        let unasked = unasked.chain(listing.managed.keys().copied());
        wake.extend(
            unasked
                .filter(|id| is_whole && is_orphan(&id))
                .map(|id| (0, id)),
        );
        wake.sort_by(|a, b| b.cmp(a));
        for (_, id) in wake {
            self.queue.wake(id);
        }
        self.board.changed();
        self.note_proven(&desired, &listing.managed).await;
        if is_whole {
            self.sweep(&WantedRecords {
                records: desired.records().map(|record| (**record).clone()).collect(),
                unreadable: desired.unreadable_ids(),
                keeps_images: desired.unreadable_count() > 0,
            })
            .await;
        }
        true
    }

    /// Notes that the runtime answers.
    fn reached(&self) {
        if self.board.reached(None) {
            self.journal.record(EventKind::RuntimeReached);
        }
    }

    /// Notes that the runtime does not answer.
    fn unreachable(&self, error: &str) {
        if self.board.reached(Some(error.to_owned())) {
            self.journal
                .record(Event::from(EventKind::RuntimeLost).saying(error));
        }
    }

    /// Takes in the runtime's copies of records, after the state was begun or rebuilt.
    async fn adopt(&self) {
        let copies = match self.runtime.stored_records().await {
            Ok(copies) => copies,
            Err(error) => {
                let unread = Event::from(EventKind::RebuildFailed).saying(error.to_string());
                return self.journal.record(unread);
            }
        };
        match self.writer.write(move |store| store.adopt(&copies)).await {
            Ok(taken) => {
                for line in taken {
                    let rebuilt = Event::from(EventKind::StateRebuilt).because(Reason::StateLost);
                    self.journal.record(rebuilt.saying(line));
                }
            }
            Err(error) => {
                let failed = Event::from(EventKind::RebuildFailed).because(Reason::DiskFull);
                self.journal
                    .record(failed.saying(crate::cause::all(&error)));
            }
        }
    }

    /// Takes the containers that run, of those whose last change is lost, for as they should be.
    async fn trust(&self, listing: &RuntimeListing) {
        let desired = self.writer.store().desired();
        if desired.lost().is_none() || desired.may_lack_records() {
            return;
        }
        let running = desired.records().filter(|record| {
            let seen = listing.managed.get(&record.id);
            let generation = seen.and_then(Seen::running_generation);
            record.is_uncertain && generation == Some(record.generation)
        });
        let running: Vec<_> = running.map(|record| record.id).collect();
        if running.is_empty() {
            return;
        }
        if let Err(error) = self.writer.write(move |store| store.trust(&running)).await {
            tracing::debug!(%error, "running containers not taken for as they should be, retrying");
        }
    }
}
