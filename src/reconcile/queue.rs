//! When a container has its turn: never two at once, never late, and the earliest of what was asked for.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use state::id::ContainerId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

#[derive(Debug)]
struct Entry {
    /// When its next turn is due.
    due: Option<Instant>,
    /// It has its turn now; the token tells that turn that it may be about something no longer wanted.
    busy: Option<CancellationToken>,
}

/// Who has a turn, and who is waiting for one. As large as the number of containers.
#[derive(Debug, Default)]
pub struct Queue {
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
    changed: Notify,
}

impl Queue {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        lock(&self.entries)
    }

    /// Asks for a turn now. During a turn, for another one right after it.
    pub fn wake(&self, id: ContainerId) {
        self.wake_at(id, Instant::now());
    }

    /// Asks for a turn at `due`; the earliest that was asked for counts.
    pub fn wake_at(&self, id: ContainerId, due: Instant) {
        let mut entries = self.entries();
        let entry = entries.entry(id).or_insert(Entry {
            due: None,
            busy: None,
        });
        entry.due = Some(entry.due.map_or(due, |before| before.min(due)));
        drop(entries);
        self.changed.notify_one();
    }

    /// Tells a turn under way that what it does may no longer be wanted.
    pub fn interrupt(&self, id: ContainerId) {
        if let Some(busy) = self
            .entries()
            .get(&id)
            .and_then(|entry| entry.busy.as_ref())
        {
            busy.cancel();
        }
    }

    /// Tells every turn under way, since the agent is to end.
    pub fn interrupt_all(&self) {
        self.entries()
            .values()
            .filter_map(|entry| entry.busy.as_ref())
            .for_each(CancellationToken::cancel);
    }

    /// Waits for the next turn that is due and begins it. Cancel safe.
    pub async fn next(&self) -> (ContainerId, CancellationToken) {
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
                        (entry.due, entry.busy) = (None, Some(token.clone()));
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

    /// How many have a turn or wait for one.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Nobody has or wants a turn.
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// Ends a turn.
    pub fn done(&self, id: ContainerId) {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&id) {
            entry.busy = None;
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
    use std::time::Duration;

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
