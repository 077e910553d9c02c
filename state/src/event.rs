//! Facts about the node and its containers, as they happen: a closed set of kinds. Pure data; the
//! agent's journal numbers, tells and keeps them.

use std::fmt;
use std::time::Duration;

use crate::alarm::Alarm;
use crate::desired::Record;
use crate::id::{ContainerId, ContainerName};
use crate::plan::Step;
use crate::reason::Reason;

/// A fact about the node or a container, with its cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The fact itself.
    pub kind: EventKind,
    /// The container that the fact is about. `None`: the node.
    pub subject: Option<EventSubject>,
    /// The reason code of the fact, if one is known.
    pub reason: Option<Reason>,
    /// The cause in a sentence.
    pub message: Option<String>,
}

/// The container that an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubject {
    /// The id.
    pub id: ContainerId,
    /// The name. `None`: a leftover.
    pub name: Option<ContainerName>,
    /// The generation of its record. `None`: a leftover.
    pub generation: Option<u64>,
}

impl EventSubject {
    /// The container with this id, and its record if it has one.
    #[must_use]
    pub fn new(id: ContainerId, record: Option<&Record>) -> Self {
        Self {
            id,
            name: record.map(|record| record.name.clone()),
            generation: record.map(|record| record.generation),
        }
    }
}

impl fmt::Display for EventSubject {
    /// The name, or the id of a leftover.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => name.fmt(f),
            None => self.id.fmt(f),
        }
    }
}

/// The kinds of facts.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// A step of the reconciler was done.
    StepFinished {
        /// The step.
        step: Step,
        /// The duration.
        took: Duration,
    },
    /// A step failed, and is tried again after a wait.
    StepFailed {
        /// The step.
        step: Step,
        /// The wait.
        retry_in: Duration,
    },
    /// A step was not done because the runtime is unreachable. It counts as no failure.
    StepDeferred {
        /// The step.
        step: Step,
    },
    /// The reconciler made as many steps as one turn may have without settling the container.
    TurnExhausted,
    /// A generation was given up, and an earlier one is back.
    RolledBack {
        /// Whether a person asked for it.
        by_hand: bool,
    },
    /// A container's process ended, by itself or since it was asked to.
    ContainerExited {
        /// The exit code.
        code: u32,
        /// The signal that ended it, as far as the exit code tells.
        signal: Option<u32>,
    },
    /// The kernel killed processes of a container for want of memory. If the first is among them, the container exits.
    MemoryKilled {
        /// The number of processes, since the look before.
        kills: u64,
    },
    /// The shim of a container does not answer.
    ShimUnresponsive,
    /// A container is started without others, since it has waited for them as long as it was to.
    WaitGivenUp {
        /// The names of the others.
        names: Vec<String>,
    },
    /// A run of a container with a schedule began or ended, or its time passed without one.
    JobRun {
        /// `begun`, `succeeded`, `failed`, `replaced`, `skipped` or `missed`.
        result: &'static str,
    },
    /// A container was started again after it had ended by itself.
    ContainerRestarted,
    /// A container's probe says that it works.
    ContainerReady,
    /// A container's probe says that it does not work.
    ContainerUnhealthy,
    /// The process that writes a container's log ended before it; the message says whether another took over.
    LoggerLost,
    /// A program was started in a running container, beside its first process.
    ExecBegun,
    /// Such a program ended, and nothing of it is left.
    ExecEnded {
        /// The result, in a word of a closed set.
        result: &'static str,
        /// The duration.
        took: Duration,
    },
    /// An archive of a volume or of a container's files ended.
    ArchiveEnded {
        /// The direction: `read` from the node, or `written` to it.
        direction: &'static str,
        /// Whether all of it came.
        complete: bool,
        /// Bytes of its files, without their holes.
        bytes: u64,
        /// The duration.
        took: Duration,
    },
    /// A pull ended.
    ImagePulled {
        /// Bytes that came from the registry.
        received_bytes: u64,
        /// The image is on the node; `false`: the pull failed or was interrupted.
        complete: bool,
    },
    /// The registry was asked again what the tag of a container's image stands for.
    TagChecked {
        /// The result, in a word of a closed set.
        result: &'static str,
    },
    /// The runtime answers (again).
    RuntimeReached,
    /// The runtime does not answer.
    RuntimeLost,
    /// A record was rebuilt from the runtime's labels.
    StateRebuilt,
    /// The state cannot be rebuilt yet.
    RebuildFailed,
    /// Leftovers were removed.
    LeftoversSwept {
        /// Descriptions of the leftovers, as in `snapshot 0123456789ab-1`.
        removed: Vec<String>,
    },
    /// Leftovers cannot be removed yet.
    SweepFailed,
    /// A change was written to the store, or refused by it.
    StoreWritten {
        /// The duration.
        took: Duration,
    },
    /// CHaS accepted the node's registration.
    NodeRegistered {
        /// The number of nodes in the cluster, as CHaS says it.
        cluster_size: Option<u64>,
    },
    /// CHaS answers (again).
    LinkReached,
    /// CHaS does not answer, or refuses the node.
    LinkLost,
    /// Another node has this node's id.
    IdentityConflict,
    /// A set from CHaS was applied.
    SetApplied {
        /// The generation of the set.
        generation: u64,
        /// Containers that changed.
        changed: usize,
        /// Names about which push and CHaS differ.
        conflicts: usize,
        /// Entries that could not be applied.
        rejected: usize,
    },
    /// A part of a set from CHaS waits for a confirmation.
    SetUnconfirmed {
        /// The set's generation.
        generation: u64,
        /// The names that wait.
        names: Vec<String>,
    },
    /// An answer of CHaS is no set for this node; the set applied before stays in force.
    SetRejected {
        /// The fault, in a word.
        code: &'static str,
    },
    /// A state of the node began in which something does not work.
    AlarmRaised {
        /// The state.
        alarm: Alarm,
    },
    /// Such a state goes on, and something else does not work.
    AlarmChanged {
        /// The state.
        alarm: Alarm,
    },
    /// The end of such a state.
    AlarmCleared {
        /// The state.
        alarm: Alarm,
    },
    /// A poll of CHaS ended.
    PollEnded {
        /// The result, in a word of a closed set.
        result: &'static str,
    },
    /// A report to CHaS ended.
    ReportEnded {
        /// The result, in a word of a closed set.
        result: &'static str,
    },
}

