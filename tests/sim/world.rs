//! Node in memory with every possible fault: the dice decide, and the judge watches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chas_node_agent::reconcile::Board;
use chas_node_agent::runtime::{RuntimeError, UnmanagedContainer};
use state::desired::set::Desired;
use state::desired::{Record, RunState};
use state::id::{ContainerId, InstanceName};
use state::observed::Task;
use state::phase::Stage;
use state::reason::Reason;
use state::spec::{After, AfterCondition, RestartPolicy};
use state::store::Store;

use crate::bodies;
use crate::dice;
use crate::judge::Judge;
use crate::memory_runtime::{Call, Circumstances, MemoryRuntime, Misdeed, Step};
use crate::plants::{self, Plant};
use crate::probes::{self, Manner, Manners};

/// Dice and judge of the runtime below the agent.
#[derive(Debug, Default)]
pub(crate) struct Fortune {
    judge: Mutex<Judge>,
    pub(crate) manners: Manners,
}

impl Fortune {
    /// A process that begins works, or does not.
    fn draw_manner(&self, name: InstanceName) {
        let manner = probes::draw();
        let mut manners = self.manners.lock().unwrap();
        manners.remove(&name);
        if manner != Manner::Works {
            manners.insert(name, manner);
        }
    }
}

/// The runtime below the agent, which outlives it.
pub(crate) type World = MemoryRuntime<Fortune>;

fn failure() -> RuntimeError {
    match dice::below(4) {
        0 => RuntimeError::Unavailable("away".to_owned()),
        1 => RuntimeError::failed(Reason::PortTaken, "taken"),
        _ => RuntimeError::failed(Reason::CreateFailed, "refused"),
    }
}

impl Circumstances for Fortune {
    async fn first_part(&self, call: Call) -> Result<(), RuntimeError> {
        self.part().await.map_err(|error| match (call, error) {
            (Call::EnsureImage, RuntimeError::Failed(_)) => {
                RuntimeError::failed(Reason::ImageNotFound, "no such tag")
            }
            (_, error) => error,
        })
    }

    /// Any part of a call may be where it fails, or where the agent dies.
    async fn part(&self) -> Result<(), RuntimeError> {
        let pause = dice::pause();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if !dice::is_calm() && dice::chance(4) {
            Err(failure())
        } else {
            Ok(())
        }
    }

    fn pull_time(&self) -> Duration {
        dice::millis(4000)
    }

    /// At most the grace.
    fn ending_time(&self, grace: Duration) -> Duration {
        if dice::chance(50) {
            Duration::ZERO
        } else {
            dice::draw(grace)
        }
    }

    /// Now and then an image is said to be there, and is not.
    fn keeps_image(&self) -> bool {
        dice::is_calm() || dice::chance(95)
    }

    /// A change is told late, twice, or not at all.
    fn event_delays(&self) -> Vec<Duration> {
        let times = if dice::is_calm() {
            1
        } else {
            [0, 1, 1, 1, 1, 2][dice::index(6)]
        };
        let late = |_| match dice::is_calm() || dice::chance(70) {
            true => Duration::ZERO,
            false => dice::millis(5000),
        };
        (0..times).map(late).collect()
    }

    fn misbehaves(&self, misdeed: Misdeed) -> bool {
        plants::is(match misdeed {
            Misdeed::TakesPorts => Plant::TakesPorts,
            Misdeed::HidesRestart => Plant::HidesRestart,
        })
    }

    fn saw(&self, step: Step<'_>) {
        let mut judge = self.judge.lock().unwrap();
        judge.acts(&step);
        match step {
            Step::Look => {
                judge.looks += 1;
                judge.note_finished();
            }
            Step::Pull(reference) => judge.trace(|| format!("pull {reference}")),
            Step::Adjust(record) => {
                judge.trace(|| format!("adjust {} to {}", record.instance(), record.generation));
                // What ended it may be what has changed since, and is not waited out.
                judge.forget_exits(record.instance());
            }
            Step::HandOver(record) => {
                judge.trace(|| format!("hand over to {}", record.instance()));
            }
            Step::Signal(name) => judge.trace(|| format!("signal to {name}")),
            Step::Launch(record) => {
                judge.trace(|| format!("launch {}", record.instance()));
                judge.look(std::iter::once(record.instance()));
                judge.launches(record);
                judge.waited(record);
            }
            Step::Stop(name) => {
                judge.trace(|| format!("stop {name}"));
                judge.look(std::iter::once(name));
            }
            Step::Remove(name) => {
                judge.trace(|| format!("remove {name}"));
                judge.look(std::iter::once(name));
                judge.removes(name);
            }
            Step::Calls(id, 0..=1) => judge.hear_of(id),
            Step::Tasks(id, 0..=2) => judge.hear_of(id),
            Step::PortsMove(to, from) => judge.ports_move(to, from),
            Step::Unserves(name) => judge.unserves(name),
            Step::Calls(id, calls) => judge.broken(format!("{calls} calls at once for {id}")),
            Step::Tasks(id, tasks) => judge.broken(format!("{tasks} tasks of {id} at once")),
            Step::Runs(name, beside) => {
                judge.trace(|| format!("{name} runs"));
                judge.launched(name, beside);
                self.draw_manner(name);
            }
            Step::Ends(name, call) => judge.ends(name, call),
            Step::Ended(name) => {
                judge.over(name);
                judge.stopped(name);
                judge.forget_exits(name);
            }
            Step::Exited(name, code) => {
                judge.exited(name);
                judge.trace(|| format!("{name} ends with {code}"));
            }
            Step::Lost(name) => {
                judge.over(name);
                judge.lost_job(name);
                judge.forget_exits(name);
                judge.trace(|| format!("{name} is lost"));
            }
        }
    }
}

