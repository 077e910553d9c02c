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

pub use ahead::{Planned, plan};

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
            Self::Settled | Self::Wait(_) | Self::Pull | Self::Launch | Self::Forget => f.write_str(word),
        }
    }
}

/// The next step for the container with this id. `wanted` is its record, `None` if there is none.
#[must_use]
pub fn step(id: crate::id::ContainerId, wanted: Option<&Record>, seen: &Seen, memory: &Memory, now: BootTime) -> Step {
    let newest = seen.instances.keys().next_back().map(|&generation| InstanceName { id, generation });
    let (next, cause, restart_pending) = match (wanted, newest) {
        (None, None) => return Step::Settled,
        (None, Some(left)) => (Step::Remove(left), Cause::End, false),
        (Some(record), left) if record.removing => (left.map_or(Step::Forget, Step::Remove), Cause::End, false),
        (Some(record), _) => match record.run {
            RunState::Stopped => (towards_stopped(record, seen), Cause::End, false),
            RunState::Running if record.finished.is_some() => (towards_stopped(record, seen), Cause::End, false),
            RunState::Running => {
                let next = towards_running(record, seen, memory);
                let cause = if matches!(next, Step::Pull | Step::Launch) { Cause::Start } else { Cause::End };
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
    let generation = seen.instances.keys().copied().find(|&generation| generation != record.generation)?;
    Some(InstanceName { id: record.id, generation })
}

fn towards_stopped(record: &Record, seen: &Seen) -> Step {
    if let Some(other) = other(record, seen) {
        return Step::Remove(other);
    }
    match seen.instances.get(&record.generation) {
        // A task that ended by itself is taken away too: it holds a shim, and its end is noted.
        Some(Instance { task: Task::Running { .. } | Task::Created { .. } | Task::Stopped(_), .. }) => {
            Step::Stop(record.instance())
        }
        Some(Instance { task: Task::Absent, .. }) | None => Step::Settled,
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
    match ended.filter(|_| !record.restart_pending).and_then(|exit| finish(record, memory, exit)) {
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
    let since_epoch = exit.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Finished { code: exit.code, reason, at_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::desired::tests::record;
    use crate::id::ContainerId;

    const RUNNING: Task = Task::Running { pid: 7, since: None };

    fn seen(instances: &[(u64, Task)]) -> Seen {
        let instances =
            instances.iter().map(|(generation, task)| (*generation, Instance { container: true, task: task.clone() }));
        Seen { instances: instances.collect() }
    }

    fn stopped(code: u32) -> Task {
        Task::Stopped(Exit { code, at: SystemTime::UNIX_EPOCH, out_of_memory: false })
    }

    fn name(generation: u64) -> InstanceName {
        InstanceName { id: ContainerId::from_bits(1), generation }
    }

    fn finished(code: u32, reason: Reason) -> Step {
        Step::Finish(Finished { code, reason, at_ms: 0 })
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Record), instances: &[(u64, Task)], expected: &Step) {
        let mut record = record("a", 1);
        change(&mut record);
        let next = step(record.id, Some(&record), &seen(instances), &Memory::default(), BootTime::default());
        assert_eq!(&next, expected);
    }

    #[test]
    fn what_should_run_is_pulled_launched_and_left_alone() {
        check(|r| r.image_digest = None, &[], &Step::Pull);
        check(|_| (), &[], &Step::Launch);
        check(|_| (), &[(1, Task::Absent)], &Step::Launch);
        check(|_| (), &[(1, Task::Created { pid: 1 })], &Step::Launch);
        check(|_| (), &[(1, RUNNING)], &Step::Settled);
        check(|r| r.image_digest = None, &[(1, RUNNING)], &Step::Settled);
    }

    #[test]
    fn what_came_to_a_cordoned_node_is_not_started_and_what_is_there_goes_on() {
        check(|r| r.cordoned = true, &[], &Step::Settled);
        check(|r| (r.cordoned, r.image_digest) = (true, None), &[], &Step::Settled);
        check(|r| r.cordoned = true, &[(1, Task::Absent)], &Step::Launch);
        check(|r| (r.cordoned, r.removing) = (true, true), &[], &Step::Forget);
    }

    #[test]
    fn a_change_fetches_the_image_before_it_takes_the_old_one_away() {
        check(|r| (r.generation, r.image_digest) = (2, None), &[(1, RUNNING)], &Step::Pull);
        check(|r| r.generation = 2, &[(1, RUNNING)], &Step::Remove(name(1)));
        check(|r| r.generation = 2, &[(1, RUNNING), (2, Task::Absent)], &Step::Remove(name(1)));
        check(|r| r.generation = 2, &[(2, RUNNING)], &Step::Settled);
    }

    #[test]
    fn what_should_be_stopped_is_stopped_and_kept() {
        let stop = |r: &mut Record| r.run = RunState::Stopped;
        check(stop, &[], &Step::Settled);
        check(stop, &[(1, Task::Absent)], &Step::Settled);
        check(stop, &[(1, RUNNING)], &Step::Stop(name(1)));
        check(stop, &[(1, stopped(0))], &Step::Stop(name(1)));
        check(stop, &[(0, RUNNING)], &Step::Remove(name(0)));
    }

    #[test]
    fn what_is_removed_goes_generation_by_generation_and_is_forgotten_last() {
        let remove = |r: &mut Record| r.removing = true;
        check(remove, &[(1, RUNNING), (2, RUNNING)], &Step::Remove(name(2)));
        check(remove, &[(1, Task::Absent)], &Step::Remove(name(1)));
        check(remove, &[], &Step::Forget);
        let orphan = step(ContainerId::from_bits(1), None, &seen(&[(3, RUNNING)]), &Memory::default(), BootTime::default());
        assert_eq!(orphan, Step::Remove(name(3)));
    }

    #[test]
    fn the_restart_policy_decides_what_an_end_means() {
        use RestartPolicy::{Always, Never, OnFailure};
        for (policy, code, expected) in [
            (Always, 0, Step::Launch),
            (Always, 1, Step::Launch),
            (OnFailure, 0, finished(0, Reason::Completed)),
            (OnFailure, 1, Step::Launch),
            (Never, 0, finished(0, Reason::Completed)),
            (Never, 1, finished(1, Reason::Exited)),
            (Never, 143, finished(143, Reason::Signaled)),
        ] {
            check(|r| r.spec.restart.policy = policy, &[(1, stopped(code))], &expected);
        }
    }

    #[test]
    fn retries_end_when_they_are_used_up() {
        let mut record = record("a", 1);
        record.spec.restart.max_retries = Some(2);
        for (exits, expected) in [(2, Step::Launch), (3, finished(1, Reason::RetriesExhausted))] {
            let mut memory = Memory::default();
            memory.exits = exits;
            assert_eq!(step(record.id, Some(&record), &seen(&[(1, stopped(1))]), &memory, BootTime::default()), expected);
        }
    }

    #[test]
    fn what_finished_gives_its_shim_back_and_stays_ended() {
        let done = |r: &mut Record| r.finished = Some(Finished { code: 0, reason: Reason::Completed, at_ms: 0 });
        check(done, &[(1, stopped(0))], &Step::Stop(name(1)));
        check(done, &[(1, Task::Absent)], &Step::Settled);
    }

    #[test]
    fn a_restart_that_was_asked_for_stops_it_and_starts_it_whatever_the_policy() {
        let ask = |r: &mut Record| (r.restart_pending, r.spec.restart.policy) = (true, RestartPolicy::Never);
        check(ask, &[(1, RUNNING)], &Step::Stop(name(1)));
        check(ask, &[(1, Task::Absent)], &Step::Launch);
        check(ask, &[(1, stopped(0))], &Step::Launch);
    }

    #[test]
    fn a_wait_holds_up_a_start_but_never_a_removal() {
        let mut record = record("a", 1);
        let mut memory = Memory::default();
        memory.failed(Cause::Start, Reason::CreateFailed, String::new(), BootTime::default(), Duration::from_secs(9));
        let until = BootTime(Duration::from_secs(9));
        assert_eq!(step(record.id, Some(&record), &Seen::default(), &memory, BootTime::default()), Step::Wait(until));
        assert_eq!(step(record.id, Some(&record), &Seen::default(), &memory, until), Step::Launch);
        record.removing = true;
        assert_eq!(step(record.id, Some(&record), &seen(&[(1, RUNNING)]), &memory, BootTime::default()), Step::Remove(name(1)));
    }
}
