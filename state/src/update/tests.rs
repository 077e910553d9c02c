//! Updates over random histories: who has the host ports at each moment, and how every one ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::*;
use crate::desired::tests::record;
use crate::history::{History, StoredHistory};
use crate::id::InstanceName;
use crate::observed::{CarriedSpec, Exit, Instance};
use crate::observed::{Seen, Task};
use crate::phase::{Phase, Stage};
use crate::plan::{Step, decide};
use crate::spec::parse::{self, Deploy};
use crate::surroundings::Surroundings;
use crate::time::BootTime;
use std::net::Ipv4Addr;

mod beside;
mod ends;

/// The `stop.timeout` of every body.
const GRACE: Duration = Duration::from_secs(3);

/// Numbers from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

fn deploy(version: u64, strategy: &str, run: &str) -> Deploy {
    let rollback = version % 2 == 1;
    let body = json!({"name": "a", "image": "b", "environment": {"V": version.to_string()}, "state": run,
        "stop": {"timeout": "3s"}, "update": {"strategy": strategy, "min_ready": "2s", "deadline": "20s", "rollback": rollback, "retries": 2}});
    parse::deploy(&body).unwrap()
}

/// Node with one container.
struct Node {
    record: Record,
    seen: Seen,
    history: History,
    now: BootTime,
    /// Generation whose instance has the host ports.
    ports: Option<u64>,
    /// Address of each generation that was started.
    addresses: BTreeMap<u64, Option<Ipv4Addr>>,
    /// Generation that was switched to last.
    counts: Option<u64>,
    /// Looks at connections in a row that found none.
    quiet_looks: u32,
    dice: Dice,
    trace: Vec<String>,
}

impl Node {
    fn new(seed: u64) -> Self {
        let mut first = record("a", 1);
        first.spec = deploy(0, "stop-first", "running").spec;
        first.spec_hash = first.spec.hash();
        Self {
            record: first,
            seen: Seen::default(),
            history: History::default(),
            now: BootTime(Duration::from_secs(100)),
            ports: None,
            addresses: BTreeMap::new(),
            quiet_looks: 0,
            counts: None,
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            trace: Vec::new(),
        }
    }

    #[track_caller]
    fn holds(&self, is_so: bool, rule: &str) {
        assert!(is_so, "{rule}\n{}\n{:#?}", self.trace.join("\n"), self.seen);
    }

    fn runs(&self, generation: u64) -> bool {
        let instance = self.seen.instances.get(&generation);
        matches!(
            instance.map(|instance| &instance.task),
            Some(Task::Running { .. })
        )
    }

    /// Takes another body in, as the store does.
    fn deploy(&mut self, next: Deploy) {
        let before = self.record.clone();
        let update = before.updated_to(&next);
        if let Some(update) = update.as_ref().filter(|update| update.is_beside) {
            let spare = update.spare_address(&before);
            let own = update.former.assignment.address;
            let mut free = [2, 3]
                .map(|last| Some(Ipv4Addr::new(10, 0, 0, last)))
                .into_iter();
            self.record.assignment.address =
                spare.or_else(|| free.find(|address| *address != own).flatten());
            self.holds(
                self.record.assignment.address != own,
                "each has its own address",
            );
        }
        self.record.generation += 1;
        (self.record.spec_hash, self.record.spec) = (next.spec.hash(), next.spec);
        (self.record.run, self.record.update) = (next.run, update);
        (self.record.image_digest, self.record.finished) = (None, None);
        (self.record.made_at, self.record.restart_pending) = (None, false);
        self.record.rolled_back = None;
    }

    fn start(&mut self, of: &Record) {
        let (pid, since) = (1, Some(self.now));
        let instance = Instance {
            carries: Some(CarriedSpec::of(of)),
            restart: of.restarts_asked,
            ..Instance::from(Task::Running { pid, since })
        };
        let generation = of.instance().generation;
        self.seen.instances.insert(generation, instance);
        self.addresses.insert(generation, of.assignment.address);
        let running = self.seen.instances.keys().filter(|one| self.runs(**one));
        let addresses: Vec<_> = running.map(|one| self.addresses[one]).collect();
        let different: BTreeSet<_> = addresses.iter().collect();
        self.holds(addresses.len() <= 2, "at most two run at once");
        self.holds(
            different.len() == addresses.len(),
            "each has its own address",
        );
        if !of.stands_back() {
            self.ports = Some(generation);
        }
    }

