//! Probes of the containers that run: asked at their intervals, all by one task, and the answers put
//! on the board, where a verdict follows from them. It ends and starts nothing.
//!
//! A container has one probe under way at a time, and of those that hang, each costs its own timeout
//! and nobody else's. What stops running has no probe any more.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use state::event::EventSubject;
use state::health::{ProbeAnswer, VerdictChange};
use state::id::{ContainerId, InstanceName};
use state::spec::HealthCheck;
use state::time::BootTime;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::beat::{BEAT, Beat};
use self::slot::{ProbedContainer, ToldVerdicts};
use self::wanted::wanted;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::reconcile::{Fact, Handle};
use crate::writer::Writer;

mod ask;
mod beat;
mod connection;
mod exec;
mod http;
mod slot;
mod tcp;
mod tell;
mod wanted;

pub use self::ask::NetworkProbes;
pub(crate) use self::ask::NodeProbes;

/// Shortest time between two looks at what runs, however much changes.
const LOOK_SPACING: Duration = Duration::from_millis(200);
/// Time from one probe to the next while a start may take longer, and failures do not count.
const START_INTERVAL: Duration = Duration::from_secs(1);
/// The same of programs, as docker's.
const START_INTERVAL_PROGRAM: Duration = Duration::from_secs(5);
/// Wait before a probe that could not be asked is tried again.
const UNASKED_WAIT: Duration = Duration::from_secs(1);
/// Programs of probes at once: each is a process, and more than some make a node slow.
const PROGRAMS_MAX: usize = 16;
/// Connections of probes at once. Where each of a thousand containers hangs for its two seconds of
/// ten, two hundred are.
const CONNECTIONS_MAX: usize = 1024;

/// Container to be probed, as the board has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Instance that runs.
    pub instance: InstanceName,
    /// Container, as events name it.
    pub subject: EventSubject,
    /// Address that reaches its ports. `None`: there is none.
    pub address: Option<IpAddr>,
    /// Rule of the policy by which nothing in it may run as root.
    pub non_root_rule: Option<String>,
    /// The check.
    pub check: Arc<HealthCheck>,
    /// Start of the run.
    pub started: BootTime,
    /// Whether it has answered well in this run.
    pub has_succeeded: bool,
}

impl ProbeOrder {
    /// Whether it is the same run, probed in the same way.
    fn is_same(&self, other: &Self) -> bool {
        (self.instance, self.started, self.address)
            == (other.instance, other.started, other.address)
            && self.check == other.check
    }

    fn is_program(&self) -> bool {
        matches!(self.check.probe, state::spec::Probe::Exec { .. })
    }
}

/// Answer to a probe: `Ok` where the container works by it. `None`: nobody could ask.
pub type ProbeResult = Option<Result<String, String>>;

/// Means of asking.
pub trait Asker: fmt::Debug + Send + Sync + 'static {
    /// Asks once. Ends in the check's timeout, or a little after; nothing is left of it when it is
    /// dropped.
    fn ask(&self, wanted: ProbeOrder) -> BoxFuture<'static, ProbeResult>;
}

/// Probe under way: its container, its number, and its answer.
type UnderWay = BoxFuture<'static, Option<(ContainerId, u64, ProbeResult)>>;

/// The probes of a node.
#[derive(Debug)]
pub struct Probes {
    writer: Writer,
    handle: Handle,
    journal: Journal,
    metrics: Metrics,
    asker: Arc<dyn Asker>,
    /// Draws a wait between nothing and the one given.
    draw: fn(Duration) -> Duration,
    beat: Beat,
    slots: BTreeMap<ContainerId, ProbedContainer>,
    due: BinaryHeap<Reverse<(Instant, ContainerId, u64)>>,
    under_way: FuturesUnordered<UnderWay>,
    /// Programs that wait for a place, the longest first.
    line: VecDeque<(ContainerId, u64)>,
    unsaved: BTreeSet<ContainerId>,
    /// Write of some of them, one at a time.
    saving: FuturesUnordered<BoxFuture<'static, ()>>,
    programs: usize,
    count: u64,
}

