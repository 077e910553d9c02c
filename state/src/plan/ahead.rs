//! The steps from what was seen to what is wanted, as they would be done if each of them went well: [`step`] again and
//! again, over a model of what a step does. Nothing is decided here.

use super::{Step, step};
use crate::desired::Record;
use crate::id::{ContainerId, InstanceName};
use crate::memory::{BootTime, Memory};
use crate::observed::{Instance, Seen, Task};

/// Steps of one turn. The longest way, a change of two generations with a lost image, takes ten; more is a fault of ours
/// and must not keep a processor busy.
pub const STEPS_MAX: usize = 20;

/// A step that would be done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The step. [`Step::Wait`] is the last one: what follows it depends on what happens until then.
    pub step: Step,
    /// What it is done to; `None`: to the record alone.
    pub instance: Option<InstanceName>,
    /// Why, in a sentence.
    pub why: String,
}

/// What would be done for the container with this id, in order; nothing if it is as wanted.
#[must_use]
pub fn plan(
    id: ContainerId,
    wanted: Option<&Record>,
    seen: &Seen,
    memory: &Memory,
    now: BootTime,
) -> Vec<Planned> {
    let (mut wanted, mut seen, mut memory) = (wanted.cloned(), seen.clone(), memory.clone());
    let mut planned = Vec::new();
    while planned.len() < STEPS_MAX {
        if let Some(record) = &wanted {
            memory.look(record, &seen, now, |_| std::time::Duration::ZERO);
        }
        let next = step(id, wanted.as_ref(), &seen, &memory, now);
        if next == Step::Settled {
            break;
        }
        let instance = match &next {
            Step::Stop(instance) | Step::Remove(instance) => Some(*instance),
            Step::Pull | Step::Launch => wanted.as_ref().map(Record::instance),
            Step::Settled | Step::Wait(_) | Step::Finish(_) | Step::Forget => None,
        };
        planned.push(Planned {
            step: next.clone(),
            instance,
            why: why(&next, wanted.as_ref(), &seen, &memory),
        });
        if matches!(next, Step::Wait(_)) {
            break;
        }
        model(&next, &mut wanted, &mut seen, &mut memory, now);
    }
    planned
}

/// What there is after a step.
fn model(
    step: &Step,
    wanted: &mut Option<Record>,
    seen: &mut Seen,
    memory: &mut Memory,
    now: BootTime,
) {
    match (step, wanted.as_mut()) {
        (Step::Pull, Some(record)) => {
            // Which one it will be is not known before it is fetched.
            record.image_digest = Some(String::new());
            memory.pulled();
        }
        (Step::Launch, Some(record)) => {
            let task = Task::Running {
                pid: 0,
                since: Some(now),
            };
            seen.instances.insert(
                record.generation,
                Instance {
                    container: true,
                    task,
                },
            );
            record.restart_pending = false;
            memory.launched(now);
        }
        (Step::Stop(instance), _) => {
            seen.instances.entry(instance.generation).or_default().task = Task::Absent;
            memory.stopped();
        }
        (Step::Remove(instance), _) => {
            seen.instances.remove(&instance.generation);
            memory.stopped();
        }
        (Step::Finish(finished), Some(record)) => record.finished = Some(finished.clone()),
        (Step::Forget, _) => *wanted = None,
        (Step::Settled | Step::Wait(_) | Step::Pull | Step::Launch | Step::Finish(_), _) => {}
    }
}

fn why(step: &Step, wanted: Option<&Record>, seen: &Seen, memory: &Memory) -> String {
    let Some(record) = wanted else {
        return "nothing asks for it (any more)".to_owned();
    };
    match step {
        Step::Settled => "it is as wanted".to_owned(),
        Step::Wait(_) => match &memory.setback {
            Some(setback) => format!("{}: {}", setback.reason, setback.message),
            None => "it is not time yet".to_owned(),
        },
        Step::Pull => format!(
            "what {} is has not been resolved for generation {}",
            record.spec.image, record.generation
        ),
        Step::Launch if record.restart_pending => "a restart was asked for".to_owned(),
        Step::Launch => match seen
            .instances
            .get(&record.generation)
            .map(|instance| &instance.task)
        {
            Some(Task::Created { .. }) => "it is created and was not started".to_owned(),
            Some(Task::Stopped(exit)) => format!(
                "it ended with exit code {}, and its restart policy starts it again",
                exit.code
            ),
            Some(Task::Absent | Task::Running { .. }) | None => {
                format!("generation {} is to run", record.generation)
            }
        },
        Step::Stop(_) if record.run == crate::desired::RunState::Stopped => {
            "it is to be stopped".to_owned()
        }
        Step::Stop(_) if record.restart_pending => "a restart was asked for".to_owned(),
        Step::Stop(_) => "it ended and stays so: its task is taken away".to_owned(),
        Step::Remove(_) if record.removing => "it is to be removed".to_owned(),
        Step::Remove(_) => format!("generation {} takes its place", record.generation),
        Step::Finish(finished) => {
            format!(
                "it ended with exit code {}, and its restart policy leaves it so ({})",
                finished.code, finished.reason
            )
        }
        Step::Forget => "nothing of it is left".to_owned(),
    }
}

#[cfg(test)]
mod tests;
