//! Observations: what one look at the runtime found of one container. Facts only; the verdict that
//! follows from them is [`crate::phase`]'s.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::desired::update::UpdateStage;
use crate::desired::{Finished, Record};
use crate::id::InstanceName;
use crate::reason::Reason;
use crate::spec::HealthCheck;
use crate::time::BootTime;

/// Everything that the runtime holds under one container's id, one entry an instance. Empty:
/// nothing of the container exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Instances by the generation that they were made as. Two at once are a change of spec in
    /// progress, or a leftover.
    pub instances: BTreeMap<u64, Instance>,
}

impl Seen {
    /// The instance of a record; `None`: nothing of it exists.
    #[must_use]
    pub fn instance(&self, record: &Record) -> Option<&Instance> {
        self.instances.get(&record.instance().generation)
    }

    /// The task of a record's instance; absent where nothing of the instance exists.
    #[must_use]
    pub fn task(&self, record: &Record) -> &Task {
        self.instance(record)
            .map_or(&Task::Absent, |instance| &instance.task)
    }

    /// Whether the record's instance exists, and carries something else than the record.
    #[must_use]
    pub fn is_behind(&self, record: &Record) -> bool {
        let Some(instance) = self.instance(record) else {
            return false;
        };
        let is_other_spec = |carried: &CarriedSpec| carried.spec_hash != record.spec_hash;
        instance.carried(record.instance().generation) != record.generation
            || instance.carries.as_ref().is_some_and(is_other_spec)
    }

    /// Whether a restart was asked for that has been done, and is not noted: the process is of it.
    #[must_use]
    pub fn has_restarted(&self, record: &Record) -> bool {
        let number = record.restarts_asked;
        record.restart_pending
            && number > 0
            && self.instance(record).is_some_and(|instance| {
                let is_begun = matches!(instance.task, Task::Running { .. } | Task::Stopped(_));
                instance.restart == number && is_begun
            })
    }

    /// Whether a restart is yet to be done.
    #[must_use]
    pub fn awaits_restart(&self, record: &Record) -> bool {
        record.restart_pending && !self.has_restarted(record)
    }

    /// Whether the shim of any generation does not answer.
    #[must_use]
    pub fn is_unresponsive(&self) -> bool {
        let mut instances = self.instances.values();
        instances.any(|instance| instance.task == Task::Unresponsive)
    }

    /// The generation that the newest instance that runs was made of, by which it is named.
    #[must_use]
    pub fn running_instance(&self) -> Option<u64> {
        let mut newest_first = self.instances.iter().rev();
        newest_first
            .find(|(_, instance)| matches!(instance.task, Task::Running { .. }))
            .map(|(made_at, _)| *made_at)
    }

    /// Generation that the instance was made as which serves: which has the ports, if it runs, else the
    /// newest one that runs, and rather one that does not stand back.
    #[must_use]
    pub fn serving_instance(&self, record: &Record) -> Option<u64> {
        let runs = |made_at: &u64| {
            let instance = self.instances.get(made_at);
            instance.is_some_and(|instance| matches!(instance.task, Task::Running { .. }))
        };
        let served_by = record.served_by(|name| self.instances.contains_key(&name.generation));
        let served_by = served_by.map(|name| name.generation);
        let served_by = served_by.filter(|made_at| record.update.is_some() && runs(made_at));
        let own = record.instance().generation;
        let beside = || {
            let mut newest_first = self.instances.keys().rev().copied();
            newest_first.find(|made_at| !(record.stands_back() && *made_at == own) && runs(made_at))
        };
        let newest = || self.running_instance();
        served_by.or_else(beside).or_else(newest)
    }

    /// The generation that serves, without one that stands back. Before its ports have moved it is the
    /// one before that has them. `is_relieved`: whether the ports of an instance have moved.
    #[must_use]
    pub fn serving_generation(
        &self,
        record: &Record,
        is_relieved: impl FnOnce(InstanceName) -> bool,
    ) -> Option<u64> {
        let own = record.instance().generation;
        let keeps_ports = record.update.as_ref().and_then(|update| {
            let former = update.former.instance();
            let is_due = update.stage == UpdateStage::Switched && update.is_beside;
            (is_due && !is_relieved(former)).then_some(former.generation)
        });
        let keeps_ports = keeps_ports.filter(|made_at| {
            let instance = self.instances.get(made_at);
            instance.is_some_and(|instance| matches!(instance.task, Task::Running { .. }))
        });
        let made_at = keeps_ports.or_else(|| self.serving_instance(record));
        let made_at = made_at.filter(|made_at| !(record.stands_back() && *made_at == own))?;
        Some(self.instances.get(&made_at)?.carried(made_at))
    }

