//! Rules that hold whatever goes wrong, checked at each call of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Weak;
use std::time::Duration;

use state::desired::{Record, RunState};
use state::id::{ContainerId, ContainerName, InstanceName};
use state::store::Store;
use tokio::time::Instant;

use crate::memory_runtime::{Call, Step};
use updates::Readiness;

mod cordon;
mod jobs;
mod silence;
mod updates;

/// Longest time from a decision to its call: a look in between takes up to two long pauses.
const DECISION: Duration = Duration::from_secs(7);
/// Longest time from the moment at which a container waits no more to its start, which may fail
/// again and again.
const LET_GO: Duration = Duration::from_mins(30);
/// Length of a life after which earlier ends no longer count: ten minutes, less the time that the
/// agent may be late to see an end.
const HEALTHY: Duration = Duration::from_secs(500);

/// Ends of one generation in a row, as far as the agent must have seen them.
#[derive(Clone, Copy, Debug)]
struct Ends {
    count: u32,
    last: Duration,
    began: Duration,
    /// Generation that the record had at the last one.
    generation: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) store: Option<Weak<Store>>,
    /// Time from the history's begin to this life's.
    before: Duration,
    life: Option<Instant>,
    /// Last time at which each instance was seen not to be wanted as it runs.
    unwanted: BTreeMap<InstanceName, Duration>,
    ends: BTreeMap<InstanceName, Ends>,
    /// Instances that ran and were wanted when all files were lost, and no caller changed since.
    pub(crate) protected: BTreeSet<InstanceName>,
    /// Instances, and names, of which a process was started in this boot.
    started: (BTreeSet<InstanceName>, BTreeSet<ContainerName>),
    /// Instances of which the agent may not know (any more) that they were started.
    forgotten: BTreeSet<InstanceName>,
    /// Last time at which each container was seen to have finished.
    finished: BTreeMap<ContainerName, Duration>,
    /// Last time at which somebody asked for something else of each container.
    asked_at: BTreeMap<ContainerId, Duration>,
    readiness: BTreeMap<InstanceName, Readiness>,
    /// Last time at which anything happened to each container.
    last_heard: BTreeMap<ContainerId, Duration>,
    /// Since when somebody serves, and nobody has the ports.
    gaps: BTreeMap<ContainerId, Duration>,
    /// Last answer of CHaS in the time of the node, as far as the agent is to know it; and the last that
    /// a sound disk could note.
    answered: Duration,
    noted: Duration,
    /// The answer before.
    answered_before: Duration,
    /// Whether the disk was not sound at any time of this life.
    pub(crate) was_disk_bad: bool,
    /// Times of schedules for which an instance was started.
    ran: BTreeSet<(InstanceName, u64)>,
    /// Times of schedules for which processes are being started.
    launched_for: BTreeMap<InstanceName, u64>,
    /// Ends of the processes of jobs.
    job_ends: BTreeMap<InstanceName, Duration>,
    cordon: cordon::Cordon,
    /// Looks at one container, ever.
    pub(crate) looks: u64,
    first: Option<String>,
    hash: u64,
    verbose: bool,
}

impl Judge {
    pub(crate) fn verbose(&mut self) {
        self.verbose = true;
    }

    pub(crate) fn begin_life(&mut self) {
        self.before = self.now();
        self.life = Some(Instant::now());
        // A disk that took nothing has kept no count of the ends.
        if std::mem::take(&mut self.was_disk_bad) {
            self.ends.clear();
            // Nor has it noted that CHaS answered.
            self.answered = self.noted;
        }
    }

    /// Ends the life, whose clock ends with its runtime.
    pub(crate) fn end_life(&mut self) {
        self.before = self.now();
        self.life = None;
    }

    /// Lets time pass without an agent.
    pub(crate) fn passes(&mut self, time: Duration) {
        self.before += time;
    }

    pub(crate) fn now(&self) -> Duration {
        self.before + self.life.map_or(Duration::ZERO, |life| life.elapsed())
    }

