//! Programs that are looked after, and pipes of those that an agent before has left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use rustix::fd::OwnedFd;
use state::id::InstanceName;

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
    /// Whether it is the container's own, which runs once.
    pub(super) is_own: bool,
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

    /// Adds a program. Answers whether it may run: of its container's own there is one.
    pub(super) fn add(&self, name: &ExecName, live: LiveExec) -> bool {
        let mut all = lock(&self.0);
        let is_second = live.is_own && own_of(&all, name.instance);
        if !is_second {
            all.insert(name.clone(), live);
        }
        !is_second
    }

    /// Whether an instance's own program is looked after, which may still hand on what it printed.
    pub(in super::super) fn has_own(&self, instance: InstanceName) -> bool {
        own_of(&lock(&self.0), instance)
    }

    pub(super) fn remove(&self, name: &ExecName) {
        lock(&self.0).remove(name);
    }

    /// Closes the pipes that an agent before has left.
    pub(super) fn let_go_left(&self) {
        lock(&self.1).clear();
    }
}

fn own_of(all: &BTreeMap<ExecName, LiveExec>, instance: InstanceName) -> bool {
    let mut all = all.iter();
    all.any(|(name, live)| name.instance == instance && live.is_own)
}

#[cfg(test)]
mod tests {
    use state::id::ContainerId;

    use super::*;

    #[test]
    fn of_a_container_s_own_program_there_is_one_until_it_is_taken_away() {
        let live = LiveExecs::default();
        let name = |generation: u64, id: &str| ExecName {
            instance: InstanceName {
                id: ContainerId::from_bits(1),
                generation,
            },
            id: id.to_owned(),
        };
        let own = LiveExec {
            is_own: true,
            ..LiveExec::default()
        };
        assert!(live.add(&name(1, "beside"), LiveExec::default()));
        assert!(!live.has_own(name(1, "").instance));
        assert!(live.add(&name(1, "own"), own));
        assert!(!live.add(&name(1, "second"), own));
        assert!(live.of(&name(1, "second")).is_none());
        assert!(live.add(&name(1, "later"), LiveExec::default()));
        assert!(live.add(&name(2, "own"), own), "of another instance");
        live.remove(&name(1, "own"));
        assert!(!live.has_own(name(1, "").instance));
        assert!(live.add(&name(1, "second"), own));
    }
}