impl World {
    /// A node without managed containers, and with one of somebody else's.
    pub(crate) fn anew() -> Self {
        let world = Self::default();
        world.inner().unmanaged.push(UnmanagedContainer {
            id: "stranger".to_owned(),
            image: "theirs".to_owned(),
            running: true,
        });
        world
    }

    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.circumstances.judge.lock().unwrap()
    }

    /// A process ends by itself, whatever the clock on the wall says.
    pub(crate) fn end(&self, name: InstanceName) {
        let ahead = Duration::from_secs(3600 * 24 * 365 * 10 * dice::below(3));
        let code = [0, 1, 137][dice::index(3)];
        if self.running().contains(&name) {
            self.exit(name, code, code == 137 && dice::chance(50), ahead);
        }
    }

    /// Containers that rightly wait for others, for ever if nothing is asked.
    fn waiting(&self, desired: &Desired, board: &Board) -> BTreeSet<ContainerId> {
        let (running, mut waiting) = (self.running(), BTreeSet::new());
        let resting = self.resting(desired);
        let mut records: Vec<_> = desired.records().collect();
        // Nobody waits for one with a later name.
        records.sort_by(|a, b| a.name.cmp(&b.name));
        for record in records {
            let is_unmet = |after: &After| {
                let Some(other) = desired.named(&after.name) else {
                    return true;
                };
                let ended = other.finished.as_ref();
                match after.condition {
                    AfterCondition::Started => {
                        let is_at_rest = other.run == RunState::Stopped && ended.is_none();
                        is_at_rest || waiting.contains(&other.id) || resting.contains(&other.id)
                    }
                    AfterCondition::Ready => {
                        let is_bad = bodies::is_bad(other.spec.labels["body"].parse().unwrap());
                        is_bad || !running.contains(&other.instance())
                    }
                    AfterCondition::Completed => ended.is_none_or(|end| end.code != 0),
                }
            };
            let is_waited_for = |after: &After| after.timeout.is_none() && is_unmet(after);
            let is_unstarted = |record: &Record| {
                let (name, judge) = (record.instance(), self.judge());
                !judge.was_started(name) || judge.is_start_forgotten(name)
            };
            // Whoever was let go once in this boot is started, whatever became of the others.
            let may_wait = |record: &Record| {
                is_unstarted(record) && board.surroundings(desired, record).waits.is_some()
            };
            let mut after = record.spec.after.iter();
            let waits = record.run == RunState::Running
                && record.finished.is_none()
                // Its image is pulled meanwhile.
                && record.image_digest.is_some()
                && may_wait(record)
                && after.any(is_waited_for);
            // A trial that has ended for good ends nothing of the generation before, which may wait.
            let ended = |record: &Record| {
                let stage = board.phase(desired, record).stage;
                matches!(stage, Stage::Ended(_)) && !running.contains(&record.instance())
            };
            let serving = record.serving();
            let former_waits = record.stands_back()
                && record.spec.restart.policy != RestartPolicy::Always
                && board.surroundings(desired, record).former_waits.is_some()
                && is_unstarted(serving)
                && ended(record)
                && serving.spec.after.iter().any(is_waited_for);
            if waits || former_waits {
                waiting.insert(record.id);
            }
        }
        waiting
    }

    fn has_ports(&self, name: InstanceName) -> bool {
        self.inner().ports.get(&name.id) == Some(&name)
    }

    /// Looks whether what runs is not to rest for CHaS's silence.
    pub(crate) fn look_at_silence(&self, store: &Store, board: &Board) {
        let (desired, running) = (store.desired(), self.running());
        let contact = board.contact();
        let mut judge = self.judge();
        for record in running.iter().filter_map(|name| desired.get(name.id)) {
            judge.runs_in_silence(&record.name);
        }
        if let Some(contact) = contact {
            judge.counts(contact.silent_for(board.clock.now()));
        }
    }

    /// Containers that rest for CHaS's silence.
    fn resting(&self, desired: &Desired) -> BTreeSet<ContainerId> {
        let is_silent = self.judge().is_long_silent();
        let records = desired.records().filter(|_| is_silent);
        let resting = records.filter(|record| bodies::stop_after(record.name.as_str()).is_some());
        resting.map(|record| record.id).collect()
    }

    /// Looks who has the host ports of what is to run.
    pub(crate) fn look_at_ports(&self, store: &Store) {
        let (desired, running) = (store.desired(), self.running());
        for record in desired.records() {
            let serving = record.serving().instance();
            let is_to_run = record.run == RunState::Running && !record.removing;
            if !running.contains(&serving) {
                self.judge().note_no_server(record.id);
            } else if is_to_run {
                let has = self.inner().ports.get(&record.id).copied();
                let has = has.filter(|has| running.contains(has));
                self.judge().note_ports(serving, has);
            }
        }
    }

    /// Ends the jobs whose work is done, for ever.
    pub(crate) async fn end_jobs(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let done = self.judge().done_jobs();
            for name in done {
                self.exit(name, [0, 0, 1][dice::index(3)], false, Duration::ZERO);
            }
        }
    }

    /// Difference between what runs and what should, if there is one.
    pub(crate) fn unsettled(&self, store: &Store, board: &Board) -> Option<String> {
        let desired = store.desired();
        if desired.is_unknown() {
            return Some("the newest copy of the state is not opened".to_owned());
        }
        if desired.adoption().is_some() {
            return Some("the runtime's copies are not taken in".to_owned());
        }
        if let Some(record) = desired.records().find(|record| record.removing) {
            return Some(format!("{} is still being removed", record.name));
        }
        let resting = self.resting(&desired);
        let runs = |record: &&Arc<Record>| {
            let is_to_run = record.run == RunState::Running && record.finished.is_none();
            is_to_run && !record.is_between_runs() && !resting.contains(&record.id)
        };
        let mut waiting = self.waiting(&desired, board);
        waiting.retain(|id| !resting.contains(id));
        let wanted: BTreeSet<_> = desired
            .records()
            .filter(runs)
            .filter(|record| !waiting.contains(&record.id))
            .map(|record| record.instance())
            .collect();
        // A generation before runs on.
        let mut running = self.running();
        running.retain(|name| !waiting.contains(&name.id));
        if running != wanted {
            let mut missing = desired.records();
            let missing = missing.find(|record| {
                wanted
                    .difference(&running)
                    .any(|name| *name == record.instance())
            });
            let stage = missing.map(|record| {
                let backoff = board.known(record.id).history.of(record).backoff;
                (board.phase(&desired, record).stage, backoff)
            });
            return Some(format!(
                "{running:?} runs where {wanted:?} should, of which one is {stage:?}"
            ));
        }
        // What rests goes on with its update afterwards.
        let is_left = |id: &ContainerId| waiting.contains(id) || resting.contains(id);
        let mut settled = desired.records().filter(|record| !is_left(&record.id));
        if let Some(record) = settled.find(|record| record.update.is_some()) {
            let stage = record.update.as_ref().map(|update| update.stage);
            return Some(format!("the update of {} is {stage:?}", record.name));
        }
        if let Some(name) = running.iter().find(|name| !self.has_ports(**name)) {
            return Some(format!("{name} has no ports"));
        }
        let running = desired.records().filter(runs);
        // What waits for others is brought up to its record with its start.
        let mut running = running.filter(|record| !waiting.contains(&record.id));
        if let Some(record) = running.find(|record| self.seen(record.id).is_behind(record)) {
            let (instance, generation) = (record.instance(), record.generation);
            return Some(format!("{instance} does not carry generation {generation}"));
        }
        let current: BTreeSet<_> = desired.records().map(|record| record.instance()).collect();
        let inner = self.inner();
        let mut names = inner.instances.keys();
        let extra = names.find(|name| !current.contains(name) && !is_left(&name.id));
        let others = inner.instances.iter();
        let held = others
            .filter(|(name, _)| !waiting.contains(&name.id))
            .find(|(_, made)| matches!(made.task, Task::Stopped(_) | Task::Created { .. }));
        match (extra, held) {
            (Some(name), _) => Some(format!("{name} is left over")),
            (None, Some((name, made))) => Some(format!("{name} is left as {:?}", made.task)),
            (None, None) => None,
        }
    }
}
