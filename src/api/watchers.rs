//! Places of those who watch: answers that last until the caller goes away, and so are counted.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::caller::CallerPeer;
use super::error::Problem;

/// Places of one kind of answer: those of callers over the network, and those of callers by the
/// socket, whom nobody on the network keeps out.
#[derive(Clone, Debug)]
pub(super) struct Watchers {
    doing: &'static str,
    network: (Arc<Semaphore>, usize),
    socket: (Arc<Semaphore>, usize),
}

impl Watchers {
    /// Places over the network and by the socket, and nobody on them. `doing` is what requests do
    /// on them.
    pub(super) fn new(doing: &'static str, network: usize, socket: usize) -> Self {
        let [network, socket] =
            [network, socket].map(|count| (Arc::new(Semaphore::new(count)), count));
        Self {
            doing,
            network,
            socket,
        }
    }

    /// A place, given back when it is dropped.
    pub(super) fn take(&self, peer: CallerPeer) -> Result<OwnedSemaphorePermit, Problem> {
        let (places, count) = if peer.is_local() {
            &self.socket
        } else {
            &self.network
        };
        let busy = || {
            Problem::Busy(format!(
                "{count} requests {} already; end one of them",
                self.doing
            ))
        };
        Arc::clone(places).try_acquire_owned().map_err(|_| busy())
    }
}
