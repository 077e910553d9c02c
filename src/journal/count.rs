//! The counters that events feed.

use state::event::{Event, EventKind};
use state::reason::{Kind, Reason};

use crate::metrics::Metrics;

/// Shows the counters of steps that may fail, so that the first failure is a change of one.
pub(super) fn begin(metrics: &Metrics) {
    for &reason in Reason::ALL {
        let steps: &[_] = match reason.kind() {
            Kind::Image => &["pull"],
            Kind::Start => &["launch"],
            Kind::End => &["stop", "remove"],
            Kind::Node => &["pull", "launch", "stop", "remove"],
            Kind::Exit => &[],
        };
        for step in steps {
            metrics.know_failure(step, reason.as_str());
        }
    }
}

/// Counts an event, if there is a counter for it.
pub(super) fn count(metrics: &Metrics, event: &Event) {
    match &event.kind {
        EventKind::StepFinished { step, took } => metrics.step_done(step.as_str(), *took),
        EventKind::StepFailed { step, .. } => {
            let reason = event.reason.map_or("", Reason::as_str);
            metrics.step_failed(step.as_str(), reason);
        }
        EventKind::StepDeferred { step } => {
            metrics.step_failed(step.as_str(), Reason::RuntimeUnavailable.as_str());
        }
        EventKind::JobRun { result } if *result != "begun" => metrics.job_ran(result),
        EventKind::ContainerRestarted => metrics.restarted(),
        EventKind::ContainerReady => metrics.judged("ready"),
        EventKind::ContainerUnhealthy => metrics.judged("unhealthy"),
        EventKind::MemoryKilled { kills } => metrics.killed_for_memory(*kills),
        EventKind::LoggerLost => metrics.logger_lost(),
        EventKind::ExecBegun => metrics.exec_begun(),
        EventKind::ExecEnded { result, took } => metrics.exec_ended(result, *took),
        EventKind::ArchiveEnded {
            direction,
            complete,
            bytes,
            ..
        } => metrics.archived(direction, if *complete { "done" } else { "failed" }, *bytes),
        EventKind::ImagePulled { received_bytes, .. } => metrics.pulled(*received_bytes),
        EventKind::TagChecked { result } => metrics.tag_checked(result),
        EventKind::StoreWritten { took } => metrics.written(*took),
        EventKind::PollEnded { result } => metrics.polled(result),
        EventKind::ReportEnded { result } => metrics.reported(result),
        EventKind::NodeRegistered { .. } => metrics.registered_at_chas(),
        EventKind::RolledBack { by_hand } => metrics.rolled_back(*by_hand),
        EventKind::TurnExhausted
        | EventKind::ContainerExited { .. }
        | EventKind::AlarmRaised { .. }
        | EventKind::AlarmChanged { .. }
        | EventKind::AlarmCleared { .. }
        | EventKind::ShimUnresponsive
        | EventKind::RuntimeReached
        | EventKind::RuntimeLost
        | EventKind::StateRebuilt
        | EventKind::RebuildFailed
        | EventKind::LeftoversSwept { .. }
        | EventKind::SweepFailed
        | EventKind::LinkReached
        | EventKind::LinkLost
        | EventKind::IdentityConflict
        | EventKind::SetApplied { .. }
        | EventKind::WaitGivenUp { .. }
        | EventKind::JobRun { .. }
        | EventKind::SetUnconfirmed { .. }
        | EventKind::SetRejected { .. }
        | EventKind::AgentStarted { .. }
        | EventKind::AgentStopping
        | EventKind::ChangeAsked { .. } => {}
    }
}
