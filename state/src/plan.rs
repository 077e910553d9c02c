//! The next step for one container: what is wanted, against what was seen. Pure; the reconciler carries it out and
//! looks again. What a person is shown as the plan is this same function.

use std::time::SystemTime;

use crate::desired::{Finished, Record, RunState};
use crate::id::InstanceName;
use crate::memory::{BootTime, Cause, Memory};
use crate::observed::{Exit, Instance, Seen, Task};
use crate::reason::Reason;
use crate::spec::RestartPolicy;

mod ahead;

pub use ahead::{Planned, STEPS_MAX, plan};

/// One step towards what is wanted. Each may be repeated without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to be done.
    Settled,
    /// Nothing may be done before this time.
    Wait(BootTime),
    /// Get the image onto the node and note its digest.
    Pull,
    /// Create what is missing of the record's generation, and start it.
    Launch,
    /// End the task; keep the rest.
    Stop(InstanceName),
    /// End the task and take everything of that generation away.
    Remove(InstanceName),
    /// Note that it ended and is to stay so.
    Finish(Finished),
    /// Drop the record: nothing of it is left.
    Forget,
}

impl Step {
    /// What kind of step it is, in a word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Settled => "nothing",
            Self::Wait(_) => "wait",
            Self::Pull => "pull",
            Self::Launch => "launch",
            Self::Stop(_) => "stop",
            Self::Remove(_) => "remove",
            Self::Finish(_) => "finish",
            Self::Forget => "forget",
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = self.word();
        match self {
            Self::Stop(instance) | Self::Remove(instance) => write!(f, "{word} {instance}"),
            Self::Finish(finished) => write!(f, "leave ended with exit code {}", finished.code),
            Self::Settled | Self::Wait(_) | Self::Pull | Self::Launch | Self::Forget => {
                f.write_str(word)
            }
        }
    }
}

/// The next step for the container with this id. `wanted` is its record, `None` if there is none.
#[must_use]
pub fn step(
    id: crate::id::ContainerId,
    wanted: Option<&Record>,
    seen: &Seen,
    memory: &Memory,
    now: BootTime,
) -> Step {
    let newest = seen
        .instances
        .keys()
        .next_back()
        .map(|&generation| InstanceName { id, generation });
    let (next, cause, restart_pending) = match (wanted, newest) {
        (None, None) => return Step::Settled,
        (None, Some(left)) => (Step::Remove(left), Cause::End, false),
        (Some(record), left) if record.removing => {
            (left.map_or(Step::Forget, Step::Remove), Cause::End, false)
        }
        (Some(record), _) => match record.run {
            RunState::Stopped => (towards_stopped(record, seen), Cause::End, false),
            RunState::Running if record.finished.is_some() => {
                (towards_stopped(record, seen), Cause::End, false)
            }
            RunState::Running => {
                let next = towards_running(record, seen, memory);
                let cause = if matches!(next, Step::Pull | Step::Launch) {
                    Cause::Start
                } else {
                    Cause::End
                };
                (next, cause, record.restart_pending)
            }
        },
    };
    match memory.waits(cause, restart_pending, now) {
        Some(until) if next != Step::Settled => Step::Wait(until),
        _ => next,
    }
}

/// A generation that is not the record's, and so is to go.
fn other(record: &Record, seen: &Seen) -> Option<InstanceName> {
    let generation = seen
        .instances
        .keys()
        .copied()
        .find(|&generation| generation != record.generation)?;
    Some(InstanceName {
        id: record.id,
        generation,
    })
}

fn towards_stopped(record: &Record, seen: &Seen) -> Step {
    if let Some(other) = other(record, seen) {
        return Step::Remove(other);
    }
    match seen.instances.get(&record.generation) {
        // A task that ended by itself is taken away too: it holds a shim, and its end is noted.
        Some(Instance {
            task: Task::Running { .. } | Task::Created { .. } | Task::Stopped(_),
            ..
        }) => Step::Stop(record.instance()),
        Some(Instance {
            task: Task::Absent, ..
        })
        | None => Step::Settled,
    }
}

fn towards_running(record: &Record, seen: &Seen, memory: &Memory) -> Step {
    let current = seen.instances.get(&record.generation);
    let task = current.map_or(&Task::Absent, |instance| &instance.task);
    if record.cordoned && seen.instances.is_empty() {
        return Step::Settled;
    }
    // The image comes first: the generation before goes on running until it is there.
    if record.image_digest.is_none() && matches!(task, Task::Absent) {
        return Step::Pull;
    }
    if let Some(other) = other(record, seen) {
        return Step::Remove(other);
    }
    let ended = match task {
        Task::Running { .. } if record.restart_pending => return Step::Stop(record.instance()),
        Task::Running { .. } => return Step::Settled,
        Task::Created { .. } => return Step::Launch,
        Task::Stopped(exit) => Some(exit),
        Task::Absent => memory.ended.as_ref(),
    };
    match ended
        .filter(|_| !record.restart_pending)
        .and_then(|exit| finish(record, memory, exit))
    {
        Some(finished) => Step::Finish(finished),
        None => Step::Launch,
    }
}

/// Whether the restart policy leaves it ended.
fn finish(record: &Record, memory: &Memory, exit: &Exit) -> Option<Finished> {
    let policy = record.spec.restart;
    let leave = match policy.policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => exit.code == 0,
        RestartPolicy::Never => true,
    };
    let exhausted = policy.max_retries.is_some_and(|max| memory.exits > max);
    let reason = match (leave, exit) {
        (true, Exit { code: 0, .. }) => Reason::Completed,
        (true, exit) => exit.reason(),
        (false, _) if exhausted => Reason::RetriesExhausted,
        (false, _) => return None,
    };
    let since_epoch = exit
        .at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Some(Finished {
        code: exit.code,
        reason,
        at_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests;
