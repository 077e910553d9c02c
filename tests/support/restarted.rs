//! Restarts in memory: which one the task of an instance was created after.

use state::desired::Record;
use state::id::InstanceName;
use state::observed::Task;

use super::MemoryRuntime;

impl<C> MemoryRuntime<C> {
    /// Whether its task was created, and not after the restart that is asked for.
    pub(super) fn is_created_before(&self, record: &Record) -> bool {
        let inner = self.inner();
        let made = inner.instances.get(&record.instance());
        made.is_some_and(|made| {
            let is_other = record.restart_pending && made.restart != record.restarts_asked;
            is_other && matches!(made.task, Task::Created { .. })
        })
    }

    /// Tells an instance without a task after which restart the next one is created.
    pub(super) fn tell_restart(&self, name: InstanceName, restart: u64) {
        let mut inner = self.inner();
        let made = inner.instances.get_mut(&name);
        if let Some(made) = made.filter(|made| made.task == Task::Absent) {
            made.restart = restart;
        }
    }
}