impl EventKind {
    /// The word of the kind, as it stands in JSON.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::StepFinished { .. } => "step_finished",
            Self::StepFailed { .. } => "step_failed",
            Self::StepDeferred { .. } => "step_deferred",
            Self::TurnExhausted => "turn_exhausted",
            Self::RolledBack { .. } => "rolled_back",
            Self::ContainerExited { .. } => "container_exited",
            Self::MemoryKilled { .. } => "memory_killed",
            Self::ShimUnresponsive => "shim_unresponsive",
            Self::WaitGivenUp { .. } => "wait_given_up",
            Self::JobRun { .. } => "job_run",
            Self::ContainerRestarted => "container_restarted",
            Self::ContainerReady => "container_ready",
            Self::ContainerUnhealthy => "container_unhealthy",
            Self::LoggerLost => "logger_lost",
            Self::ExecBegun => "exec_begun",
            Self::ExecEnded { .. } => "exec_ended",
            Self::ArchiveEnded { .. } => "archive_ended",
            Self::ImagePulled { .. } => "image_pulled",
            Self::TagChecked { .. } => "tag_checked",
            Self::RuntimeReached => "runtime_reached",
            Self::RuntimeLost => "runtime_lost",
            Self::StateRebuilt => "state_rebuilt",
            Self::RebuildFailed => "rebuild_failed",
            Self::LeftoversSwept { .. } => "leftovers_swept",
            Self::SweepFailed => "sweep_failed",
            Self::StoreWritten { .. } => "store_written",
            Self::NodeRegistered { .. } => "node_registered",
            Self::LinkReached => "link_reached",
            Self::LinkLost => "link_lost",
            Self::IdentityConflict => "identity_conflict",
            Self::SetApplied { .. } => "set_applied",
            Self::SetUnconfirmed { .. } => "set_unconfirmed",
            Self::SetRejected { .. } => "set_rejected",
            Self::AlarmRaised { .. } => "alarm_raised",
            Self::AlarmChanged { .. } => "alarm_changed",
            Self::AlarmCleared { .. } => "alarm_cleared",
            Self::PollEnded { .. } => "poll_ended",
            Self::ReportEnded { .. } => "report_ended",
        }
    }

    /// Whether the fact is only counted: one of many alike, which would push the others out of a
    /// bounded ring.
    #[must_use]
    pub const fn is_routine(&self) -> bool {
        matches!(
            self,
            Self::StoreWritten { .. }
                | Self::ExecBegun
                | Self::PollEnded { .. }
                | Self::ReportEnded { .. }
                | Self::StepDeferred { .. }
        )
    }
}

