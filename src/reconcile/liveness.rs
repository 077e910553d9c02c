//! Whether the reconciler makes progress: due turns begin, turns take steps, and everything is looked at again and again.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::Handle;
use crate::lock::lock;

/// A due turn begins within this. Nothing but a lock is between, so a minute is for a machine that swaps.
const BEGIN_MAX: Duration = Duration::from_mins(1);
/// A turn takes a step, or a pull receives something, within this. The longest legal silence is a stop, which may take an
/// hour of grace; or the unpacking of an image, half an hour a layer at most.
const TURN_SILENCE_MAX: Duration = Duration::from_hours(4);
/// A resync ends within this. A sweep may remove hundreds of leftovers, half a minute each.
const RESYNC_MAX: Duration = Duration::from_hours(1);

/// The last resync, as long as the reconciler runs.
#[derive(Debug, Default)]
pub(super) struct Liveness(Mutex<Option<Resynced>>);

#[derive(Debug)]
struct Resynced {
    at: Instant,
    /// The next one begins after this.
    pause: Duration,
}

impl Liveness {
    /// Notes that a resync begins after this pause.
    pub(super) fn resync_in(&self, pause: Duration) {
        let at = Instant::now();
        *lock(&self.0) = Some(Resynced { at, pause });
    }

    fn is_running(&self) -> bool {
        lock(&self.0).is_some()
    }

    fn resync_is_late(&self) -> bool {
        let last = lock(&self.0);
        last.as_ref()
            .is_some_and(|last| last.at.elapsed() > last.pause.saturating_add(RESYNC_MAX))
    }
}

impl Handle {
    /// The part of the reconciler that is stuck, if one is. Before it runs, none is: it waits for the network.
    ///
    /// To be asked now and then: a pull counts as alive if it received something, unpacked a layer or
    /// waited for another one since the last time.
    #[must_use]
    pub fn stalled(&self) -> Option<&'static str> {
        if !self.liveness.is_running() {
            return None;
        }
        for id in self.queue.busy() {
            if let Some(progress) = self.board.known(id).pull {
                self.queue.advanced_to(id, progress.signs());
            }
        }
        let (overdue, silent) = self.queue.ages();
        if overdue > BEGIN_MAX {
            Some("a due turn does not begin")
        } else if silent > TURN_SILENCE_MAX {
            Some("a turn takes no step")
        } else if self.liveness.resync_is_late() {
            Some("a resync does not end")
        } else {
            None
        }
    }
}

impl Handle {
    /// Number of containers that have a turn or wait for one, longest time for which a turn could have begun and did not,
    /// and for which one took no step. While no turn can begin, since the network is not ready, nothing is overdue.
    pub(crate) fn backlog(&self) -> (usize, Duration, Duration) {
        let (overdue, silent) = match self.liveness.is_running() {
            true => self.queue.ages(),
            false => (Duration::ZERO, Duration::ZERO),
        };
        (self.queue.len(), overdue, silent)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use state::id::ContainerId;

    use super::*;
    use crate::reconcile::{Board, Clock, Fact};
    use crate::runtime::PullProgress;

    const ID: ContainerId = ContainerId::from_bits(1);

    /// The handle of a reconciler that runs and has just looked at everything.
    fn handle() -> Handle {
        let clock = Clock::at(Duration::ZERO, 0);
        let handle = Handle {
            queue: Arc::default(),
            board: Arc::new(Board::new(clock)),
            liveness: Arc::default(),
        };
        handle.liveness.resync_in(Duration::from_hours(24));
        handle
    }

    #[tokio::test(start_paused = true)]
    async fn a_due_turn_that_nobody_begins_is_a_stall_once_the_reconciler_runs() {
        let handle = handle();
        *lock(&handle.liveness.0) = None;
        handle.wake(ID);
        tokio::time::sleep(BEGIN_MAX * 2).await;
        assert_eq!(handle.stalled(), None);
        handle.liveness.resync_in(Duration::from_hours(24));
        assert_eq!(handle.stalled(), Some("a due turn does not begin"));
        handle.queue.next().await;
        assert_eq!(handle.stalled(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_during_a_long_turn_is_due_from_its_end() {
        let handle = handle();
        handle.wake(ID);
        handle.queue.next().await;
        handle.wake(ID);
        tokio::time::sleep(TURN_SILENCE_MAX / 2).await;
        handle.queue.done(ID);
        assert_eq!(handle.stalled(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_alive_while_it_takes_steps_or_its_pull_receives_something() {
        let handle = handle();
        let progress = Arc::new(PullProgress::default());
        handle.wake(ID);
        handle.queue.next().await;
        handle.board.update(ID, |_| ());
        let fact = Fact::PullProgress(Some(Arc::clone(&progress)));
        handle.board.record_fact(ID, fact);
        for _ in 0..2 {
            tokio::time::sleep(TURN_SILENCE_MAX).await;
            progress.add_received(1);
            assert_eq!(handle.stalled(), None);
        }
        let another = tokio::time::sleep(TURN_SILENCE_MAX + BEGIN_MAX);
        progress.while_waiting(another).await;
        assert_eq!(handle.stalled(), None, "another pull comes first");
        tokio::time::sleep(TURN_SILENCE_MAX).await;
        handle.queue.advanced(ID);
        assert_eq!(handle.stalled(), None);
        tokio::time::sleep(TURN_SILENCE_MAX + Duration::from_secs(1)).await;
        assert_eq!(handle.stalled(), Some("a turn takes no step"));
        handle.queue.done(ID);
        assert_eq!(handle.stalled(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_resync_may_take_an_hour_and_no_longer() {
        let handle = handle();
        handle.liveness.resync_in(Duration::from_secs(30));
        tokio::time::sleep(RESYNC_MAX + Duration::from_secs(30)).await;
        assert_eq!(handle.stalled(), None);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(handle.stalled(), Some("a resync does not end"));
    }
}
