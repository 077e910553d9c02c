//! Effects of a step apart from what it does: the side of a container's life that it belongs to, and
//! what its history keeps of it.

use std::time::Duration;

use state::desired::Record;
use state::history::{Cause, History};
use state::observed::Exit;
use state::plan::Step;
use state::plan::update;
use state::status::Activity;
use state::time::BootTime;

/// The side of a container's life that a step belongs to, and what is shown while it is under way.
pub(super) fn kind_of(record: Option<&Record>, step: &Step) -> (Cause, Option<Activity>) {
    if record.is_some_and(|record| update::is_of_update(record, step)) {
        return (Cause::End, None);
    }
    match step {
        Step::Pull => (Cause::Start, Some(Activity::Pulling)),
        Step::Launch => (Cause::Start, Some(Activity::Creating)),
        Step::Revive(_) | Step::Switch | Step::HandOver(_) | Step::GiveBack(_) => {
            (Cause::Start, None)
        }
        Step::Signal(_) => (Cause::End, None),
        // What runs, runs on.
        Step::Adjust(_) => (Cause::Start, None),
        Step::Stop(_) | Step::Suspend(_) | Step::Remove(_) => {
            (Cause::End, Some(Activity::Stopping))
        }
        Step::Settled
        | Step::Wait(_)
        | Step::WaitForOthers
        | Step::Conclude
        | Step::RollBack(_)
        | Step::NoteRestart
        | Step::Finish(_)
        | Step::Forget => (Cause::End, None),
    }
}

/// Waits between restarts: half of it certain, so that they do grow; half random, so that a node's containers spread.
pub(super) fn restart_delay(exits: u32, draw: fn(Duration) -> Duration) -> Duration {
    let ceiling = Duration::from_secs(1)
        .saturating_mul(1 << exits.min(9))
        .min(Duration::from_mins(5));
    ceiling / 2 + draw(ceiling / 2)
}

/// Notes in a container's history that a step was done, and how the container ended by it.
pub(super) fn record_done(
    history: &mut History,
    (step, record): (&Step, Option<&Record>),
    ended: Option<Exit>,
    now: BootTime,
    draw: fn(Duration) -> Duration,
) {
    match step {
        Step::Pull => history.record_pull(),
        Step::Adjust(_) | Step::HandOver(_) => history.record_adjustment(),
        Step::Switch => history.record_switch(),
        Step::GiveBack(_) => history.trial.record_give_back(),
        Step::Signal(instance) => history.record_signal(*instance, now),
        Step::NoteRestart => history.record_note(),
        Step::Launch => {
            history.record_start(now);
            history.await_look();
        }
        Step::Stop(_) if record.is_some_and(|record| history.is_to_restart(record)) => {
            if let Some(record) = record {
                let delay = |exits| restart_delay(exits, draw);
                history.record_unhealthy_stop(record, ended, now, delay);
            }
        }
        Step::Stop(_) => history.record_stop(ended, now),
        Step::Suspend(instance) => history.record_suspended(*instance, ended, now),
        Step::Remove(instance) => history.record_removal(*instance, now),
        Step::Revive(_) => history.trial.record_revival(now),
        Step::Settled
        | Step::Wait(_)
        | Step::WaitForOthers
        | Step::Conclude
        | Step::RollBack(_)
        | Step::Finish(_)
        | Step::Forget => {}
    }
}
