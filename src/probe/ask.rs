//! A single probe, asked from where the agent stands: over the network, or by a program in the container.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use state::spec::Probe;

use super::{Asker, ProbeOrder, ProbeResult, exec, http, tcp};
use crate::exec::ExecRoom;

/// Probes of the containers of this node.
#[derive(Debug)]
pub(crate) struct NodeProbes {
    execs: ExecRoom,
}

impl NodeProbes {
    /// Probes whose programs `execs` runs.
    pub(crate) const fn new(execs: ExecRoom) -> Self {
        Self { execs }
    }
}

impl Asker for NodeProbes {
    fn ask(&self, wanted: ProbeOrder) -> BoxFuture<'static, ProbeResult> {
        let execs = self.execs.clone();
        async move { ask(&execs, &wanted).await }.boxed()
    }
}

async fn ask(execs: &ExecRoom, wanted: &ProbeOrder) -> ProbeResult {
    match &wanted.check.probe {
        Probe::Exec { command } => exec::ask(execs, wanted, command).await,
        Probe::Http(_) | Probe::Tcp { .. } => over_network(wanted).await,
    }
}

async fn over_network(wanted: &ProbeOrder) -> ProbeResult {
    let timeout = wanted.check.timeout;
    match &wanted.check.probe {
        Probe::Exec { .. } => None,
        Probe::Http(probe) => http::ask(wanted.address?, probe, timeout).await,
        Probe::Tcp { port } => {
            let asked = tcp::ask((wanted.address?, *port).into());
            let answer = tokio::time::timeout(timeout, asked).await;
            answer.unwrap_or_else(|_| Some(Err(exec::silence(timeout))))
        }
    }
}

/// Probes over the network alone: programs cannot be asked.
#[derive(Debug)]
pub struct NetworkProbes;

impl Asker for NetworkProbes {
    fn ask(&self, wanted: ProbeOrder) -> BoxFuture<'static, ProbeResult> {
        async move { over_network(&wanted).await }.boxed()
    }
}