    /// The generation that the newest instance that runs carries.
    #[must_use]
    pub fn running_generation(&self) -> Option<u64> {
        let is_running = |instance: &Instance| matches!(instance.task, Task::Running { .. });
        let mut newest_first = self.instances.iter().rev();
        newest_first
            .find(|(_, instance)| is_running(instance))
            .map(|(made_at, instance)| instance.carried(*made_at))
    }
}

/// An instance that exists as a container in containerd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// State of its task.
    pub task: Task,
    /// Processes of its control group that the kernel killed for want of memory, by the kernel's own
    /// count. `None`: it cannot be told, or the first process is among them and about to end, whose
    /// end will tell.
    pub memory_kills: Option<u64>,
    /// Record that it was made of, or was brought up to since. `None`: it tells of none.
    pub carries: Option<CarriedSpec>,
    /// Number of the restart that its task was last created after, see [`Record::restarts_asked`]. 0:
    /// none.
    pub restart: u64,
    /// HEALTHCHECK of the image that it was made of. `None`: that has none.
    pub image_check: Option<Arc<HealthCheck>>,
}

/// Record of a container at one moment, by its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CarriedSpec {
    /// Generation.
    pub generation: u64,
    /// Fingerprint of the spec, as the record had it.
    pub spec_hash: String,
}

impl CarriedSpec {
    /// The numbers of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self {
            generation: record.generation,
            spec_hash: record.spec_hash.clone(),
        }
    }
}

impl Instance {
    /// The generation that it carries, if it was made as `made_at`.
    #[must_use]
    pub fn carried(&self, made_at: u64) -> u64 {
        let carries = self.carries.as_ref();
        carries.map_or(made_at, |carried| carried.generation)
    }
}

impl From<Task> for Instance {
    /// An instance with this task, of which nothing more was seen.
    fn from(task: Task) -> Self {
        Self {
            task,
            ..Self::default()
        }
    }
}

/// State of a container's task, containerd's running process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// No task: never created, or lost with a reboot.
    #[default]
    Absent,
    /// Task that waits to be started; nothing of the image runs.
    Created {
        /// Process id in the host's pid namespace.
        pid: u32,
    },
    /// Running task (or a paused one, which only a person with containerd's own tools can make).
    Running {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// Start of that process. `None`: the kernel did not tell.
        since: Option<BootTime>,
    },
    /// Task whose process has ended.
    Stopped(Exit),
    /// Task whose shim does not answer: whether its process runs cannot be told.
    Unresponsive,
}

/// End of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal where a signal ended the process.
    pub code: u32,
    /// Time by the host's wall clock. For showing, and for telling one exit from another.
    pub at: SystemTime,
    /// Whether the kernel killed the process for using more memory than its limit. A look leaves it
    /// false where only the kernel's count can tell: the history compares that with the look before.
    pub out_of_memory: bool,
}

impl Exit {
    /// Exit code of a process that SIGKILL ended.
    pub const KILLED: u32 = 137;

    /// Exit that a task counts as which vanished: somebody killed the shim, and containerd forgets
    /// the task with its exit code. The kernel ends what the shim had started.
    pub const LOST: Self = Self {
        code: Self::KILLED,
        at: SystemTime::UNIX_EPOCH,
        out_of_memory: false,
    };

    /// The end that is stored, as a look at its task would tell of it.
    #[must_use]
    pub fn stored(finished: &Finished) -> Self {
        Self {
            code: finished.code,
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(finished.at_ms),
            out_of_memory: finished.reason == Reason::OutOfMemory,
        }
    }

    /// Whether two looks tell of the same end.
    #[must_use]
    pub fn is_same_end(&self, other: &Self) -> bool {
        (self.code, self.at) == (other.code, other.at)
    }

    /// Signal that ended the process, as far as an exit code can tell: a shell passes its child's
    /// on in the same way.
    #[must_use]
    pub const fn signal(&self) -> Option<u32> {
        match self.code {
            129..=192 => Some(self.code - 128),
            _ => None,
        }
    }

    /// Reason code of the exit by itself, whatever happened before.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match (self, self.signal()) {
            (lost, _) if *lost == Self::LOST => Reason::ShimLost,
            (
                Self {
                    out_of_memory: true,
                    ..
                },
                _,
            ) => Reason::OutOfMemory,
            (_, Some(_)) => Reason::Signaled,
            (Self { code: 0, .. }, None) => Reason::ExitedCleanly,
            (_, None) => Reason::Exited,
        }
    }
}
