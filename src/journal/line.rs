//! The log line of an event: a fixed short phrase, with the facts as fields.

use std::time::Duration;

use state::alarm::{Alarm, Weight};
use state::event::{Event, EventKind};
use state::plan::{STEPS_MAX, Step};
use state::reason::Reason;
use tracing::{debug, error, info, warn};

/// Writes the log line of an event, if it has one.
pub(super) fn write(event: &Event) {
    let error = event.message.as_deref().unwrap_or_default();
    let message = error;
    let subject = event.subject.as_ref().map(ToString::to_string);
    let container = subject.as_deref().unwrap_or_default();
    match &event.kind {
        EventKind::StepFinished { step, took } => finished(container, step, *took, message),
        EventKind::StepFailed { step, retry_in } => failed(container, step, *retry_in, event),
        EventKind::TurnExhausted => exhausted(container),
        EventKind::RolledBack { by_hand } => rolled_back(container, *by_hand, message),
        EventKind::ContainerExited { code, signal } => exited(container, (*code, *signal), event),
        EventKind::MemoryKilled { kills } => {
            warn!(%container, kills, detail = %message, "process killed for memory");
        }
        EventKind::ShimUnresponsive => warn!(%container, "shim unresponsive"),
        EventKind::WaitGivenUp { names } => given_up(container, names),
        EventKind::JobRun { result } => ran(container, result),
        EventKind::ContainerRestarted => info!(%container, "container restarted"),
        EventKind::ContainerReady | EventKind::ContainerUnhealthy => judged(container, event),
        EventKind::LoggerLost => warn!(%container, %error, "logger lost"),
        EventKind::ExecBegun => info!(%container, detail = %message, "exec begun"),
        EventKind::ExecEnded { result, took } => {
            let (message, ms) = (error, took.as_millis());
            info!(%container, result, detail = %message, ms, "exec ended");
        }
        EventKind::ArchiveEnded { .. } => archived(container, event),
        EventKind::ImagePulled {
            received_bytes,
            complete,
        } => debug!(%container, received_bytes, complete, "image pull ended"),
        EventKind::TagChecked { result } if event.reason.is_some() => {
            warn!(%container, result, %error, "tag check failed");
        }
        EventKind::TagChecked { result } => {
            info!(%container, result, detail = %message, "tag checked");
        }
        EventKind::RuntimeReached => info!("containerd reached"),
        EventKind::RuntimeLost => warn!(%error, "containerd unreachable, retrying"),
        EventKind::StateRebuilt => warn!(line = %error, "state rebuilt"),
        EventKind::RebuildFailed => warn!(%error, "state not rebuilt, retrying"),
        EventKind::LeftoversSwept { removed } => removed
            .iter()
            .for_each(|what| info!(%what, "leftover removed")),
        EventKind::SweepFailed => warn!(%error, "leftovers not removed, retrying"),
        EventKind::NodeRegistered { cluster_size } => info!(cluster_size, "node registered"),
        EventKind::LinkReached => info!("CHaS reached"),
        EventKind::LinkLost => link_lost(error),
        EventKind::IdentityConflict => identity_conflict(error),
        EventKind::SetApplied {
            generation,
            changed,
            conflicts,
            rejected,
        } => info!(
            generation,
            changed, conflicts, rejected, "applied desired state from CHaS"
        ),
        EventKind::SetUnconfirmed { generation, names } => unconfirmed(*generation, names),
        EventKind::SetRejected { code } => set_rejected(code, error),
        EventKind::AlarmRaised { alarm } => raised(*alarm, error),
        EventKind::AlarmChanged { alarm } => changed(*alarm, error),
        EventKind::AlarmCleared { alarm } => info!(%alarm, was = error, "alarm cleared"),
        // The cause has a line of its own, or nothing happened that anybody would read of.
        EventKind::AgentStarted { .. }
        | EventKind::AgentStopping
        | EventKind::ChangeAsked { .. }
        | EventKind::StepDeferred { .. }
        | EventKind::StoreWritten { .. }
        | EventKind::PollEnded { .. }
        | EventKind::ReportEnded { .. } => {}
    }
}

