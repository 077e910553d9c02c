//! Steps of an update: when the next generation counts, when what it relieves is removed, and when it is
//! given up.

use std::time::Duration;

use super::Step;
use crate::desired::Record;
use crate::desired::update::UpdateStage;
use crate::failure::Failure;
use crate::history::History;
use crate::id::InstanceName;
use crate::observed::{Seen, Task};
use crate::phase::{Goal, Phase, Stage};
use crate::reason::Reason;
use crate::time::BootTime;

/// Pause between two looks at the connections of the generation before.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// The next step of an update at this phase. `None`: the phase alone decides.
#[must_use]
pub(super) fn next(
    record: &Record,
    (phase, seen): (&Phase, &Seen),
    history: &History,
    now: BootTime,
) -> Option<Step> {
    let update = record.update.as_ref()?;
    // It goes on, and its times count, once CHaS answers again.
    if phase.is_suspended() {
        return None;
    }
    if !matches!(Goal::of(Some(record)), Goal::Running | Goal::Cordoned) {
        return None;
    }
    let rules = record.spec.update;
    if let Some(failure) = given_up(record, phase, history, now) {
        return Some(Step::RollBack(failure));
    }
    if let Some(former) = given_back(record, (phase, seen), history, now) {
        return Some(Step::GiveBack(former));
    }
    if phase.stage == Stage::Watched {
        let until = deadline(record, history).filter(|until| now < *until);
        return Some(until.map_or(Step::Conclude, Step::Wait));
    }
    if phase.stage == Stage::Trying {
        return Some(match history.ready_since() {
            // Nobody else serves, and is not started again.
            Some(_) if update.is_beside && !phase.is_former_up && phase.revived.is_none() => {
                Step::Switch
            }
            Some(since) if now >= since.after(rules.min_ready) => Step::Switch,
            Some(since) => Step::Wait(since.after(rules.min_ready)),
            None => Step::Settled,
        });
    }
    // A trial that failed for good ends nothing of the one that serves.
    if let Stage::Ended(finished) = &phase.stage
        && record.stands_back()
        && finished.reason != Reason::Completed
    {
        return Some(Step::Settled);
    }
    if let Stage::HandingOver(other) = &phase.stage {
        let is_up = seen.instances.get(&other.generation);
        let is_up = is_up.is_some_and(|instance| is_running(&instance.task));
        return Some(drained(record, (*other, is_up), history, now));
    }
    None
}

const fn is_running(task: &Task) -> bool {
    matches!(task, Task::Running { .. })
}

/// The next step for an instance, once another one is to serve. It ends beside the turns, since the
/// other one may end meanwhile, which is started again at once.
fn drained(
    record: &Record,
    (former, is_up): (InstanceName, bool),
    history: &History,
    now: BootTime,
) -> Step {
    let Some(drain) = history.trial.drain_of(former) else {
        return Step::HandOver(former);
    };
    let own = record.of_instance(former);
    let own = own.map(|ended| ended.spec.stop.timeout).or(drain.grace);
    let grace = own.unwrap_or(record.spec.stop.timeout);
    if let Some(killed_at) = drain.signalled_at.map(|at| at.after(grace)) {
        return match is_up && now < killed_at {
            true => Step::Wait(killed_at),
            false => Step::Remove(former),
        };
    }
    let (over, again) = (drain.since.after(grace), drain.looked_at.after(LOOK_AFTER));
    // One that is just being made is on its way, and the table that sent it here is not the only one.
    let is_quiet = drain
        .quiet_since
        .is_some_and(|since| drain.looked_at >= since.after(LOOK_AFTER));
    match () {
        () if is_quiet || now >= over => match is_up {
            true => Step::Signal(former),
            false => Step::Remove(former),
        },
        () if now >= again => Step::HandOver(former),
        () => Step::Wait(over.min(again)),
    }
}

