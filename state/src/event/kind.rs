//! Kinds of events, each with its facts and its word.

use std::time::Duration;

use crate::alarm::Alarm;
use crate::id::ContainerName;
use crate::plan::Step;

/// Words of the kinds that are told to readers: all but the routine ones.
pub const TOLD_KINDS: [&str; 36] = [
    "agent_started",
    "agent_stopping",
    "alarm_changed",
    "alarm_cleared",
    "alarm_raised",
    "archive_ended",
    "change_asked",
    "container_exited",
    "container_ready",
    "container_restarted",
    "container_unhealthy",
    "exec_ended",
    "identity_conflict",
    "image_pulled",
    "job_run",
    "leftovers_swept",
    "link_lost",
    "link_reached",
    "logger_lost",
    "memory_killed",
    "node_registered",
    "rebuild_failed",
    "rolled_back",
    "runtime_lost",
    "runtime_reached",
    "set_applied",
    "set_rejected",
    "set_unconfirmed",
    "shim_unresponsive",
    "state_rebuilt",
    "step_failed",
    "step_finished",
    "sweep_failed",
    "tag_checked",
    "turn_exhausted",
    "wait_given_up",
];

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
    /// The agent started.
    AgentStarted {
        /// The version.
        version: &'static str,
    },
    /// The agent was asked to stop. What runs, runs on.
    AgentStopping,
    /// A change was asked for. It stands in the audit as well.
    ChangeAsked {
        /// The kind of the change, in the audit's word.
        change: &'static str,
        /// The container's name. `None`: the change is about something else.
        name: Option<ContainerName>,
        /// The caller: a name, or the part of the agent that acts by itself.
        by: String,
        /// The id of the request, as its answer bears it.
        request: Option<String>,
        /// The verdict: `allowed`, `denied`, `unstored` or `unsure`.
        verdict: &'static str,
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
            Self::AgentStarted { .. } => "agent_started",
            Self::AgentStopping => "agent_stopping",
            Self::ChangeAsked { .. } => "change_asked",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_told_unless_its_kind_is_routine() {
        let text = include_str!("kind.rs");
        let table = text.split("fn as_str").nth(1).unwrap();
        let table = table.split("fn is_routine").next().unwrap();
        let words = table.lines().filter_map(|line| line.split('"').nth(1));
        let routine = [
            "store_written",
            "exec_begun",
            "poll_ended",
            "report_ended",
            "step_deferred",
        ];
        let mut told: Vec<_> = words.filter(|word| !routine.contains(word)).collect();
        told.sort_unstable();
        assert_eq!(told, TOLD_KINDS);
    }
}
