//! Parts of a record that outlast a deploy, or follow from what it was before.

use crate::desired::job::{Job, JobRun};
use crate::desired::{Assignment, Finished, PortBinding, Record, RunState};
use crate::phase::Goal;
use crate::spec::parse::Deploy;

/// End that a container keeps: what stays ended is not run again for another value of a secret, but
/// for a start.
pub(super) fn kept_end(
    before: Option<&Record>,
    deploy: &Deploy,
    assignment: &Assignment,
) -> Option<Finished> {
    let before = before?;
    let is_started = deploy.run == RunState::Running && before.run == RunState::Stopped;
    let is_same = before.spec.is_but_for_values(&deploy.spec)
        && !before.removing
        && before.assignment == *assignment;
    before.finished.clone().filter(|_| is_same && !is_started)
}

/// Whether what `before` asked for is ended before its successor may start: it is to be removed, or
/// has a host port that the successor gives up.
pub(super) fn replaces_at_once(
    goes_on: Option<&Record>,
    before: Option<&Record>,
    next: &Assignment,
) -> bool {
    if let Some(same) = goes_on {
        return same.replaces_at_once;
    }
    let place = |port: &PortBinding| (port.host, port.protocol);
    let is_kept = |port: &PortBinding| next.ports.iter().any(|next| place(next) == place(port));
    before.is_some_and(|before| {
        let is_lost = before.assignment.ports.iter().any(|port| !is_kept(port));
        before.removing || before.replaces_at_once || is_lost
    })
}

/// Runs of a container after a deploy. Times of another schedule count from now on; a run that is
/// under way goes on, or is begun anew with what has changed.
pub(super) fn kept_job(before: Option<&Record>, deploy: &Deploy, now_ms: u64) -> Option<Job> {
    let schedule = deploy.spec.schedule.as_ref()?;
    let before = before.filter(|before| !before.removing);
    let Some(before) = before else {
        return Some(Job::from(now_ms));
    };
    let mut next = before.clone();
    let has_its_times = before.spec.schedule.as_ref();
    let has_its_times = has_its_times.is_some_and(|before| before.has_times_of(schedule));
    let job = next.job.get_or_insert_with(|| Job::from(now_ms));
    if !has_its_times {
        job.until_ms = now_ms;
    }
    // It runs already, and has a schedule from now on.
    if before.spec.schedule.is_none() && Goal::of(Some(before)) == Goal::Running {
        job.run = Some(JobRun { scheduled_ms: None });
    }
    if deploy.run == RunState::Stopped {
        next.stop_run();
    }
    next.job
}
