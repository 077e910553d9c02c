//! Host ports of the containers of a runtime in memory: one instance of each has them.

use state::desired::Record;
use state::id::InstanceName;

use super::{Circumstances, MemoryRuntime, Step};

impl<C: Circumstances> MemoryRuntime<C> {
    /// Other instances of the container that run.
    pub(super) fn others(&self, name: InstanceName) -> usize {
        let running = self.running();
        let others = running.iter().filter(|other| other.id == name.id);
        others.filter(|other| **other != name).count()
    }

    /// Gives an instance the host ports of its container.
    pub(super) fn publish(&self, name: InstanceName) {
        let before = self.inner().ports.insert(name.id, name);
        let running = self.running();
        if let Some(before) = before.filter(|one| *one != name && running.contains(one)) {
            self.circumstances.saw(Step::PortsMove(name, before));
        }
    }

    /// Host ports of which nobody that is there has any go to the one that serves.
    pub(super) fn repair(&self, record: &Record) {
        let there = self.instances();
        let holder = self.inner().ports.get(&record.id).copied();
        let serving = record.served_by(|name| there.contains(&name));
        if let Some(serving) = serving.filter(|_| holder.is_none_or(|one| !there.contains(&one))) {
            self.publish(serving);
        }
    }
}
