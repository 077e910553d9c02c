//! Programs that are looked after, and pipes of those that an agent before has left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use rustix::fd::OwnedFd;

use super::pipes;
use crate::exec::ExecName;
use crate::lock::lock;

/// Processes of a program.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LiveExec {
    /// First process of its container.
    pub(super) init: u32,
    /// First process of its own, which leads its session; 0: it is not started, as far as is known.
    pub(super) leader: u32,
    pub(super) has_ended: bool,
}

/// Programs that are looked after.
#[derive(Debug, Default)]
pub(in super::super) struct LiveExecs(
    Mutex<BTreeMap<ExecName, LiveExec>>,
    /// Pipes that an agent before has left, until what it left is taken away.
    Mutex<Vec<OwnedFd>>,
);

impl LiveExecs {
    /// None, after the shims were let go that wait for an agent that was killed.
    pub(in super::super) fn begin(run_dir: &Path) -> Self {
        let left = Mutex::new(pipes::open_left(run_dir));
        Self(Mutex::default(), left)
    }

    pub(super) fn of(&self, name: &ExecName) -> Option<LiveExec> {
        lock(&self.0).get(name).copied()
    }

    pub(super) fn change(&self, name: &ExecName, change: impl FnOnce(&mut LiveExec)) {
        if let Some(live) = lock(&self.0).get_mut(name) {
            change(live);
        }
    }

    pub(super) fn add(&self, name: &ExecName, live: LiveExec) {
        lock(&self.0).insert(name.clone(), live);
    }

    pub(super) fn remove(&self, name: &ExecName) {
        lock(&self.0).remove(name);
    }

    /// Closes the pipes that an agent before has left.
    pub(super) fn let_go_left(&self) {
        lock(&self.1).clear();
    }
}
