//! What one look at the runtime found of one container. Facts only; what follows from them is [`crate::plan`]'s.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::memory::BootTime;

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
