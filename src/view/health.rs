//! The node's health.

use std::time::{Duration, SystemTime};

use state::alarm::{Alarm, NodeHealth};
use state::id::ContainerName;
use state::status::{Condition, Status};

use super::{CordonView, LinkView};
use crate::logs::keep::SilentContainer;
use crate::monitor::NodeFacts;

/// The node's health.
#[derive(Clone, Debug)]
pub(crate) struct HealthView {
    /// The node's resources.
    pub facts: NodeFacts,
    /// Managed containers that run.
    pub running: usize,
    /// Number of managed containers that are neither running nor stopped.
    pub unsettled: usize,
    /// All of those, the worst first.
    pub worst: Vec<UnsettledView>,
    /// Longest time for which one of them is so.
    pub unsettled_for: Duration,
    /// Work of the reconciler.
    pub backlog: BacklogView,
    /// Whether containerd answers.
    pub containerd: bool,
    /// Whether containerd was asked since the agent started. The network comes first.
    pub containerd_asked: bool,
    /// The time since which containerd answers, or does not.
    pub containerd_since: SystemTime,
    /// The last answer of containerd. `None`: not since the agent started.
    pub containerd_answered: Option<SystemTime>,
    /// The error of the last call that containerd did not answer; `None` while it does.
    pub containerd_error: Option<String>,
    /// Whether changes can be stored.
    pub writable: bool,
    /// Whether it is known what was asked last: the newest copy of the state could be opened.
    pub known: bool,
    /// Whether the state is being rebuilt: the stored one was damaged, and the records in
    /// containerd's labels are not adopted yet.
    pub rebuilding: bool,
    /// Losses and damage of the stored state that the start found, in sentences.
    pub losses: Vec<String>,
    /// The alarms that stand, the heaviest first.
    pub alarms: Vec<AlarmView>,
    /// Containers of which no log is written, and why.
    pub silent: Vec<SilentContainer>,
    /// The last errors, oldest first.
    pub errors: Vec<ErrorView>,
    /// The confinement of containers.
    pub confinement: ConfinementView,
    /// Cordon and drain.
    pub cordon: CordonView,
    /// The link to CHaS. `None`: none is configured.
    pub link: Option<LinkView>,
}

/// Work of the reconciler that is under way or waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BacklogView {
    /// Containers that have a turn or wait for one.
    pub queued: usize,
    /// Longest time for which a turn could have begun and did not.
    pub overdue: Duration,
    /// Longest time for which a turn took no step.
    pub silent: Duration,
}

/// The confinement of containers that are created now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfinementView {
    /// Capabilities that a container may have.
    pub granted: Vec<String>,
    /// Capabilities of docker's list that none has.
    pub withheld: Vec<String>,
    /// The other layers.
    pub layers: Vec<LayerView>,
}

/// A layer of the confinement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerView {
    /// The name.
    pub name: &'static str,
    /// Whether it is in force.
    pub in_force: bool,
    /// The effect, or why there is none.
    pub detail: String,
}

/// A container that is neither running nor stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnsettledView {
    /// The name.
    pub name: ContainerName,
    /// The status, and why.
    pub condition: Condition,
    /// The time since which the agent sees it so.
    pub since: SystemTime,
}

impl UnsettledView {
    /// The order of those that are named: what failed and stays so comes before what is under way.
    #[must_use]
    pub(crate) fn rank(&self) -> (u8, bool) {
        let rank = match self.condition.status {
            Status::Failed => 0,
            // Nobody knows what a container does that runs and is not settled.
            Status::Restarting | Status::Unhealthy | Status::Running => 1,
            Status::Stopping | Status::Removing => 2,
            Status::Pending => 3,
            Status::Pulling | Status::Creating | Status::Stopped => 4,
        };
        (rank, self.condition.reason.is_none())
    }
}

/// An alarm that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlarmView {
    /// The alarm.
    pub alarm: Alarm,
    /// The time since which it stands.
    pub since: SystemTime,
    /// The fault in a sentence.
    pub message: String,
}

/// An error of the last hours: the newest of those with one code, of one container or of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorView {
    /// The time of the error.
    pub at: SystemTime,
    /// The code: of a reason, or of an alarm.
    pub code: &'static str,
    /// The error in a sentence, with the container's name in front.
    pub message: String,
    /// The time of the first one.
    pub first_at: SystemTime,
    /// The number of them so far.
    pub count: u64,
}

impl HealthView {
    /// The health in a word.
    #[must_use]
    pub(crate) fn status(&self) -> &'static str {
        let alarms = self.alarms.iter().map(|standing| standing.alarm);
        NodeHealth::of(alarms, self.unsettled).as_str()
    }
}
