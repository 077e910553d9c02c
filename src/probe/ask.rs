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
    let asked = async {
        let address = wanted.address?;
        match &wanted.check.probe {
            Probe::Http(probe) => Some(http::ask(address, probe).await),
            Probe::Tcp { port } => Some(tcp::ask((address, *port).into()).await),
            Probe::Exec { .. } => None,
        }
    };
    let timeout = wanted.check.timeout;
    match &wanted.check.probe {
        Probe::Exec { command } => exec::ask(execs, wanted, command).await,
        Probe::Http(_) | Probe::Tcp { .. } => match tokio::time::timeout(timeout, asked).await {
            Ok(said) => said,
            Err(_) => Some(Err(exec::silence(timeout))),
        },
    }
}
