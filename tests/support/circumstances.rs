//! Circumstances of a container runtime in memory: what its calls cost, what of them fails, and who
//! takes notice.

use std::fmt::Debug;
use std::time::Duration;

use state::desired::{Addresses, Record};
use state::id::{ContainerId, InstanceName};
use state::reference::ImageReference;

use crate::runtime::RuntimeError;

/// Call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    EnsureImage,
    Adjust,
    HandOver,
    Signal,
    Launch,
    Stop,
    Remove,
    RemoveLogs,
}

/// Thing that happens in the runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step<'a> {
    /// The agent looks at one container.
    Look,
    Pull(&'a ImageReference),
    Launch(&'a Record),
    Adjust(&'a Record),
    /// The host ports go to the record's instance.
    HandOver(&'a Record),
    /// The agent asks an instance to end, and waits for nothing.
    Signal(InstanceName),
    Stop(InstanceName),
    Remove(InstanceName),
    /// Number of calls under way for one container.
    Calls(ContainerId, usize),
    /// Number of tasks of one container.
    Tasks(ContainerId, usize),
    /// A process was started, beside so many others of its container.
    Runs(InstanceName, usize),
    /// The host ports of a container go to this instance, from another one that runs.
    PortsMove(InstanceName, InstanceName),
    /// The agent ends a process that runs, by this call.
    Ends(InstanceName, Call),
    /// The agent removes the instance that has the host ports, while another one runs.
    Unserves(InstanceName),
    /// The agent has taken a task away.
    Ended(InstanceName),
    /// A process has ended by itself, with this code.
    Exited(InstanceName, u32),
    /// A task is gone, and nobody knows how it ended.
    Lost(InstanceName),
}

/// Thing that a runtime does wrong, for a test to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misdeed {
    /// It gives the host ports to an instance that stands back.
    TakesPorts,
    /// It does not tell of which restart a process is.
    HidesRestart,
}

/// Circumstances in which a runtime works.
pub(crate) trait Circumstances: Debug + Default + Send + Sync + 'static {
    /// First part of a call: takes its time, and may fail.
    fn first_part(&self, call: Call) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Any later part of a call, or a part of a call that only looks.
    fn part(&self) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Time of the next pull.
    fn pull_time(&self) -> Duration;

    /// Time in which the next process ends that was asked to.
    fn ending_time(&self, grace: Duration) -> Duration;

    /// Whether the next image that is pulled is on the node then.
    fn keeps_image(&self) -> bool;

    /// Times after which the next change is told: none of them if nobody is told.
    fn event_delays(&self) -> Vec<Duration>;

    /// Addresses that the network answers for a container that is launched.
    fn addresses(&self, record: &Record) -> Option<Addresses> {
        record.assignment.address.map(Addresses::from)
    }

    /// Whether the runtime does this wrong.
    fn misbehaves(&self, _: Misdeed) -> bool {
        false
    }

    /// Takes notice of a step.
    fn saw(&self, step: Step<'_>);
}
