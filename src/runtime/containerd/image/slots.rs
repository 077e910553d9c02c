//! Slots of pulls: a few for each registry, so that a slow one delays only its own images; and a
//! bound on those that move at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::permits::KeyedPermits;
use crate::registry::RegistryConfig;
use crate::runtime::PullProgress;

/// Bytes a second below which a pull does not move: three of them would not fill any line.
pub(super) const MOVING_BYTES_PER_S: u64 = 8 << 10;

/// Slots of all pulls of the node.
#[derive(Debug)]
pub(crate) struct PullSlots {
    moving: Arc<Semaphore>,
    registries: KeyedPermits,
    each: usize,
    all: usize,
    idle_after: Duration,
}

/// Slot of one pull.
#[derive(Debug)]
pub(crate) struct PullSlot {
    _of_registry: OwnedSemaphorePermit,
    /// `None`: the pull does not move, and its place among those that do is another's.
    moving: Option<OwnedSemaphorePermit>,
    moving_all: Arc<Semaphore>,
    idle_after: Duration,
}

impl PullSlots {
    /// Slots as they are configured, all of them free.
    pub(crate) fn new(config: &RegistryConfig) -> Self {
        let (all, each) = (config.pulls_max.max(1), config.pulls_per_registry.max(1));
        Self {
            moving: Arc::new(Semaphore::new(all)),
            registries: KeyedPermits::new(each),
            each,
            all,
            idle_after: config.idle_after,
        }
    }

    /// Waits for a slot, and tells people for which.
    pub(crate) async fn acquire(&self, registry: &str, progress: &PullProgress) -> PullSlot {
        let of_registry = self.registries.of(registry);
        let of_registry = if let Ok(permit) = Arc::clone(&of_registry).try_acquire_owned() {
            permit
        } else {
            let _note = progress.note(format!(
                "waits for a pull slot of registry {registry}: {} pulls from it are under way (registry.pulls_per_registry)",
                self.each
            ));
            progress.while_waiting(permit(of_registry)).await
        };
        let moving = if let Ok(permit) = Arc::clone(&self.moving).try_acquire_owned() {
            permit
        } else {
            let _note = progress.note(format!(
                "waits for a pull slot of the node: {} pulls are under way (registry.pulls_max)",
                self.all
            ));
            progress
                .while_waiting(permit(Arc::clone(&self.moving)))
                .await
        };
        PullSlot {
            _of_registry: of_registry,
            moving: Some(moving),
            moving_all: Arc::clone(&self.moving),
            idle_after: self.idle_after,
        }
    }
}

impl PullSlot {
    /// Awaits the pull that the slot is for. While it does not move, its place among those that do is
    /// free for others; when it moves again, it takes one if there is one, and goes on in any case:
    /// the slots of its registry bound how many may do so.
    pub(crate) async fn during<T>(
        mut self,
        progress: &PullProgress,
        pull: impl Future<Output = T> + Send,
    ) -> T {
        let mut pull = std::pin::pin!(pull);
        let mut received = progress.received_bytes();
        let least = MOVING_BYTES_PER_S.saturating_mul(self.idle_after.as_secs().max(1));
        let mut next = Instant::now() + self.idle_after;
        loop {
            tokio::select! {
                biased;
                done = &mut pull => return done,
                () = sleep_until(next) => {}
            }
            next += self.idle_after;
            let before = std::mem::replace(&mut received, progress.received_bytes());
            let moves = progress.is_at_work() || received.saturating_sub(before) >= least;
            match (moves, self.moving.is_some()) {
                (false, true) => self.moving = None,
                (true, false) => {
                    self.moving = Arc::clone(&self.moving_all).try_acquire_owned().ok();
                }
                (true, true) | (false, false) => {}
            }
        }
    }
}

async fn permit(slots: Arc<Semaphore>) -> OwnedSemaphorePermit {
    slots
        .acquire_owned()
        .await
        .expect("the slots are never closed")
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn slots(each: usize, all: usize) -> PullSlots {
        PullSlots::new(&RegistryConfig {
            pulls_per_registry: each,
            pulls_max: all,
            ..RegistryConfig::default()
        })
    }

    /// Whether a slot is free at once, and what is told if not.
    async fn free(slots: &PullSlots, registry: &str) -> Result<PullSlot, String> {
        let progress = PullProgress::default();
        let mut slot = std::pin::pin!(slots.acquire(registry, &progress));
        let acquired = tokio::time::timeout(Duration::ZERO, &mut slot).await;
        acquired.map_err(|_| progress.noted().unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_has_its_own_slots_and_a_wait_is_told() {
        let slots = slots(2, 3);
        let first = free(&slots, "a").await.unwrap();
        let _second = free(&slots, "a").await.unwrap();
        let told = free(&slots, "a").await.unwrap_err();
        assert!(
            told.contains("registry a") && told.contains("pulls_per_registry"),
            "{told}"
        );
        let _third = free(&slots, "b").await.unwrap();
        let told = free(&slots, "b").await.unwrap_err();
        assert!(told.contains("pulls_max"), "{told}");
        drop(first);
        free(&slots, "a").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn pulls_that_hang_or_drip_hold_no_slot_of_others() {
        let slots = Arc::new(slots(3, 4));
        let mut pulls = tokio::task::JoinSet::new();
        let mut start = |registry: String, drips: bool, works: bool| {
            let slots = Arc::clone(&slots);
            pulls.spawn(async move {
                let progress = PullProgress::default();
                let slot = slots.acquire(&registry, &progress).await;
                let hangs = async {
                    if works {
                        progress.while_working(pending::<()>()).await;
                    }
                    loop {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        progress.add_received(u64::from(drips));
                    }
                };
                slot.during(&progress, hangs).await
            })
        };
        start("works".to_owned(), false, true);
        for n in 0..30 {
            start(format!("hangs{}", n / 3), n % 2 == 0, false);
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(free(&slots, "healthy").await.unwrap());
        }
        let told = free(&slots, "other").await.unwrap_err();
        assert!(
            told.contains("pulls_max"),
            "the one that unpacks counts: {told}"
        );
    }
}
