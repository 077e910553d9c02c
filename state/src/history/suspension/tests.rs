use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::cordon::{DrainedContainer, due};
use crate::desired::{Record, RunState, tests::record};
use crate::history::{Cause, History, StoredHistory};
use crate::id::{ContainerId, ContainerName};
use crate::observed::{Exit, Seen, Task};
use crate::order::{Other, waits};
use crate::phase::Stage;
use crate::plan::{Step, decide};
use crate::surroundings::{Surroundings, Suspension};
use crate::time::BootTime;

const RUNNING: Task = Task::Running {
    pid: 7,
    since: None,
};
/// Those that wait come first: whoever does not wait is started before the others.
const NAMES: [&str; 3] = ["web", "api", "db"];
const IN_ORDER: [&str; 3] = ["start db", "start api", "start web"];

#[derive(Clone, Debug)]
struct Kept {
    record: Arc<Record>,
    seen: Seen,
    history: History,
}

/// Node on which `web` is started after `api`, and that after `db`; with turns as the reconciler has
/// them.
#[derive(Debug, Default)]
struct Node {
    all: BTreeMap<&'static str, Kept>,
    /// What exists, whether it was looked at or not.
    is: BTreeMap<&'static str, Seen>,
    /// Containers whose turn it is to be stopped, while the node is drained.
    drained: Option<BTreeSet<ContainerId>>,
    seconds: u64,
    done: Vec<String>,
}

fn kept(name: &str, index: usize) -> Kept {
    let after = match index {
        2 => json!([]),
        _ => json!([{"name": NAMES[index + 1], "condition": "started"}]),
    };
    let body = json!({"name": name, "image": "nginx", "after": after});
    let spec = crate::spec::parse::deploy(&body).unwrap().spec;
    let record = Record {
        spec,
        ..record(name, index as u64 + 1)
    };
    Kept {
        record: Arc::new(record),
        seen: Seen::default(),
        history: History::default(),
    }
}

fn seen(task: Task) -> Seen {
    Seen {
        instances: [(1, task.into())].into(),
    }
}

impl Node {
    fn running() -> Self {
        let mut node = Self::default();
        for (index, name) in NAMES.into_iter().enumerate() {
            node.all.insert(name, kept(name, index));
            node.is.insert(name, Seen::default());
        }
        node.settle();
        assert_eq!(std::mem::take(&mut node.done), IN_ORDER);
        node
    }

    fn drained() -> Self {
        let mut node = Self::running();
        node.drain();
        node.settle();
        let stops = std::mem::take(&mut node.done);
        assert_eq!(stops, ["stop web", "stop api", "stop db"]);
        node
    }

    fn at(&mut self, name: &str) -> &mut Kept {
        self.all.get_mut(name).unwrap()
    }

    fn drain(&mut self) {
        self.drained = Some(BTreeSet::new());
        let all = self.all.values_mut();
        all.for_each(|kept| kept.history.record_drain());
    }

    fn uncordon(&mut self) {
        self.drained = None;
    }

    fn suspension(&self, id: ContainerId) -> Option<Suspension> {
        let due = self.drained.as_ref()?;
        let is_due = due.contains(&id);
        Some(Suspension::Drained { is_due })
    }

    fn other(&self, name: &ContainerName) -> Option<Other> {
        let kept = self.all.get(name.as_str())?.clone();
        let suspension = self.suspension(kept.record.id);
        Some(Other {
            record: kept.record,
            seen: kept.seen,
            history: kept.history,
            activity: None,
            suspension,
        })
    }

    /// A look and the step that follows, which is not done yet.
    fn look(&mut self, name: &'static str) -> Step {
        self.seconds += 1;
        let (now, seen) = (
            BootTime(Duration::from_secs(self.seconds)),
            self.is[name].clone(),
        );
        let kept = self.at(name);
        let record = Arc::clone(&kept.record);
        let wait = |_| Duration::ZERO;
        kept.history.record_observation(&record, &seen, now, wait);
        kept.seen = seen.clone();
        let history = kept.history.clone();
        let around = Surroundings {
            waits: waits(&record, &history, |name| self.other(name), now),
            suspension: self.suspension(record.id),
            ..Surroundings::NONE
        };
        let decision = decide(record.id, Some(&record), &seen, &history, &around, now);
        let history = &mut self.at(name).history;
        let stage = &decision.phase.stage;
        if matches!(stage, Stage::Waiting(_)) {
            history.record_waiting(now);
        } else if *stage == Stage::Due && around.waits.is_none() {
            history.record_let_go();
        }
        decision.phase.note_rest(history, now);
        decision.step
    }

    /// The step is done, and nobody has looked yet.
    fn done(&mut self, name: &'static str, step: &Step) {
        let now = BootTime(Duration::from_secs(self.seconds));
        let generation = self.at(name).record.generation;
        let of = &mut self.is.get_mut(name).unwrap().instances;
        if *step == Step::Launch {
            of.insert(generation, RUNNING.into());
            self.at(name).history.record_start(now);
            self.done.push(format!("start {name}"));
        } else if let Step::Suspend(instance) = step {
            of.insert(instance.generation, Task::Absent.into());
            self.at(name).history.record_suspended(*instance, None, now);
            self.done.push(format!("stop {name}"));
        } else if let Step::Remove(instance) = step {
            of.remove(&instance.generation);
            self.at(name).history.record_removal(*instance, now);
        } else {
            panic!("{name}: {step}");
        }
    }

