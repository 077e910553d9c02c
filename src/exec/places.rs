//! Places of programs: so many in one container, so many on the node, and a line in front of them
//! that has an end.

use std::sync::Arc;
use std::time::Duration;

use state::id::ContainerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ExecRefusal;
use crate::permits::KeyedPermits;

/// Programs at once in one container: the shims of containerd 1.6 stall from some twenty on.
const OF_CONTAINER: usize = 8;
/// Programs at once on the node, in all of its containers.
const OF_NODE: usize = 64;
/// Places of one container and of the node that only root on the socket takes, when the others are
/// taken.
const OF_CONTAINER_LOCAL: usize = 2;
const OF_NODE_LOCAL: usize = 16;
/// Places of probes, which take nobody's: of a container one.
const OF_NODE_PROBES: usize = 16;
/// Calls that wait for a place.
const WAITING_MAX: usize = 256;
/// Time that one waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Places of all programs.
#[derive(Debug)]
pub(super) struct ExecPlaces {
    common: Line,
    local: Line,
    probes: Line,
    waiting: Semaphore,
}

impl Default for ExecPlaces {
    fn default() -> Self {
        Self {
            common: Line::new(OF_CONTAINER, OF_NODE),
            local: Line::new(OF_CONTAINER_LOCAL, OF_NODE_LOCAL),
            probes: Line::new(1, OF_NODE_PROBES),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }
}

/// Place of one program; given back when it is dropped.
#[derive(Debug)]
pub(super) struct ExecPlace {
    _of_container: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

impl ExecPlaces {
    /// Waits for a place in a container.
    pub(super) async fn take(
        &self,
        id: ContainerId,
        is_local: bool,
    ) -> Result<ExecPlace, ExecRefusal> {
        let key = id.to_string();
        if let Some(place) = self.common.try_take(&key) {
            return Ok(place);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(ExecRefusal::Busy(format!(
                "{WAITING_MAX} calls wait for a place already; come again later"
            )));
        };
        let line = if is_local { &self.local } else { &self.common };
        let taken = tokio::time::timeout(WAIT_MAX, line.take(&key)).await;
        taken.map_err(|_| {
            ExecRefusal::Busy(format!(
                "{OF_CONTAINER} programs in this container, or {OF_NODE} on the node, run already, \
                 and none ended within {} s; end one of them",
                WAIT_MAX.as_secs()
            ))
        })
    }

    /// Waits for the place of a container's probe: until nothing of the one before is left.
    pub(super) async fn take_for_probe(&self, id: ContainerId) -> ExecPlace {
        self.probes.take(&id.to_string()).await
    }
}

#[derive(Debug)]
struct Line {
    by_container: KeyedPermits,
    of_node: Arc<Semaphore>,
}

impl Line {
    fn new(of_container: usize, of_node: usize) -> Self {
        Self {
            by_container: KeyedPermits::new(of_container),
            of_node: Arc::new(Semaphore::new(of_node)),
        }
    }

    fn try_take(&self, key: &str) -> Option<ExecPlace> {
        let of_container = self.by_container.of(key).try_acquire_owned().ok()?;
        let of_node = Arc::clone(&self.of_node).try_acquire_owned().ok()?;
        Some(ExecPlace {
            _of_container: of_container,
            _of_node: of_node,
        })
    }

    /// The container's first: whoever waits for a busy one keeps no other from the node's.
    async fn take(&self, key: &str) -> ExecPlace {
        let closed = "nobody closes the semaphore";
        let of_container = self.by_container.of(key).acquire_owned();
        let of_container = of_container.await.expect(closed);
        let of_node = Arc::clone(&self.of_node).acquire_owned();
        ExecPlace {
            _of_container: of_container,
            _of_node: of_node.await.expect(closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    async fn taken(places: &ExecPlaces, id: u64, count: usize, is_local: bool) -> Vec<ExecPlace> {
        let mut taken = Vec::new();
        for _ in 0..count {
            let id = ContainerId::from_bits(id);
            taken.push(places.take(id, is_local).await.unwrap());
        }
        taken
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_has_its_places_and_whoever_waits_too_long_is_told() {
        let places = ExecPlaces::default();
        let of_one = taken(&places, 1, OF_CONTAINER, false).await;
        let id = ContainerId::from_bits(1);
        let refused = places.take(id, false).await;
        assert!(matches!(refused, Err(ExecRefusal::Busy(_))), "{refused:?}");
        let of_root = taken(&places, 1, OF_CONTAINER_LOCAL, true).await;
        assert!(places.take(id, true).await.is_err());
        let of_other = taken(&places, 2, 1, false).await;
        drop((of_one, of_root, of_other));
        taken(&places, 1, OF_CONTAINER, false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_comes_next_and_the_line_has_an_end() {
        let places = Arc::new(ExecPlaces::default());
        let id = ContainerId::from_bits(1);
        let mut all = taken(&places, 1, OF_CONTAINER, false).await;
        let (mut waiting, calls) = (Vec::new(), TaskTracker::new());
        for _ in 0..WAITING_MAX {
            let places = Arc::clone(&places);
            waiting.push(calls.spawn(async move { places.take(id, false).await.is_ok() }));
        }
        while places.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = places.take(id, false).await;
        let Err(ExecRefusal::Busy(told)) = &refused else {
            panic!("{refused:?}")
        };
        assert!(told.contains("256 calls wait"), "{told}");
        all.pop();
        assert!(waiting.remove(0).await.unwrap());
        for call in waiting {
            call.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_has_its_places_and_root_on_the_socket_its_own() {
        let places = ExecPlaces::default();
        let mut all = Vec::new();
        for id in 0..OF_NODE as u64 {
            all.extend(taken(&places, id, 1, false).await);
        }
        let next = ContainerId::from_bits(1000);
        assert!(places.take(next, false).await.is_err());
        all.extend(taken(&places, 1000, 2, true).await);
    }
}