fn rolled_back(container: &str, by_hand: bool, message: &str) {
    if by_hand {
        info!(%container, detail = %message, "generation rolled back by hand");
    } else {
        warn!(%container, error = %message, "generation rolled back");
    }
}

fn given_up(container: &str, names: &[String]) {
    let others = names.join(", ");
    warn!(%container, %others, "started without others after its wait");
}

fn ran(container: &str, result: &str) {
    if matches!(result, "failed" | "missed") {
        warn!(%container, result, "run of a schedule");
    } else {
        info!(%container, result, "run of a schedule");
    }
}

fn finished(container: &str, step: &Step, took: Duration, change: &str) {
    let ms = took.as_millis();
    if !change.is_empty() {
        info!(%container, %step, ms, %change, "step finished");
    } else if matches!(step, Step::Finish(_) | Step::Forget) {
        debug!(%container, %step, ms, "step finished");
    } else {
        info!(%container, %step, ms, "step finished");
    }
}

fn failed(container: &str, step: &Step, retry_in: Duration, event: &Event) {
    let message = event.message.as_deref().unwrap_or_default();
    let reason = event.reason.map_or("unknown", Reason::as_str);
    let retry_in_ms = retry_in.as_millis();
    warn!(%container, %step, %reason, detail = %message, retry_in_ms, "step failed, retrying");
}

fn archived(container: &str, event: &Event) {
    let EventKind::ArchiveEnded {
        direction,
        complete,
        bytes,
        took,
    } = &event.kind
    else {
        return;
    };
    let (message, ms) = (
        event.message.as_deref().unwrap_or_default(),
        took.as_millis(),
    );
    if *complete {
        info!(%container, direction, bytes, detail = %message, ms, "archive done");
    } else {
        warn!(%container, direction, detail = %message, ms, "archive broken off");
    }
}

fn exited(container: &str, (exit_code, signal): (u32, Option<u32>), event: &Event) {
    let message = event.message.as_deref().unwrap_or_default();
    let reason = event.reason.map_or("unknown", Reason::as_str);
    if event.is_harmless_end() {
        info!(%container, exit_code, signal, %reason, detail = %message, "container exited");
    } else {
        warn!(%container, exit_code, signal, %reason, detail = %message, "container exited");
    }
}

fn judged(container: &str, event: &Event) {
    let answer = event.message.as_deref().unwrap_or_default();
    if event.kind == EventKind::ContainerReady {
        info!(%container, %answer, "container ready");
    } else {
        warn!(%container, error = %answer, "container unhealthy");
    }
}

fn raised(alarm: Alarm, message: &str) {
    let remedy = alarm.remedy();
    if alarm.weight() == Weight::Notice {
        info!(%alarm, detail = %message, %remedy, "alarm raised");
    } else {
        warn!(%alarm, detail = %message, %remedy, "alarm raised");
    }
}

fn changed(alarm: Alarm, message: &str) {
    let remedy = alarm.remedy();
    if alarm.weight() == Weight::Notice {
        info!(%alarm, detail = %message, %remedy, "alarm changed");
    } else {
        warn!(%alarm, detail = %message, %remedy, "alarm changed");
    }
}

fn exhausted(container: &str) {
    error!(
        %container,
        steps = STEPS_MAX,
        "reconcile made too many steps without settling; pausing 1s (please report)"
    );
}

fn link_lost(error: &str) {
    warn!(
        %error,
        "link to CHaS lost; running containers go on, but for those with on_disconnect; retrying"
    );
}

fn identity_conflict(error: &str) {
    error!(
        %error,
        "another node has this node's id; nothing from CHaS is applied, running containers are \
         unaffected; give this node another node.id"
    );
}

fn unconfirmed(generation: u64, names: &[String]) {
    warn!(
        generation,
        count = names.len(),
        names = names.join(" "),
        "desired state from CHaS would end too much at once and waits for a confirmation; if it \
         is meant so: chas-node-agent confirm"
    );
}

fn set_rejected(code: &str, error: &str) {
    warn!(
        code,
        %error,
        "answer of CHaS rejected; the desired state applied before stays in force"
    );
}