    /// Does one step; answers whether there is another one to do.
    fn step(&mut self) -> bool {
        let record = self.record.clone();
        self.history
            .record_observation(&record, &self.seen, self.now, |_| Duration::from_secs(1));
        let decided = decide(
            record.id,
            Some(&record),
            &self.seen,
            &self.history,
            &Surroundings::default(),
            self.now,
        );
        self.trace.push(format!(
            "{:?}: {} at {:?}",
            self.now, decided.step, decided.phase.stage
        ));
        match &decided.step {
            Step::Settled | Step::Wait(_) | Step::WaitForOthers => return false,
            Step::Suspend(instance) => unreachable!("{instance}: CHaS answers"),
            Step::Pull => {
                self.record.image_digest = Some(format!("sha256:{}", record.generation));
                self.history.record_pull();
            }
            Step::Launch => {
                self.start(&record);
                // Now and then the agent is killed before it has noted that.
                if self.dice.chance(70) {
                    self.record.note_restarted(record.restarts_asked);
                }
                self.history.record_start(self.now);
            }
            Step::Revive(former) => {
                let former = record.of_instance(*former).unwrap().clone();
                self.start(&former);
                self.history.trial.record_revival(self.now);
            }
            Step::Switch => {
                self.record.update.as_mut().unwrap().stage = UpdateStage::Switched;
                self.counts = Some(record.instance().generation);
            }
            Step::HandOver(instance) => {
                self.ports = Some(record.serving().instance().generation);
                let connections = usize::try_from(self.dice.below(3)).unwrap().checked_sub(1);
                let drain = self.history.trial.drain;
                let goes_on = drain.is_some_and(|drain| drain.of == instance.generation);
                self.quiet_looks = match connections {
                    Some(0) if goes_on => self.quiet_looks + 1,
                    Some(0) => 1,
                    _ => 0,
                };
                self.history
                    .trial
                    .record_connections(*instance, connections, self.now);
            }
            Step::GiveBack(former) => {
                self.holds(
                    self.runs(former.generation),
                    "what has the ports again runs",
                );
                (self.ports, self.counts) = (Some(former.generation), Some(former.generation));
                self.record.update.as_mut().unwrap().stage = UpdateStage::Trying;
                self.history.trial.record_give_back();
            }
            Step::Signal(instance) => {
                let generation = instance.generation;
                self.holds(self.ports != Some(generation), "what has the ports goes on");
                self.history.record_signal(*instance, self.now);
                // Others take no notice until they are killed.
                if self.dice.chance(60) {
                    let exit = Exit {
                        code: 143,
                        at: SystemTime::UNIX_EPOCH + self.now.0,
                        out_of_memory: false,
                    };
                    let instance = self.seen.instances.get_mut(&generation).unwrap();
                    instance.task = Task::Stopped(exit);
                }
            }
            Step::Conclude => self.record.update = None,
            Step::NoteRestart => {
                let number = record.restarts_asked;
                self.record.note_restarted(number);
            }
            Step::RollBack(why) => {
                let former = &record.update.as_ref().unwrap().former;
                let is_there = self.seen.instance(former).is_some();
                self.record = record.back(is_there, why, 0).unwrap();
            }
            Step::Stop(instance) | Step::Remove(instance) => {
                let generation = instance.generation;
                let other = self
                    .seen
                    .instances
                    .keys()
                    .any(|one| *one != generation && self.runs(*one));
                let is_served = self.runs(generation) && self.ports == Some(generation);
                // A restart that is asked for has its gap.
                let is_kept = matches!(decided.step, Step::Remove(_))
                    && record.run == RunState::Running
                    && record
                        .update
                        .as_ref()
                        .is_some_and(|update| update.is_beside);
                let drain = self.history.trial.drain;
                let drain = drain.filter(|drain| drain.of == generation);
                self.holds(
                    !(matches!(decided.phase.stage, Stage::HandingOver(_))
                        && self.runs(generation))
                        || drain.is_some_and(|drain| {
                            self.quiet_looks >= 2 || self.now >= drain.since.after(GRACE)
                        }),
                    "what drains ends after two looks that found nothing, or after its grace",
                );
                self.holds(
                    !(is_served && other && is_kept),
                    "what has the ports is not removed before another has them",
                );
                if matches!(decided.step, Step::Remove(_)) {
                    self.seen.instances.remove(&generation);
                    if self.ports == Some(generation) {
                        self.ports = None;
                    }
                    self.history.record_removal(*instance, self.now);
                } else {
                    self.seen.instances.get_mut(&generation).unwrap().task = Task::Absent;
                    self.history.record_stop(None, self.now);
                }
            }
            Step::Adjust(instance) => {
                let carried = Some(CarriedSpec::of(&record));
                self.seen
                    .instances
                    .get_mut(&instance.generation)
                    .unwrap()
                    .carries = carried;
            }
            Step::Finish(finished) => self.record.finished = Some(finished.clone()),
            Step::Forget => unreachable!("it is not removed"),
        }
        true
    }

    /// Steps until nothing is to be done now.
    fn turn(&mut self) {
        for _ in 0..crate::plan::STEPS_MAX {
            if !self.step() {
                return self.check();
            }
        }
        self.holds(false, "a turn comes to its end");
    }

