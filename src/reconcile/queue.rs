//! The order of turns: never two at once for one container, never late, and the earliest of the times asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use state::id::ContainerId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

#[derive(Debug)]
struct Entry {
    /// The time at which its next turn is due.
    due: Option<Instant>,
    /// No turn of it could begin before this.
    free_since: Instant,
    /// The turn under way.
    busy: Option<Busy>,
}

/// A turn under way.
#[derive(Debug)]
struct Busy {
    /// Tells the turn that it may be about something no longer wanted.
    token: CancellationToken,
    /// The last sign that it advances.
    alive_at: Instant,
    /// The bytes of its pull at that sign.
    bytes: u64,
}

/// The containers that have a turn or wait for one. As large as the number of containers.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
    changed: Notify,
}

impl Queue {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        lock(&self.entries)
    }

    /// Asks for a turn now. During a turn, for another one right after it.
    pub(crate) fn wake(&self, id: ContainerId) {
        self.wake_at(id, Instant::now());
    }

    /// Asks for a turn at `due`; the earliest that was asked for counts.
    pub(crate) fn wake_at(&self, id: ContainerId, due: Instant) {
        let mut entries = self.entries();
        let entry = entries.entry(id).or_insert_with(|| Entry {
            due: None,
            free_since: Instant::now(),
            busy: None,
        });
        entry.due = Some(entry.due.map_or(due, |before| before.min(due)));
        drop(entries);
        self.changed.notify_one();
    }

    /// Tells a turn under way that what it does may no longer be wanted.
    pub(crate) fn interrupt(&self, id: ContainerId) {
        if let Some(busy) = self
            .entries()
            .get(&id)
            .and_then(|entry| entry.busy.as_ref())
        {
            busy.token.cancel();
        }
    }

    /// Tells every turn under way, since the agent is to end.
    pub(crate) fn interrupt_all(&self) {
        self.entries()
            .values()
            .filter_map(|entry| entry.busy.as_ref())
            .for_each(|busy| busy.token.cancel());
    }

    /// Waits for the next turn that is due and begins it. Cancel safe.
    pub(crate) async fn next(&self) -> (ContainerId, CancellationToken) {
        loop {
            let changed = self.changed.notified();
            let earliest = {
                let mut entries = self.entries();
                let waiting = entries.iter_mut().filter(|(_, entry)| entry.busy.is_none());
                let earliest = waiting
                    .filter_map(|(id, entry)| entry.due.map(|due| (due, *id, entry)))
                    .min_by_key(|(due, id, _)| (*due, *id));
                match earliest {
                    Some((due, id, entry)) if due <= Instant::now() => {
                        let token = CancellationToken::new();
                        let busy = Busy {
                            token: token.clone(),
                            alive_at: Instant::now(),
                            bytes: 0,
                        };
                        (entry.due, entry.busy) = (None, Some(busy));
                        return (id, token);
                    }
                    other => other.map(|(due, ..)| due),
                }
            };
            match earliest {
                Some(due) => {
                    tokio::select! { biased; () = changed => {} () = tokio::time::sleep_until(due) => {} }
                }
                None => changed.await,
            }
        }
    }

    /// Notes that a turn advances.
    pub(super) fn advanced(&self, id: ContainerId) {
        if let Some(busy) = self.entries().get_mut(&id).and_then(|e| e.busy.as_mut()) {
            busy.alive_at = Instant::now();
        }
    }

    /// Notes how many bytes the pull of a turn has by now: another number is a sign that the turn advances.
    pub(super) fn advanced_to(&self, id: ContainerId, bytes: u64) {
        if let Some(busy) = self.entries().get_mut(&id).and_then(|e| e.busy.as_mut())
            && busy.bytes != bytes
        {
            (busy.alive_at, busy.bytes) = (Instant::now(), bytes);
        }
    }

    /// The containers that have a turn.
    pub(super) fn busy(&self) -> Vec<ContainerId> {
        let entries = self.entries();
        let busy = entries.iter().filter(|(_, entry)| entry.busy.is_some());
        busy.map(|(id, _)| *id).collect()
    }

    /// The longest time for which a due turn could have begun and did not; and the longest silence of a turn.
    pub(super) fn ages(&self) -> (Duration, Duration) {
        let (mut overdue, mut silent) = (Duration::ZERO, Duration::ZERO);
        for entry in self.entries().values() {
            match (&entry.busy, entry.due) {
                (Some(busy), _) => silent = silent.max(busy.alive_at.elapsed()),
                (None, Some(due)) => overdue = overdue.max(due.max(entry.free_since).elapsed()),
                (None, None) => {}
            }
        }
        (overdue, silent)
    }

    /// The number of containers that have a turn or wait for one.
    pub(crate) fn len(&self) -> usize {
        self.entries().len()
    }

    /// Ends a turn.
    pub(crate) fn done(&self, id: ContainerId) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&id) {
            (entry.busy, entry.free_since) = (None, Instant::now());
            if entry.due.is_none() {
                entries.remove(&id);
            }
        }
        drop(entries);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bits: u64) -> ContainerId {
        ContainerId::from_bits(bits)
    }

    async fn nobody(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next())
            .await
            .is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_never_has_two_turns_at_once_and_loses_no_wake() {
        let queue = Queue::default();
        queue.wake(id(1));
        queue.wake(id(1));
        assert_eq!(queue.next().await.0, id(1));
        queue.wake(id(1));
        assert!(nobody(&queue).await);
        queue.done(id(1));
        assert_eq!(queue.next().await.0, id(1));
        queue.done(id(1));
        assert!(nobody(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wake_counts() {
        let (queue, start) = (Queue::default(), Instant::now());
        queue.wake_at(id(1), start + Duration::from_secs(9));
        queue.wake_at(id(1), start + Duration::from_secs(5));
        queue.wake_at(id(1), start + Duration::from_secs(7));
        queue.next().await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_can_be_told_that_it_is_no_longer_wanted() {
        let queue = Queue::default();
        queue.wake(id(1));
        let (_, token) = queue.next().await;
        queue.interrupt(id(2));
        assert!(!token.is_cancelled());
        queue.interrupt(id(1));
        assert!(token.is_cancelled());
    }
}
