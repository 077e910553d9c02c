//! Facts about the node and its containers, as they happen: a closed set of kinds. Pure data; the
//! agent's journal numbers, tells and keeps them.

use std::fmt;

use crate::alarm::Alarm;
use crate::desired::Record;
use crate::id::{ContainerId, ContainerName};
use crate::reason::Reason;
pub use kind::{EventKind, TOLD_KINDS};

mod kind;

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
            | EventKind::ReportEnded { .. }
            | EventKind::AgentStarted { .. }
            | EventKind::AgentStopping
            | EventKind::ChangeAsked { .. } => None,
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
            // An alarm about one container begins with it.
            Some(subject) if !message.starts_with(&format!("{subject}: ")) => {
                format!("{subject}: {message}")
            }
            Some(_) | None => message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