/// The generation before, which is to serve again: it is there as it was, and the one that counts has
/// ended, or cannot have its ports. `None`: there is none that could.
fn given_back(
    record: &Record,
    (phase, seen): (&Phase, &Seen),
    history: &History,
    now: BootTime,
) -> Option<InstanceName> {
    let update = record.update.as_ref()?;
    let former = update.former.instance();
    let drain = history.trial.drain_of(former);
    let is_there = update.stage == UpdateStage::Switched
        && !matches!(phase.stage, Stage::Suspending(..) | Stage::Suspended(_))
        && update.is_beside
        && is_running(seen.task(&update.former))
        && drain.is_none_or(|drain| drain.signalled_at.is_none())
        && now >= history.trial.former.retry_at;
    let is_done = matches!(&phase.stage, Stage::Ended(finished) if finished.code == 0);
    let is_down = match seen.task(record) {
        Task::Running { .. } | Task::Unresponsive => false,
        Task::Stopped(_) | Task::Created { .. } | Task::Absent => !is_done,
    };
    let backoff = history.backoff.as_ref();
    // Whoever has taken a port since it was looked for may keep it.
    let is_without_ports = drain.is_none()
        && matches!(phase.stage, Stage::HandingOver(_))
        && backoff.is_some_and(|backoff| backoff.reason == Reason::PortTaken);
    (is_there && (is_down || is_without_ports)).then_some(former)
}

/// Time at which the generation that is tried is given up, if it does not count by then. `None`: it is not
/// given up, or was not tried yet.
#[must_use]
pub(super) fn latest(record: &Record, history: &History) -> Option<BootTime> {
    let update = record.update.as_ref()?;
    let runs = matches!(Goal::of(Some(record)), Goal::Running | Goal::Cordoned);
    let is_tried = runs && record.spec.update.rollback && update.stage == UpdateStage::Trying;
    deadline(record, history).filter(|_| is_tried)
}

/// Whether a step ends a generation while another one serves: that is no stop of the container.
#[must_use]
pub fn is_of_update(record: &Record, step: &Step) -> bool {
    let (Some(update), Step::Remove(instance)) = (&record.update, step) else {
        return false;
    };
    match update.stage {
        UpdateStage::Trying => update.is_beside,
        UpdateStage::Switched | UpdateStage::Leaving => *instance != record.instance(),
    }
}

/// The failure for which the generation that is tried is given up. `None`: it is not.
fn given_up(record: &Record, phase: &Phase, history: &History, now: BootTime) -> Option<Failure> {
    let (update, rules) = (record.update.as_ref()?, record.spec.update);
    if !rules.rollback || update.stage == UpdateStage::Leaving {
        return None;
    }
    let backoff = history.backoff.as_ref();
    let last = || backoff.map(|backoff| Failure::new(backoff.reason, backoff.message.clone()));
    if let Stage::Ended(finished) = &phase.stage
        && finished.code != 0
    {
        let message = format!("its process ended with exit code {}", finished.code);
        return last().or_else(|| Some(Failure::new(finished.reason, message)));
    }
    if backoff.is_some_and(|backoff| is_hopeless(backoff.reason)) {
        return last();
    }
    if history.exits >= rules.retries {
        let message = format!("its process ended {} times", history.exits);
        return last().or_else(|| Some(Failure::new(Reason::Exited, message)));
    }
    let is_late = deadline(record, history).is_some_and(|deadline| now >= deadline);
    if is_late && update.stage == UpdateStage::Trying {
        let text = humantime::format_duration(rules.deadline);
        let message = format!("it was not ready for update.min_ready within {text}");
        let health = history.health.as_ref().filter(|_| history.is_unhealthy());
        let unhealthy = health.map(|health| Failure::new(Reason::Unhealthy, health.why()));
        return last()
            .or(unhealthy)
            .or_else(|| Some(Failure::new(Reason::RolledBack, message)));
    }
    None
}

/// Time until which a generation has to count, and may end but so often. `None`: it was not tried yet.
fn deadline(record: &Record, history: &History) -> Option<BootTime> {
    let since = history.trial.since.filter(|_| !history.is_suspended())?;
    Some(since.after(record.spec.update.deadline))
}

/// Whether a start that failed so will not go well later, while the body is the same.
const fn is_hopeless(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ImagePlatformMismatch
            | Reason::ImageFormatUnsupported
            | Reason::ImageInvalid
            | Reason::ImageLayerInvalid
            | Reason::ImageTooLarge
            | Reason::NoCommand
            | Reason::CommandNotFound
            | Reason::CommandNotExecutable
            | Reason::WorkingDirInvalid
            | Reason::UserNotFound
            | Reason::GroupNotFound
            | Reason::MemoryLimitTooSmall
            | Reason::VolumeNotShared
    )
}