impl Probes {
    /// Probes that have not begun.
    pub fn new(
        writer: Writer,
        handle: Handle,
        (journal, metrics): (Journal, Metrics),
        asker: Arc<dyn Asker>,
        draw: fn(Duration) -> Duration,
    ) -> Self {
        Self {
            writer,
            handle,
            journal,
            metrics,
            asker,
            draw,
            beat: Beat::start(),
            slots: BTreeMap::new(),
            due: BinaryHeap::new(),
            under_way: FuturesUnordered::new(),
            line: VecDeque::new(),
            unsaved: BTreeSet::new(),
            saving: FuturesUnordered::new(),
            programs: 0,
            count: 0,
        }
    }

    /// Probes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut changes = self.handle.board().changes();
        let mut look_at = Some(Instant::now());
        loop {
            let next = self.next_due();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = at(look_at) => {
                    changes.borrow_and_update();
                    self.look();
                    look_at = None;
                }
                Some(answered) = self.under_way.next() => {
                    self.take(answered);
                    // Those that were asked together are answered together.
                    while let Some(Some(answered)) = self.under_way.next().now_or_never() {
                        self.take(answered);
                    }
                }
                Some(()) = self.saving.next() => self.begin_saving(),
                () = at(next) => self.begin_due(),
                Ok(()) = changes.changed(), if look_at.is_none() => {
                    look_at = Some(Instant::now() + LOOK_SPACING);
                }
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    /// Looks at what runs: ends the probes of what does not any more, and begins those of what does.
    fn look(&mut self) {
        let wanted = wanted(&self.handle, self.writer.store());
        let programs = &mut self.programs;
        let mut changed = BTreeSet::new();
        self.slots.retain(|id, slot| {
            let now = wanted.get(id).filter(|now| now.is_same(&slot.wanted));
            match now {
                Some(now) => slot.wanted = now.clone(),
                None if slot.asking.is_some() => *programs -= usize::from(slot.wanted.is_program()),
                None => {}
            }
            changed.extend(now.is_none().then_some(*id));
            now.is_some()
        });
        let now = Instant::now();
        for (id, wanted) in wanted {
            if self.slots.contains_key(&id) {
                continue;
            }
            // What was judged before this agent began is asked at any time of the interval; what starts or
            // is asked otherwise, soon.
            let interval = wanted.check.interval;
            let is_soon = !wanted.has_succeeded || changed.contains(&id);
            let spread = if is_soon {
                START_INTERVAL.min(interval)
            } else {
                interval
            };
            let slot = ProbedContainer {
                has_succeeded: wanted.has_succeeded,
                wanted,
                number: 0,
                planned: now,
                asking: None,
                told: ToldVerdicts::default(),
            };
            self.slots.insert(id, slot);
            self.ask_at(id, now + (self.draw)(spread));
        }
        self.serve_line();
        self.brake();
    }

    /// Has a container asked at this time; an earlier plan of it no longer counts.
    fn ask_at(&mut self, id: ContainerId, at: Instant) {
        self.count += 1;
        if let Some(slot) = self.slots.get_mut(&id) {
            (slot.number, slot.planned) = (self.count, at);
            // What starts is asked at once: somebody waits for it.
            let at = match slot.has_succeeded && !slot.wanted.is_program() {
                true => self.beat.after(at),
                false => at,
            };
            self.due.push(Reverse((at, id, self.count)));
        }
    }

    /// Asks all whose time has come.
    fn begin_due(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id, number))) = self.due.peek().copied() {
            if at > now {
                break;
            }
            self.due.pop();
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.number == number) else {
                continue;
            };
            if slot.wanted.is_program() {
                self.line.push_back((id, number));
            } else if self.under_way.len() >= CONNECTIONS_MAX {
                self.ask_at(id, now + UNASKED_WAIT);
            } else {
                self.begin(id);
            }
        }
        self.serve_line();
    }

    /// Begins the programs that have waited longest, as far as there are places.
    fn serve_line(&mut self) {
        while self.programs < PROGRAMS_MAX {
            let Some((id, number)) = self.line.pop_front() else {
                return;
            };
            let is_wanted = |slot: &ProbedContainer| slot.number == number;
            if self.slots.get(&id).is_some_and(is_wanted) {
                self.programs += 1;
                self.begin(id);
            }
        }
    }

    /// Asks a container.
    fn begin(&mut self, id: ContainerId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let number = slot.number;
        let asked = self.asker.ask(slot.wanted.clone());
        let (abort, registration) = AbortHandle::new_pair();
        // The beat delays a probe and none that come after it.
        let (planned, now) = (slot.planned, Instant::now());
        let is_in_time = now.duration_since(planned) <= BEAT;
        slot.asking = Some((if is_in_time { planned } else { now }, abort));
        // One that panics says nothing, and the others are asked on.
        let asked = AssertUnwindSafe(asked).catch_unwind();
        let asked = asked.map(move |answer| (id, number, answer.ok().flatten()));
        let asked = Abortable::new(asked, registration).map(Result::ok);
        self.under_way.push(asked.boxed());
    }

    /// Takes in the end of a probe. `None`: it was broken off.
    fn take(&mut self, ended: Option<(ContainerId, u64, ProbeResult)>) {
        if let Some((id, number, said)) = ended {
            self.answered(id, number, said);
        }
    }

    /// Takes in an answer, tells of another verdict, and plans the next probe.
    fn answered(&mut self, id: ContainerId, number: u64, said: ProbeResult) {
        let of_probe = |slot: &&mut ProbedContainer| slot.number == number;
        let Some(slot) = self.slots.get_mut(&id).filter(of_probe) else {
            return;
        };
        slot.has_succeeded |= matches!(said, Some(Ok(_)));
        let has_succeeded = slot.has_succeeded;
        let began = slot.asking.take().map(|(began, _)| began);
        let (wanted, now) = (slot.wanted.clone(), Instant::now());
        let began = began.unwrap_or(now);
        if wanted.is_program() {
            self.programs -= 1;
            self.serve_line();
        }
        let result = match &said {
            Some(Ok(_)) => "success",
            Some(Err(_)) => "failure",
            None => "unasked",
        };
        self.metrics.probed(wanted.check.probe.as_str(), result);
        let Some(said) = said else {
            return self.ask_at(id, now + UNASKED_WAIT.max(wanted.check.interval / 2));
        };
        let at = self.handle.board().clock.now();
        let is_starting = !has_succeeded && at.since(wanted.started) < wanted.check.start_period;
        let start_interval = match wanted.is_program() {
            true => START_INTERVAL_PROGRAM,
            false => START_INTERVAL,
        };
        let usual = wanted.check.interval;
        let wait = if is_starting {
            usual.min(start_interval)
        } else {
            usual
        };
        // One that took longer than its interval waits another, and the others come first.
        let next = began + wait;
        self.ask_at(id, if next > now { next } else { now + wait });
        let answer = ProbeAnswer {
            is_success: said.is_ok(),
            text: said.unwrap_or_else(|fault| fault),
            at,
        };
        let fact = Fact::Answer {
            check: Arc::clone(&wanted.check),
            started: wanted.started,
            answer,
        };
        match self.handle.board().record_fact(id, fact) {
            VerdictChange::None => {}
            VerdictChange::Streak => self.save(id),
            VerdictChange::Verdict(verdict) => {
                self.tell(id, wanted.subject, verdict);
                self.brake();
                self.handle.look_at(id);
                self.save(id);
            }
        }
    }

    /// Has the history of a container saved, by the one that saves.
    fn save(&mut self, id: ContainerId) {
        self.unsaved.insert(id);
        self.begin_saving();
    }

    /// Saves all that is to be saved, one after the other: nobody here waits for a disk.
    fn begin_saving(&mut self) {
        if !self.saving.is_empty() || self.unsaved.is_empty() {
            return;
        }
        let unsaved = std::mem::take(&mut self.unsaved);
        let (handle, writer) = (self.handle.clone(), self.writer.clone());
        let saving = async move {
            for id in unsaved {
                handle.remember(&writer, id).await;
            }
        };
        self.saving.push(saving.boxed());
    }
}

/// Ends at a time. `None`: never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