    /// First rule that was broken.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.first.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn broken(&mut self, what: String) {
        self.trace(|| format!("BROKEN: {what}"));
        self.first.get_or_insert(what);
    }

    /// Fingerprint of all that happened.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        let mut hasher = DefaultHasher::new();
        (self.hash, self.now(), &line).hash(&mut hasher);
        self.hash = hasher.finish();
        if self.verbose {
            eprintln!("{:>12.3} {line}", self.now().as_secs_f64());
        }
    }

    /// Whether the instance is wanted just as it runs.
    fn is_wanted(&self, name: InstanceName) -> bool {
        let store = self.store.as_ref().and_then(Weak::upgrade);
        let record = store.and_then(|store| store.desired().get(name.id).cloned());
        record.is_some_and(|record| {
            let is_former = Self::is_serving_former(&record, name);
            let is_own = record.instance() == name && !record.restart_pending;
            (is_own || is_former) && Self::is_to_run(&record)
        })
    }

    fn is_to_run(record: &Record) -> bool {
        record.run == RunState::Running
            && !record.removing
            && record.finished.is_none()
            && !record.is_between_runs()
    }

    /// Instances among `running` that are wanted just as they run, and that stay so whatever is lost.
    pub(crate) fn wanted(&self, running: BTreeSet<InstanceName>) -> Vec<InstanceName> {
        let store = self.store.as_ref().and_then(Weak::upgrade);
        let desired = store.map(|store| store.desired()).unwrap_or_default();
        // Labels do not tell of updates: of two that run, the newer one counts.
        let is_alone = |name: &InstanceName| {
            let record = desired.get(name.id);
            record.is_some_and(|record| record.update.is_none() && record.job.is_none())
        };
        let wanted = running.into_iter().filter(|name| self.is_wanted(*name));
        wanted.filter(is_alone).collect()
    }

    /// Notes which instances are not wanted. Call it whenever the desired state has changed.
    pub(crate) fn look(&mut self, instances: impl Iterator<Item = InstanceName>) {
        let now = self.now();
        for name in instances {
            if !self.is_wanted(name) {
                self.unwanted.insert(name, now);
            }
        }
    }

    /// Checks that the agent knows what was asked last, if it does something.
    pub(crate) fn acts(&mut self, step: &Step<'_>) {
        let is_act = matches!(
            step,
            Step::Pull(_)
                | Step::Adjust(_)
                | Step::Launch(_)
                | Step::Stop(_)
                | Step::Remove(_)
                | Step::Ends(..)
        );
        let store = self.store.as_ref().and_then(Weak::upgrade);
        if is_act && store.is_some_and(|store| store.desired().is_unknown()) {
            self.broken(format!("{step:?}, though nobody knows what was asked last"));
        }
    }

    /// Checks that the agent may end this running process.
    pub(crate) fn ends(&mut self, name: InstanceName, call: Call) {
        let how = if call == Call::Stop {
            "stopped"
        } else {
            "removed"
        };
        let unwanted = self
            .unwanted
            .get(&name)
            .is_some_and(|at| self.now() < *at + DECISION);
        let may_rest = self.may_be_drained() || self.may_rest(name);
        let is_excused = call == Call::Stop && (may_rest || self.is_unhealthy(name));
        if self.is_wanted(name) && !unwanted && !is_excused {
            self.broken(format!("{name} was {how}, though it is wanted and ran"));
        }
        if self.protected.contains(&name) && !is_excused {
            self.broken(format!(
                "{name} was {how}, though only the agent's files were lost"
            ));
        }
    }

    pub(crate) fn removes(&mut self, name: InstanceName) {
        if self.protected.contains(&name) {
            self.broken(format!(
                "{name} was removed, though only the agent's files were lost"
            ));
        }
    }

    pub(crate) fn exited(&mut self, name: InstanceName) {
        let now = self.now();
        self.over(name);
        let generation = self.generation(name.id);
        if !self.is_wanted(name) || self.may_rest(name) || self.may_be_drained() {
            // An end that was asked for does not lead to a backoff.
            self.ends.remove(&name);
            return;
        }
        let ends = self.ends.entry(name).or_insert(Ends {
            count: 0,
            last: now,
            began: now,
            generation,
        });
        if ends.generation != generation {
            (ends.count, ends.generation) = (0, generation);
        }
        if now.saturating_sub(ends.began) >= HEALTHY {
            ends.count = 0;
        }
        ends.count += 1;
        ends.last = now;
    }

    /// Generation that the record of a container has now.
    fn generation(&self, id: ContainerId) -> u64 {
        let store = self.store.as_ref().and_then(Weak::upgrade);
        let record = store.and_then(|store| store.desired().get(id).cloned());
        record.map_or(0, |record| record.generation)
    }

    /// Forgets the ends of an instance: the agent may not know them, or no longer counts them.
    pub(crate) fn forget_exits(&mut self, name: InstanceName) {
        self.ends.remove(&name);
    }

    pub(crate) fn forget_all_exits(&mut self) {
        self.ends.clear();
    }

    /// Every process of the node has ended.
    pub(crate) fn rebooted(&mut self) {
        self.started = Default::default();
    }

    /// The agent may have lost which instances were started in this boot.
    pub(crate) fn forget_starts(&mut self) {
        self.forgotten.extend(self.started.0.iter().copied());
    }

    /// Whether a process of the instance was started in this boot.
    pub(crate) fn was_started(&self, name: InstanceName) -> bool {
        self.started.0.contains(&name)
    }

    /// Whether the agent may not know that.
    pub(crate) fn is_start_forgotten(&self, name: InstanceName) -> bool {
        self.forgotten.contains(&name)
    }

    /// Notes whose work is done.
    pub(crate) fn note_finished(&mut self) {
        let (store, now) = (self.store.as_ref().and_then(Weak::upgrade), self.now());
        let desired = store.map(|store| store.desired()).unwrap_or_default();
        let ended = desired.records().filter(|record| record.finished.is_some());
        self.finished
            .extend(ended.map(|record| (record.name.clone(), now)));
    }

    /// Checks that those were started that it is to wait for, if it was not started in this boot,
    /// and since the last drain.
    pub(crate) fn waited(&mut self, record: &Record) {
        if self.was_started(record.instance()) || self.is_drain_new() {
            return;
        }
        let (now, started) = (self.now(), &self.started.1);
        let is_done = |name| self.finished.get(name).is_some_and(|at| now < *at + LET_GO);
        let mut after = record.spec.after.iter();
        let early = after.find(|after| {
            after.timeout.is_none() && !started.contains(&after.name) && !is_done(&after.name)
        });
        if let Some(early) = early {
            let (name, other) = (&record.name, &early.name);
            self.broken(format!("{name} was started, and {other} was not before it"));
        }
    }

    /// Checks that the agent starts it only after the wait that its ends ask for.
    pub(crate) fn launches(&mut self, record: &Record) {
        self.launches_job(record);
        self.starts_in_silence(&record.name);
        self.starts_in_cordon(record);
        let (name, now) = (record.instance(), self.now());
        let generation = self.generation(record.id);
        let counts = |ends: &&Ends| ends.count >= 2 && ends.generation == generation;
        let is_waiting = !record.restart_pending && record.spec.schedule.is_none();
        let Some(ends) = self
            .ends
            .get(&name)
            .filter(|ends| is_waiting && counts(ends))
        else {
            return;
        };
        let least = Duration::from_millis(500) * (1 << (ends.count - 2).min(8));
        if now < ends.last + least.min(Duration::from_secs(150)) {
            let waited = now.saturating_sub(ends.last);
            self.broken(format!(
                "{name} was started {waited:?} after its end number {}, before {least:?}",
                ends.count
            ));
        }
    }

    pub(crate) fn launched(&mut self, name: InstanceName, beside: usize) {
        let now = self.now();
        self.begins(name, beside);
        self.runs_job(name);
        let store = self.store.as_ref().and_then(Weak::upgrade);
        let record = store.and_then(|store| store.desired().get(name.id).cloned());
        self.started.0.insert(name);
        self.forgotten.remove(&name);
        self.started
            .1
            .extend(record.map(|record| record.name.clone()));
        if let Some(ends) = self.ends.get_mut(&name) {
            ends.began = now;
        }
    }
}