    /// Rules that hold whenever nothing is to be done at once.
    fn check(&self) {
        if self.record.run != RunState::Running {
            return;
        }
        let serving = self.record.serving().instance().generation;
        if self.runs(serving) {
            self.holds(self.ports == Some(serving), "what serves has the ports");
        }
        let beside = self.record.stands_back();
        let own = self.record.instance().generation;
        self.holds(
            !beside || self.ports != Some(own),
            "what stands back has no ports",
        );
    }

    /// The ports come to the first that may have them, in the order in which containerd lists them.
    fn repair(&mut self) {
        let instances = self.seen.instances.keys();
        let mut names: Vec<_> = instances
            .map(|&generation| InstanceName {
                id: self.record.id,
                generation,
            })
            .collect();
        names.sort_by_key(ToString::to_string);
        let serving = self.record.served_by(|name| names.contains(&name));
        let mut asking = serving.into_iter().chain(names.iter().copied());
        let first = asking.find(|name| self.record.may_publish(*name, serving));
        let (before, after) = (self.ports, first.map(|name| name.generation));
        self.trace.push(format!("repair: {before:?} to {after:?}"));
        let is_there = before.is_some_and(|before| self.seen.instances.contains_key(&before));
        let own = self.record.instance().generation;
        let may_move = after.is_some() && [Some(own), self.counts].contains(&after);
        self.holds(
            may_move || !is_there || after == before,
            "a repair gives the ports to nobody but the record's own or what counts",
        );
        self.ports = after;
    }

    fn disturb(&mut self) {
        let running: Vec<u64> = self.seen.instances.keys().copied().collect();
        match self.dice.below(10) {
            0 | 1 if !running.is_empty() => {
                let at = usize::try_from(self.dice.below(running.len() as u64)).unwrap();
                if self.runs(running[at]) {
                    let exit = Exit {
                        code: u32::try_from(self.dice.below(2)).unwrap(),
                        at: SystemTime::UNIX_EPOCH + self.now.0,
                        out_of_memory: false,
                    };
                    let task = Task::Stopped(exit);
                    self.seen.instances.get_mut(&running[at]).unwrap().task = task;
                    self.trace.push(format!("{} ends", running[at]));
                }
            }
            2 => {
                // The node starts again: nothing runs, and nothing is published.
                self.trace.push("reboot".to_owned());
                for instance in self.seen.instances.values_mut() {
                    instance.task = Task::Absent;
                }
                self.ports = None;
                let stored = StoredHistory {
                    boot_id: "1".to_owned(),
                    history: std::mem::take(&mut self.history),
                };
                self.history = stored.in_boot("2");
            }
            3 => {
                // The agent is killed before it has saved what it knows.
                self.trace.push("history lost".to_owned());
                self.history = History::default();
            }
            4 | 5 => {
                let strategy = ["start-first", "start-first", "stop-first"];
                let strategy = strategy[usize::try_from(self.dice.below(3)).unwrap()];
                let run = if self.dice.chance(85) {
                    "running"
                } else {
                    "stopped"
                };
                self.trace.push(format!("deploy {strategy} {run}"));
                let version = self.dice.below(1000);
                self.deploy(deploy(version, strategy, run));
            }
            // Another agent has started, which looks at the network first.
            8 | 9 => self.repair(),
            6 if self.dice.chance(30) => self.record.ask_restart(0),
            7 => self.record.run = RunState::Running,
            _ => {}
        }
        self.now = self.now.after(Duration::from_millis(self.dice.below(4000)));
    }
}

#[test]
fn one_generation_serves_at_any_time_and_every_update_ends() {
    let mut ends = BTreeMap::new();
    for seed in 1..4000 {
        let mut node = Node::new(seed);
        for _ in 0..40 {
            node.disturb();
            // Now and then the agent is killed between two steps.
            match node.dice.chance(30) {
                true => drop(node.step()),
                false => node.turn(),
            }
        }
        // From anywhere, if nothing more happens, it comes to an end.
        for _ in 0..60 {
            node.turn();
            node.now = node.now.after(Duration::from_secs(1));
        }
        let phase = Phase::of(
            node.record.id,
            Some(&node.record),
            &node.seen,
            &node.history,
            &Surroundings::default(),
        );
        node.holds(node.record.update.is_none(), "every update ends");
        node.holds(
            node.seen.instances.len() <= 1,
            "nothing of another generation is left",
        );
        *ends.entry(format!("{:?}", phase.stage)).or_insert(0) += 1;
        node.holds(
            matches!(phase.stage, Stage::Running | Stage::Stopped),
            "it runs, or was stopped",
        );
    }
    assert!(ends.len() == 2, "{ends:?}");
}
