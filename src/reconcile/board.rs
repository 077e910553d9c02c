//! The board: all that the reconciler knows beyond the records, for those who show it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use state::contact::Contact;
use state::desired::set::Desired;
use state::health::brake::Brake;
use state::health::{ProbeAnswer, VerdictChange};
use state::history::{Cause, History, StoredHistory};
use state::id::ContainerId;
use state::observed::Seen;
use state::spec::HealthCheck;
use state::status::Activity;
use state::time::BootTime;
use tokio::sync::watch;

use super::Clock;
use crate::lock::lock;
use crate::runtime::{PullProgress, RuntimeListing, UnmanagedContainer};

/// The error before the first look.
const NOT_ASKED: &str = "not asked yet";
/// Greatest difference between two looks at both clocks that is their reading.
const READ_APART: Duration = Duration::from_millis(10);
/// Tries to read both clocks closely together.
const READS: u32 = 8;

/// All that is known of one container beyond its record.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The last look.
    pub seen: Seen,
    /// Whether a turn took it; else it is what the first listing found.
    pub is_looked_at: bool,
    /// The restart and retry history.
    pub history: History,
    /// The step under way.
    pub activity: Option<Activity>,
    /// The progress of its pull.
    pub pull: Option<Arc<PullProgress>>,
}

/// A fact about a container that is not the reconciler's own: others find it out, and the board shows it.
#[derive(Clone, Debug)]
pub enum Fact {
    /// The progress of the pull of its image. `None`: no pull is under way.
    PullProgress(Option<Arc<PullProgress>>),
    /// The answer to a probe.
    Answer {
        /// The check that it is to.
        check: Arc<HealthCheck>,
        /// The start of the run that it is about.
        started: BootTime,
        /// The answer.
        answer: ProbeAnswer,
    },
}

/// Whether the runtime answers, and since when it does or does not.
#[derive(Clone, Debug)]
pub struct Reachability {
    /// The runtime answers.
    pub reachable: bool,
    /// The time since which it does, or does not.
    pub since: SystemTime,
    /// The error of the last call that it did not answer; `None` while it does.
    pub error: Option<String>,
    /// The last answer. `None`: not since the agent started.
    pub answered: Option<SystemTime>,
}

impl Reachability {
    /// Whether the runtime was asked, and answered or did not.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.error.as_deref() != Some(NOT_ASKED)
    }
}

/// The board, shared with those who show it.
#[derive(Debug)]
pub struct Board {
    pub(super) known: Mutex<BTreeMap<ContainerId, Known>>,
    unmanaged: Mutex<Vec<UnmanagedContainer>>,
    /// Whether a listing was taken in since the agent began.
    is_listed: AtomicBool,
    reachability: Mutex<Reachability>,
    changes: watch::Sender<u64>,
    /// Contact with CHaS. `None`: none is configured.
    pub(super) contact: watch::Sender<Option<Contact>>,
    /// Whether nothing is ended for its health.
    is_braked: AtomicBool,
    /// Containers whose turn it is to be stopped for a drain, with the time of its order.
    pub(super) drain_due: Mutex<(u64, BTreeSet<ContainerId>)>,
    /// The time everything is measured in.
    pub clock: Clock,
    /// Wall time of the boot as it was shown last.
    shown_boot: Mutex<Option<SystemTime>>,
}

impl Board {
    pub(super) fn new(clock: Clock) -> Self {
        let reachability = Reachability {
            reachable: false,
            since: SystemTime::now(),
            error: Some(NOT_ASKED.to_owned()),
            answered: None,
        };
        Self {
            known: Mutex::default(),
            unmanaged: Mutex::default(),
            is_listed: AtomicBool::new(false),
            reachability: Mutex::new(reachability),
            changes: watch::Sender::new(0),
            contact: watch::Sender::new(None),
            is_braked: AtomicBool::new(false),
            drain_due: Mutex::default(),
            clock,
            shown_boot: Mutex::default(),
        }
    }

    /// The time now by both clocks. Between them lies always the same until somebody sets the wall
    /// clock, so that a moment has one wall time, whenever it is shown.
    #[must_use]
    pub fn now_by_both(&self) -> (BootTime, SystemTime) {
        let (boot, wall) = (self.clock.now(), self.clock.wall_now());
        let mut shown = lock(&self.shown_boot);
        let kept = shown.map(|booted| booted + boot.0).filter(|kept| {
            let apart = kept.duration_since(wall);
            apart.unwrap_or_else(|ahead| ahead.duration()) < READ_APART
        });
        if let Some(kept) = kept {
            return (boot, kept);
        }
        let (boot, wall) = self.read_closely();
        *shown = wall.checked_sub(boot.0);
        (boot, wall)
    }

    /// Both clocks, read as closely together as a few tries give: an agent that begins again is to
    /// show the same times to the millisecond, also on a node that is busy.
    fn read_closely(&self) -> (BootTime, SystemTime) {
        let read = || {
            let (boot, wall) = (self.clock.now(), self.clock.wall_now());
            (self.clock.now().since(boot), boot, wall)
        };
        let (_, boot, wall) = (1..READS).fold(read(), |closest, _| closest.min(read()));
        (boot, wall)
    }

    /// All that is known of one container; nothing, if it was never looked at.
    #[must_use]
    pub fn known(&self, id: ContainerId) -> Known {
        lock(&self.known).get(&id).cloned().unwrap_or_default()
    }

