//! Circumstances that a test writes down: calls take a fixed time and fail as they are told to.

#![allow(dead_code, reason = "no crate of tests uses all of it")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use state::desired::{Addresses, Record};
use state::id::{ContainerId, InstanceName};
use tokio::time::Instant;

use super::memory_runtime::{Call, Circumstances, MemoryRuntime, Step};
use crate::runtime::RuntimeError;

/// Time of a pull in the clock of the test.
const PULL: Duration = Duration::from_secs(2);
/// Time of a launch in the clock of the test.
const LAUNCH: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Failures to hand out, one a call that changes something; where a call is named, to that one
    /// only.
    faults: Vec<(Option<Call>, RuntimeError)>,
    /// Pulls, launches, stops and removals, and when each began.
    calls: Vec<(Call, Instant)>,
    launches: BTreeMap<ContainerId, u32>,
    most_tasks_of_one: usize,
    /// Address that a launch is answered. `None`: the one that is stored.
    address: Option<Ipv4Addr>,
}

impl Lines {
    fn begin(&mut self, call: Call) {
        self.calls.push((call, Instant::now()));
    }
}

/// Faults to come, and calls that were made.
#[derive(Debug, Default)]
pub(crate) struct Script(Mutex<Lines>);

/// Runtime of a scripted test.
pub(crate) type ScriptedRuntime = MemoryRuntime<Script>;

impl Script {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap()
    }
}

impl Circumstances for Script {
    async fn first_part(&self, call: Call) -> Result<(), RuntimeError> {
        if call == Call::Launch {
            tokio::time::sleep(LAUNCH).await;
        }
        let faults = &mut self.lines().faults;
        let next = faults
            .iter()
            .rposition(|(of, _)| of.is_none_or(|of| of == call));
        next.map_or(Ok(()), |at| Err(faults.remove(at).1))
    }

    async fn part(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn pull_time(&self) -> Duration {
        PULL
    }

    fn ending_time(&self, _: Duration) -> Duration {
        Duration::ZERO
    }

    fn keeps_image(&self) -> bool {
        true
    }

    fn event_delays(&self) -> Vec<Duration> {
        vec![Duration::ZERO]
    }

    fn addresses(&self, record: &Record) -> Option<Addresses> {
        let answered = self.lines().address;
        answered.or(record.assignment.address).map(Addresses::from)
    }

    fn saw(&self, step: Step<'_>) {
        let mut lines = self.lines();
        match step {
            Step::Pull(_) => lines.begin(Call::EnsureImage),
            Step::Adjust(_) => lines.begin(Call::Adjust),
            Step::HandOver(_) => lines.begin(Call::HandOver),
            Step::Signal(_) => lines.begin(Call::Signal),
            Step::Launch(_) => lines.begin(Call::Launch),
            Step::Stop(_) => lines.begin(Call::Stop),
            Step::Remove(_) => lines.begin(Call::Remove),
            Step::Runs(name, _) => *lines.launches.entry(name.id).or_default() += 1,
            Step::Tasks(_, tasks) => lines.most_tasks_of_one = lines.most_tasks_of_one.max(tasks),
            Step::Look
            | Step::Calls(..)
            | Step::Ends(..)
            | Step::PortsMove(..)
            | Step::Unserves(_)
            | Step::Ended(_)
            | Step::Exited(..)
            | Step::Lost(_) => {}
        }
    }
}

impl ScriptedRuntime {
    /// Makes the next calls that change something fail with these, the last one first.
    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = RuntimeError>) {
        let faults = faults.into_iter().map(|fault| (None, fault));
        self.circumstances.lines().faults.extend(faults);
    }

    /// Makes the next calls of one kind fail, else as [`Self::fail_next`].
    pub(crate) fn fail_next_of(&self, call: Call, faults: impl IntoIterator<Item = RuntimeError>) {
        let faults = faults.into_iter().map(|fault| (Some(call), fault));
        self.circumstances.lines().faults.extend(faults);
    }

    /// Makes the network answer this address for whatever is launched.
    pub(crate) fn answer_address(&self, address: Ipv4Addr) {
        self.circumstances.lines().address = Some(address);
    }

    /// Times at which the pulls, launches, stops or removals began so far.
    pub(crate) fn began(&self, call: Call) -> Vec<Instant> {
        let lines = self.circumstances.lines();
        let calls = lines.calls.iter().filter(|(known, _)| *known == call);
        calls.map(|(_, at)| *at).collect()
    }

    /// Number of starts of the container, ever.
    pub(crate) fn launches(&self, id: ContainerId) -> u32 {
        let lines = self.circumstances.lines();
        lines.launches.get(&id).copied().unwrap_or_default()
    }

    /// Largest number of tasks that any one container ever had at once.
    pub(crate) fn most_tasks_of_one(&self) -> usize {
        self.circumstances.lines().most_tasks_of_one
    }

    fn instances_of(&self, id: ContainerId) -> impl Iterator<Item = InstanceName> {
        self.instances()
            .into_iter()
            .filter(move |name| name.id == id)
    }

    /// Ends the container's process as if by itself. Does nothing when none runs.
    pub(crate) fn end(&self, id: ContainerId, code: u32) {
        self.end_as(id, code, false);
    }

    /// Ends the container's process, perhaps as the kernel does for want of memory.
    pub(crate) fn end_as(&self, id: ContainerId, code: u32, out_of_memory: bool) {
        for name in self.instances_of(id) {
            self.exit(name, code, out_of_memory, Duration::ZERO);
        }
    }

    /// Loses the container's task, as if its shim was killed: no exit of it is known.
    pub(crate) fn lose(&self, id: ContainerId) {
        self.instances_of(id).for_each(|name| self.lose_task(name));
    }

    /// Reboots the node: containers stay, tasks are gone.
    pub(crate) fn reboot(&self) {
        self.instances()
            .into_iter()
            .for_each(|name| self.lose_task(name));
    }
}
