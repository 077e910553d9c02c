//! Containers: a managed one with its record and condition, or an unmanaged one that is only shown.

use std::sync::Arc;
use std::time::SystemTime;

use state::desired::{Owner, Record};
use state::health::HealthState;
use state::spec::HealthCheck;
use state::status::{Condition, Status};
use state::time::BootTime;

/// A moment by both clocks, by which a point in boot time is shown as a wall time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The time since boot.
    pub boot: BootTime,
    /// The wall time.
    pub wall: SystemTime,
}

impl Moment {
    /// The wall time at `point`, for showing.
    #[must_use]
    pub(crate) fn wall_at(&self, point: BootTime) -> SystemTime {
        self.wall + point.since(self.boot) - self.boot.since(point)
    }
}

/// A container in the agent's containerd namespace.
#[derive(Clone, Debug)]
pub(crate) enum ContainerView {
    /// A managed container.
    Managed(Box<ManagedView>),
    /// An unmanaged container: shown, and never changed.
    Unmanaged(UnmanagedView),
}

impl ContainerView {
    /// The container, if the agent manages it.
    #[must_use]
    pub(crate) fn managed(&self) -> Option<&ManagedView> {
        match self {
            Self::Managed(view) => Some(view),
            Self::Unmanaged(_) => None,
        }
    }

    /// The status.
    #[must_use]
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Managed(view) => view.condition.status,
            Self::Unmanaged(view) => view.status,
        }
    }

    /// The owner's word, as it stands in JSON: `push`, `chas` or `unmanaged`.
    #[must_use]
    pub(crate) fn owner(&self) -> &'static str {
        match self.managed().map(|view| view.record.owner) {
            Some(Owner::Push) => "push",
            Some(Owner::Chas) => "chas",
            None => "unmanaged",
        }
    }

    /// The value of a label; `None`: no such label, as on every unmanaged container.
    #[must_use]
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let labels = &self.managed()?.record.spec.labels;
        labels.get(key).map(String::as_str)
    }
}

/// A managed container.
#[derive(Clone, Debug)]
pub(crate) struct ManagedView {
    /// The desired entry.
    pub record: Arc<Record>,
    /// The status, and why.
    pub condition: Condition,
    /// The moment of this view.
    pub taken: Moment,
    /// The start of the container's process; of the last one, if none runs.
    pub started: Option<SystemTime>,
    /// The last end of the container's process.
    pub finished: Option<SystemTime>,
    /// The exit code of that end.
    pub exit_code: Option<u32>,
    /// Number of the container's processes that the kernel killed for want of memory, over all runs of
    /// the generation.
    pub memory_kills: u64,
    /// Number of restarts after the container had ended by itself.
    pub restart_count: u32,
    /// Bytes fetched of the image, and in all, while it is pulled.
    pub pull: Option<(u64, u64)>,
    /// The next run, if the container has a schedule, and is to run.
    pub next_run: Option<SystemTime>,
    /// The newest generation that runs, if one does.
    pub applied_generation: Option<u64>,
    /// The time since which it works, as far as its probe tells; without one, since which it runs.
    pub ready_since: Option<BootTime>,
    /// Verdict and last answer of its probe. `None`: it has none, or does not run.
    pub health: Option<ProbeView>,
}

/// The probe of a container that runs, and what it says.
#[derive(Clone, Debug)]
pub(crate) struct ProbeView {
    /// The check.
    pub check: HealthCheck,
    /// The verdict, with the last answer.
    pub state: HealthState,
    /// Whether the last answer is too old.
    pub is_stale: bool,
    /// Whether the check is the image's own.
    pub is_of_image: bool,
}

impl ManagedView {
    /// Whether the newest generation runs and works.
    #[must_use]
    pub(crate) fn is_ready(&self) -> bool {
        self.condition.status == Status::Running
            && self.applied_generation == Some(self.record.generation)
            && self.ready_since.is_some()
    }

    /// Whether it has a probe, whose last answer is too old.
    #[must_use]
    pub(crate) fn is_stale(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.is_stale)
    }

    /// The time of the next attempt, if one is waited for.
    #[must_use]
    pub(crate) fn next_attempt(&self) -> Option<SystemTime> {
        let next = self.condition.next_attempt?;
        Some(self.taken.wall_at(next))
    }

    /// Whether the container has ended and nothing will start it again by itself: it was stopped, or
    /// its restart policy leaves it as it ended.
    #[must_use]
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.condition.status {
            Status::Stopped => !self.condition.rests_for_a_while(),
            Status::Failed => self.record.finished.is_some(),
            Status::Pending
            | Status::Pulling
            | Status::Creating
            | Status::Running
            | Status::Unhealthy
            | Status::Restarting
            | Status::Stopping
            | Status::Removing => false,
        }
    }
}

/// An unmanaged container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnmanagedView {
    /// Id in containerd.
    pub id: String,
    /// The image's name, as its creator recorded it.
    pub image: String,
    /// Status: running or stopped.
    pub status: Status,
}