    /// Every container of which anything is known.
    #[must_use]
    pub fn known_ids(&self) -> Vec<ContainerId> {
        lock(&self.known).keys().copied().collect()
    }

    /// The unmanaged containers.
    #[must_use]
    pub fn unmanaged(&self) -> Vec<UnmanagedContainer> {
        lock(&self.unmanaged).clone()
    }

    /// Whether a listing was taken in since the agent began: before, what is not here may well run.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Acquire)
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

    /// Takes in a fact, and answers what it changed about the container's health. One about a container
    /// that nothing else is known of is dropped: it is no longer there.
    pub fn record_fact(&self, id: ContainerId, fact: Fact) -> VerdictChange {
        let mut all = lock(&self.known);
        let change = match (all.get_mut(&id), fact) {
            (
                Some(known),
                Fact::Answer {
                    check,
                    started,
                    answer,
                },
            ) => {
                // What is being stopped for an answer before is not saved by this one.
                if known.activity == Some(Activity::Stopping) {
                    return VerdictChange::None;
                }
                let change = known.history.record_answer(&check, started, &answer);
                // One more of the same is no news for those who watch.
                if !matches!(change, VerdictChange::Verdict(_)) {
                    return change;
                }
                change
            }
            (Some(known), Fact::PullProgress(progress)) => {
                known.pull = progress;
                VerdictChange::None
            }
            (None, _) => VerdictChange::None,
        };
        drop(all);
        self.changed();
        change
    }

    /// Looks at all that is known of each container. Nobody else does meanwhile.
    pub(crate) fn each(&self, mut look: impl FnMut(ContainerId, &Known)) {
        lock(&self.known)
            .iter()
            .for_each(|(id, known)| look(*id, known));
    }

    /// Whether nothing is ended for its health, since most containers stopped working at once.
    #[must_use]
    pub fn is_braked(&self) -> bool {
        self.is_braked.load(Ordering::Relaxed)
    }

    /// Looks how many containers work now, and answers whether nothing is to be ended for its health.
    pub(crate) fn look_for_brake(&self) -> bool {
        let all = lock(&self.known);
        let running = all.values().filter(|known| known.history.started.is_some());
        let healths = running.filter_map(|known| known.history.health.as_ref());
        let brake = Brake::of(healths, self.clock.now());
        let holds = brake.holds(self.is_braked());
        self.is_braked.store(holds, Ordering::Relaxed);
        holds
    }

    /// A container's history as it is stored. `None`: nothing is known of it.
    pub(super) fn to_store(&self, id: ContainerId) -> Option<StoredHistory> {
        let history = lock(&self.known).get(&id)?.history.clone();
        Some(StoredHistory {
            boot_id: self.clock.boot_id(),
            history,
        })
    }

    pub(super) fn update<T>(&self, id: ContainerId, update: impl FnOnce(&mut Known) -> T) -> T {
        let result = update(lock(&self.known).entry(id).or_default());
        self.changed();
        result
    }

    /// Notes what a listing found, with and without a record, where no turn has looked yet.
    pub(super) fn note_listing(&self, listing: &RuntimeListing, desired: &Desired) {
        let mut ids: BTreeSet<_> = listing.managed.keys().copied().collect();
        // Also what an earlier listing found, and is gone.
        ids.extend(self.known_ids());
        ids.extend(desired.records().map(|record| record.id));
        for id in ids {
            let seen = listing.managed.get(&id).cloned();
            self.note_listed(id, seen.unwrap_or_default());
        }
        lock(&self.unmanaged).clone_from(&listing.unmanaged);
        self.is_listed.store(true, Ordering::Release);
    }

    fn note_listed(&self, id: ContainerId, seen: Seen) {
        let mut all = lock(&self.known);
        let known = all.entry(id).or_default();
        if !known.is_looked_at {
            known.seen = seen;
        }
    }

    /// Lets a container be started now: its backoff is over, if it is for one of these causes.
    pub(super) fn end_backoff(&self, id: ContainerId, causes: &[Cause]) {
        let now = self.clock.now();
        let mut all = lock(&self.known);
        let backoff = all
            .get_mut(&id)
            .and_then(|known| known.history.backoff.as_mut());
        if let Some(backoff) = backoff.filter(|backoff| causes.contains(&backoff.cause)) {
            backoff.retry_at = now;
        }
    }

    /// Notes what a look found, of which nothing follows.
    pub(super) fn note_seen(&self, id: ContainerId, seen: Seen) {
        self.update(id, |known| (known.seen, known.is_looked_at) = (seen, true));
    }

    pub(super) fn drop_known(&self, id: ContainerId) {
        lock(&self.known).remove(&id);
        self.changed();
    }

    /// Notes whether the runtime answers, or its error. Answers whether that is news.
    pub(crate) fn reached(&self, error: Option<String>) -> bool {
        let mut now = lock(&self.reachability);
        // Of many refusals in a row, only the first is news.
        let is_news = if error.is_none() {
            !now.reachable
        } else {
            now.error
                .as_deref()
                .is_none_or(|before| before == NOT_ASKED)
        };
        if is_news {
            now.since = SystemTime::now();
        }
        if error.is_none() {
            now.answered = Some(SystemTime::now());
        }
        (now.reachable, now.error) = (error.is_none(), error);
        drop(now);
        self.changed();
        is_news
    }
}
