//! What one look at the runtime found of one container. Facts only; what follows from them is [`crate::plan`]'s.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::reason::Reason;
use crate::time::BootTime;

/// Everything the runtime holds under one container's id, one entry a generation. Empty: nothing of it exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By generation. Two at once is a change of spec in progress, or a leftover.
    pub instances: BTreeMap<u64, Instance>,
}

/// What exists of one generation. Any part may be missing: a crash can happen between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// containerd has a container record of this name.
    pub container: bool,
    /// The state of its task.
    pub task: Task,
}

/// The state of a container's task, containerd's running process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Task {
    /// There is none: never created, or lost with a reboot.
    #[default]
    Absent,
    /// Created and waiting to be started; its process id is known, nothing of the image runs.
    Created {
        /// Process id in the host's pid namespace.
        pid: u32,
    },
    /// Running (or paused, which only a person with containerd's own tools can do).
    Running {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// When that process began; `None` where the kernel did not tell.
        since: Option<BootTime>,
    },
    /// Its process has ended; the record of it is still there.
    Stopped(Exit),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + signal when a signal ended it.
    pub code: u32,
    /// When, by the host's wall clock. For showing, and for telling one exit from another.
    pub at: SystemTime,
    /// The kernel killed it for using more memory than its limit.
    pub out_of_memory: bool,
}

impl Exit {
    /// What a task counts as that vanished without a word: somebody killed the shim, and containerd forgets the task with
    /// its exit code. The kernel ends what the shim had started.
    pub const LOST: Self = Self {
        code: 137,
        at: SystemTime::UNIX_EPOCH,
        out_of_memory: false,
    };

    /// The signal that ended it, as far as an exit code can tell: a shell passes its child's on in the same way.
    #[must_use]
    pub const fn signal(&self) -> Option<u32> {
        match self.code {
            129..=192 => Some(self.code - 128),
            _ => None,
        }
    }

    /// What the end by itself is called, whatever happened before.
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