    fn let_go(&mut self) {
        let has_task = |kept: &&Kept| {
            let mut instances = kept.seen.instances.values();
            instances.any(|instance| instance.task != Task::Absent)
        };
        let running = self.all.values().filter(has_task);
        let running: Vec<_> = running
            .map(|kept| DrainedContainer {
                id: kept.record.id,
                name: &kept.record.name,
                after: kept.record.spec.after.iter().map(|a| &a.name).collect(),
                priority: 50,
                is_stuck: kept.history.backoff.as_ref().map(|b| b.cause) == Some(Cause::End),
            })
            .collect();
        let now = due(&running);
        self.drained.iter_mut().for_each(|due| due.extend(&now));
    }

    /// Turns until nothing is left to be done.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.let_go();
            for name in NAMES {
                let step = self.look(name);
                if !matches!(step, Step::Settled | Step::WaitForOthers | Step::Wait(_)) {
                    self.done(name, &step);
                }
            }
        }
    }

    /// Another agent, in this boot or the next.
    fn begin_again(&mut self, boot: &str) {
        for name in NAMES {
            let kept = self.at(name);
            let stored = StoredHistory {
                boot_id: "boot".to_owned(),
                history: kept.history.clone(),
            };
            (kept.history, kept.seen) = (stored.in_boot(boot), Seen::default());
        }
        // It comes to know of the order as of a new one.
        if self.drained.is_some() {
            self.drain();
        }
    }

    fn uncordoned(mut self) -> Vec<String> {
        self.uncordon();
        self.settle();
        self.done
    }
}

#[test]
fn after_a_drain_all_are_started_in_order_also_by_another_agent_or_in_another_boot() {
    assert_eq!(Node::drained().uncordoned(), IN_ORDER);
    for boot in ["boot", "next"] {
        let mut node = Node::drained();
        node.begin_again(boot);
        assert_eq!(node.uncordoned(), IN_ORDER, "{boot}, at once");
        let mut node = Node::drained();
        node.begin_again(boot);
        node.settle();
        assert_eq!(node.uncordoned(), IN_ORDER, "{boot}, later");
    }
    // Twice, and with a look between.
    let mut node = Node::drained();
    node.uncordon();
    node.settle();
    node.done.clear();
    node.drain();
    node.settle();
    node.done.clear();
    assert_eq!(node.uncordoned(), IN_ORDER);
}

#[test]
fn what_is_asked_for_during_a_drain_is_as_asked_for_after_it() {
    let mut node = Node::drained();
    let mut anew = Record::clone(&node.at("api").record);
    anew.generation = 2;
    node.at("api").record = Arc::new(anew);
    node.settle();
    assert_eq!(node.done.len(), 0, "{:?}", node.done);
    assert_eq!(node.uncordoned(), IN_ORDER);

    let mut node = Node::drained();
    Arc::make_mut(&mut node.at("api").record).run = RunState::Stopped;
    node.settle();
    assert_eq!(node.uncordoned(), ["start db"]);
}

#[test]
fn a_drain_that_ends_half_done_starts_in_order_what_it_has_stopped() {
    // `api` is being stopped, or is stopped and nobody has looked, when the drain ends.
    for is_stopped in [false, true] {
        let mut node = Node::running();
        node.drain();
        node.let_go();
        let step = node.look("web");
        node.done("web", &step);
        node.look("web");
        node.let_go();
        let step = node.look("api");
        assert_eq!(step.as_str(), "suspend");
        if is_stopped {
            node.done("api", &step);
        }
        node.done.clear();
        node.uncordon();
        // `web` has its turn first.
        assert_eq!(node.look("web"), Step::WaitForOthers, "{is_stopped}");
        if !is_stopped {
            node.done("api", &step);
            node.done.clear();
        }
        node.settle();
        assert_eq!(node.done, ["start api", "start web"], "{is_stopped}");
    }
    // Nothing was stopped yet: all run on, and nobody waits.
    let mut node = Node::running();
    node.drain();
    assert_eq!(node.uncordoned(), [""; 0]);
}

#[test]
fn one_that_had_no_turn_during_a_drain_waits_again_too() {
    let mut node = Node::running();
    // `web` and `api` are about to be started when the drain begins, so that `db` is stopped first.
    for name in ["web", "api"] {
        node.is.insert(name, seen(Task::Absent));
        node.at(name).history.record_stop(None, BootTime::default());
        assert_eq!(node.look(name), Step::Launch);
    }
    node.drain();
    node.let_go();
    let step = node.look("db");
    assert_eq!(step.as_str(), "suspend");
    node.done("db", &step);
    node.done.clear();
    assert_eq!(node.uncordoned(), IN_ORDER);
}

#[test]
fn what_could_not_be_stopped_whole_waits_for_those_that_were() {
    let mut node = Node::running();
    node.drain();
    node.let_go();
    let step = node.look("web");
    node.done("web", &step);
    node.look("web");
    node.let_go();
    assert_eq!(node.look("api").as_str(), "suspend");
    // Its process ends, and its task stays: nobody waits for it.
    let exit = Exit {
        code: 143,
        at: SystemTime::UNIX_EPOCH,
        out_of_memory: false,
    };
    node.is.insert("api", seen(Task::Stopped(exit)));
    assert_eq!(node.look("api").as_str(), "suspend");
    let step = {
        let db = node.at("db").record.id;
        node.drained.as_mut().unwrap().insert(db);
        node.look("db")
    };
    node.done("db", &step);
    node.done.clear();
    assert_eq!(node.uncordoned(), IN_ORDER);
}

#[test]
fn one_that_does_not_answer_keeps_nobody_waiting_after_a_drain() {
    let mut node = Node::running();
    node.is.insert("api", seen(Task::Unresponsive));
    node.look("api");
    node.drain();
    node.let_go();
    let step = node.look("web");
    node.done("web", &step);
    node.look("web");
    node.let_go();
    node.look("api");
    node.uncordon();
    assert_eq!(node.look("web"), Step::Launch);
}