impl From<EventKind> for Event {
    fn from(kind: EventKind) -> Self {
        Self {
            kind,
            subject: None,
            reason: None,
            message: None,
        }
    }
}

impl Event {
    /// The fact, as one about this container.
    #[must_use]
    pub fn about(mut self, subject: EventSubject) -> Self {
        self.subject = Some(subject);
        self
    }

    /// The fact, with the code of its cause.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The fact, with its cause in a sentence.
    #[must_use]
    pub fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// The code of an error that a person should read: a step, a rebuild or a sweep that failed, an
    /// end that was not meant so, a probe that fails, a shim that does not answer, a state that was lost, an alarm. `None`: the fact is no error.
    #[must_use]
    pub fn error_code(&self) -> Option<&'static str> {
        let reason = self.reason.map(Reason::as_str);
        match &self.kind {
            EventKind::StepFailed { .. }
            | EventKind::RolledBack { .. }
            | EventKind::StateRebuilt
            | EventKind::RebuildFailed
            | EventKind::SweepFailed
            | EventKind::ShimUnresponsive
            | EventKind::LoggerLost
            | EventKind::ContainerUnhealthy
            | EventKind::TagChecked { .. }
            | EventKind::MemoryKilled { .. } => reason,
            EventKind::ContainerExited { .. } => reason.filter(|_| !self.is_harmless_end()),
            EventKind::AlarmRaised { alarm } | EventKind::AlarmChanged { alarm } => {
                Some(alarm.as_str())
            }
            EventKind::RuntimeLost => Some(Alarm::ContainerdUnreachable.as_str()),
            EventKind::IdentityConflict => Some(Alarm::IdentityConflict.as_str()),
            EventKind::SetRejected { .. } => Some(Alarm::SetRejected.as_str()),
            EventKind::StepFinished { .. }
            | EventKind::StepDeferred { .. }
            | EventKind::TurnExhausted
            | EventKind::WaitGivenUp { .. }
            | EventKind::JobRun { .. }
            | EventKind::ContainerRestarted
            | EventKind::ContainerReady
            | EventKind::ExecBegun
            | EventKind::ExecEnded { .. }
            | EventKind::ArchiveEnded { .. }
            | EventKind::ImagePulled { .. }
            | EventKind::RuntimeReached
            | EventKind::LeftoversSwept { .. }
            | EventKind::StoreWritten { .. }
            | EventKind::NodeRegistered { .. }
            | EventKind::LinkReached
            | EventKind::LinkLost
            | EventKind::SetApplied { .. }
            | EventKind::SetUnconfirmed { .. }
            | EventKind::AlarmCleared { .. }
            | EventKind::PollEnded { .. }
            | EventKind::ReportEnded { .. } => None,
        }
    }

    /// Whether the end of a container is as it was meant: it did its work, or was asked to stop.
    #[must_use]
    pub fn is_harmless_end(&self) -> bool {
        self.reason.is_none_or(Reason::is_harmless_end)
    }

    /// The sentence, with the container's name in front.
    #[must_use]
    pub fn text(&self) -> String {
        let message = self.message.as_deref().unwrap_or_default();
        match &self.subject {
            Some(subject) => format!("{subject}: {message}"),
            None => message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
