//! Ends of processes in memory: by themselves, or by a stop signal beside the calls.

use std::time::{Duration, SystemTime};

use state::id::InstanceName;
use state::observed::{Exit, Task};
use tokio::time::Instant;

use super::{Call, Circumstances, MemoryRuntime, Step};
use crate::runtime::RuntimeEvent;

impl<C: Circumstances> MemoryRuntime<C> {
    /// A process ends by itself, if it runs. The wall clock is `ahead` by so much.
    pub(crate) fn exit(&self, name: InstanceName, code: u32, out_of_memory: bool, ahead: Duration) {
        if !self.running().contains(&name) {
            return;
        }
        let mut inner = self.inner();
        inner.count += 1;
        let at = SystemTime::UNIX_EPOCH + ahead + Duration::from_secs(inner.count);
        drop(inner);
        self.set(
            name,
            Task::Stopped(Exit {
                code,
                at,
                out_of_memory,
            }),
        );
        self.circumstances.saw(Step::Exited(name, code));
        self.tell(name.id);
    }

    /// Somebody kills a shim, or the node reboots: no task, and nobody knows how it ended.
    pub(crate) fn lose_task(&self, name: InstanceName) {
        self.set(name, Task::Absent);
        self.circumstances.saw(Step::Lost(name));
        self.tell(name.id);
    }

    /// A process ends after a while, by its stop signal.
    pub(super) fn end_later(&self, name: InstanceName, grace: Duration) {
        if self.inner().is_deaf || !self.running().contains(&name) {
            return;
        }
        self.circumstances.saw(Step::Ends(name, Call::Signal));
        let late = self.circumstances.ending_time(grace);
        self.inner().dying.insert(name, Instant::now() + late);
        self.hint(late, RuntimeEvent::Changed(name.id));
        self.end_dying();
    }

    /// Ends the processes whose time has come.
    pub(super) fn end_dying(&self) {
        let mut inner = self.inner();
        let due = inner.dying.iter().filter(|(_, at)| **at <= Instant::now());
        let due: Vec<_> = due.map(|(name, _)| *name).collect();
        for name in due {
            inner.dying.remove(&name);
            inner.count += 1;
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(inner.count);
            let made = inner.instances.get_mut(&name);
            let running = made.filter(|made| matches!(made.task, Task::Running { .. }));
            if let Some(made) = running {
                made.task = Task::Stopped(Exit {
                    code: 143,
                    at,
                    out_of_memory: false,
                });
            }
        }
    }
}
