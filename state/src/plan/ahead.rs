//! The plan of one container: the steps that would be done if each of them went well. [`decide`]
//! again and again, over a model of what a step does; nothing is decided here.

use std::time::{Duration, SystemTime};

use super::{STEPS_MAX, Step, decide};
use crate::desired::Record;
use crate::desired::update::UpdateStage;
use crate::failure::Failure;
use crate::history::History;
use crate::id::{ContainerId, InstanceName};
use crate::observed::{CarriedSpec, Exit, Instance, Seen, Task};
use crate::surroundings::Surroundings;
use crate::time::BootTime;

/// A step that would be done, and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The step. A wait is the last one: what follows depends on what happens until then.
    pub step: Step,
    /// Instance that the step is about. `None`: the record alone.
    pub instance: Option<InstanceName>,
    /// Reason for the step, in a sentence.
    pub why: String,
}

/// The plan of the container with this id, in order; empty if the container is as desired.
#[must_use]
pub fn plan(
    id: ContainerId,
    record: Option<&Record>,
    seen: &Seen,
    history: &History,
    around: &Surroundings,
    now: BootTime,
) -> Vec<Planned> {
    let (mut record, mut seen, mut history) = (record.cloned(), seen.clone(), history.clone());
    let mut planned = Vec::new();
    while planned.len() < STEPS_MAX {
        if let Some(record) = &record {
            history.record_observation(record, &seen, now, |_| Duration::ZERO);
        }
        let decision = decide(id, record.as_ref(), &seen, &history, around, now);
        let why = decision.why(record.as_ref(), &seen, &history);
        let step = decision.step;
        if step == Step::Settled {
            break;
        }
        let instance = match &step {
            Step::Adjust(instance)
            | Step::Revive(instance)
            | Step::HandOver(instance)
            | Step::GiveBack(instance)
            | Step::Signal(instance)
            | Step::Stop(instance)
            | Step::Suspend(instance)
            | Step::Remove(instance) => Some(*instance),
            Step::Pull | Step::Launch | Step::Switch | Step::RollBack(_) => {
                record.as_ref().map(Record::instance)
            }
            Step::Settled
            | Step::Wait(_)
            | Step::WaitForOthers
            | Step::Conclude
            | Step::NoteRestart
            | Step::Finish(_)
            | Step::Forget => None,
        };
        planned.push(Planned {
            step: step.clone(),
            instance,
            why,
        });
        if matches!(step, Step::Wait(_) | Step::WaitForOthers) {
            break;
        }
        model(&step, &mut record, &mut seen, &mut history, now);
    }
    planned
}

/// Changes the model as a step that goes well would change the node.
fn model(
    step: &Step,
    record: &mut Option<Record>,
    seen: &mut Seen,
    history: &mut History,
    now: BootTime,
) {
    match (step, record.as_mut()) {
        (Step::Pull, Some(record)) => {
            // The digest is not known before the image is pulled; a tag may stand for what it did.
            record.image_digest.get_or_insert_default();
            record.tag_check = None;
            history.record_pull();
        }
        (Step::Launch, Some(record)) => {
            let task = Task::Running {
                pid: 0,
                since: Some(now),
            };
            let instance = Instance {
                carries: Some(CarriedSpec::of(record)),
                restart: record.restarts_asked,
                ..Instance::from(task)
            };
            seen.instances
                .insert(record.instance().generation, instance);
            record.restart_pending = false;
            history.record_start(now);
        }
        (
            Step::Revive(_)
            | Step::Switch
            | Step::HandOver(_)
            | Step::GiveBack(_)
            | Step::Signal(_)
            | Step::Conclude
            | Step::RollBack(_),
            Some(record),
        ) => update(step, record, seen, history, now),
        (Step::NoteRestart, Some(record)) => {
            record.restart_pending = false;
            history.record_note();
        }
        (Step::Adjust(instance), Some(record)) => {
            if let Some(instance) = seen.instances.get_mut(&instance.generation) {
                instance.carries = Some(CarriedSpec::of(record));
            }
            history.record_adjustment();
        }
        (Step::Stop(instance), Some(record)) if history.is_to_restart(record) => {
            seen.instances.entry(instance.generation).or_default().task = Task::Absent;
            let exit = Exit {
                code: Exit::KILLED,
                at: SystemTime::UNIX_EPOCH + now.0,
                out_of_memory: false,
            };
            history.record_unhealthy_stop(record, Some(exit), now, |_| Duration::ZERO);
        }
        (Step::Stop(instance), _) => {
            seen.instances.entry(instance.generation).or_default().task = Task::Absent;
            history.record_stop(None, now);
        }
        (Step::Suspend(instance), _) => suspend(*instance, seen, history, now),
        (Step::Remove(instance), _) => {
            seen.instances.remove(&instance.generation);
            history.record_removal(*instance, now);
        }
        (Step::Finish(finished), Some(record)) => record.finished = Some(finished.clone()),
        (Step::Forget, _) => *record = None,
        (Step::Settled | Step::Wait(_) | Step::WaitForOthers, _) | (_, None) => {}
    }
}

/// The same for a step of an update.
fn update(step: &Step, record: &mut Record, seen: &mut Seen, history: &mut History, now: BootTime) {
    let set_stage = |record: &mut Record, stage| {
        if let Some(update) = &mut record.update {
            update.stage = stage;
        }
    };
    match step {
        Step::Revive(former) => revive(record, *former, seen, history, now),
        Step::Switch => set_stage(record, UpdateStage::Switched),
        Step::HandOver(instance) => history.trial.record_connections(*instance, Some(0), now),
        Step::GiveBack(_) => {
            set_stage(record, UpdateStage::Trying);
            history.trial.record_give_back();
        }
        Step::Signal(instance) => {
            seen.instances.entry(instance.generation).or_default().task = Task::Absent;
            history.record_signal(*instance, now);
        }
        Step::Conclude => record.update = None,
        Step::RollBack(failure) => roll_back(record, failure, seen),
        Step::Settled
        | Step::Wait(_)
        | Step::WaitForOthers
        | Step::Pull
        | Step::Adjust(_)
        | Step::Launch
        | Step::Suspend(_)
        | Step::Stop(_)
        | Step::Remove(_)
        | Step::NoteRestart
        | Step::Finish(_)
        | Step::Forget => {}
    }
}

fn suspend(instance: InstanceName, seen: &mut Seen, history: &mut History, now: BootTime) {
    seen.instances.entry(instance.generation).or_default().task = Task::Absent;
    history.record_suspension();
    history.record_suspended(instance, None, now);
}

fn revive(
    record: &Record,
    former: InstanceName,
    seen: &mut Seen,
    history: &mut History,
    now: BootTime,
) {
    let task = Task::Running {
        pid: 0,
        since: Some(now),
    };
    let instance = Instance {
        carries: record.of_instance(former).map(CarriedSpec::of),
        ..Instance::from(task)
    };
    seen.instances.insert(former.generation, instance);
    history.trial.record_revival(now);
}

fn roll_back(record: &mut Record, failure: &Failure, seen: &Seen) {
    let former = record.update.as_ref().map(|update| &update.former);
    let is_there = former.is_some_and(|former| seen.instance(former).is_some());
    if let Some(back) = record.back(is_there, failure, 0) {
        *record = back;
    }
}

#[cfg(test)]
mod tests;
