//! Work that several pulls want, done by one of them at a time; the others find it done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Mutex as Turnstile, OwnedMutexGuard};

use crate::lock::lock;
use crate::runtime::PullProgress;

/// Entries of ended work are cleared away when there are this many; those under way remain.
const ENTRIES_MAX: usize = 256;

/// Work under way, by key. Its number is bounded by pulls and layers at once.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<String, Weak<Turnstile<()>>>>,
}

impl Flights {
    /// Waits until no other pull works at `key`. The second to enter looks first whether anything
    /// is left to do. A wait is a sign of life, and `note` tells people of it.
    pub(crate) async fn turn(
        &self,
        key: &str,
        progress: &PullProgress,
        note: impl FnOnce() -> String + Send,
    ) -> OwnedMutexGuard<()> {
        let turnstile = self.turnstile(key);
        if let Ok(turn) = Arc::clone(&turnstile).try_lock_owned() {
            return turn;
        }
        let _note = progress.note(note());
        progress.while_waiting(turnstile.lock_owned()).await
    }

    /// Enters only if no pull works at `key`.
    pub(crate) fn try_enter(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        self.turnstile(key).try_lock_owned().ok()
    }

    fn turnstile(&self, key: &str) -> Arc<Turnstile<()>> {
        let mut under_way = lock(&self.under_way);
        if let Some(turnstile) = under_way.get(key).and_then(Weak::upgrade) {
            return turnstile;
        }
        if under_way.len() >= ENTRIES_MAX {
            under_way.retain(|_, entry| entry.strong_count() > 0);
        }
        let turnstile = Arc::new(Turnstile::new(()));
        under_way.insert(key.to_owned(), Arc::downgrade(&turnstile));
        turnstile
    }
}

/// Whether another pull waits for this turn.
pub(crate) fn is_awaited(turn: &OwnedMutexGuard<()>) -> bool {
    // This guard has one, and each that waits has another.
    Arc::strong_count(OwnedMutexGuard::mutex(turn)) > 1
}

/// Key of the pull of an image.
pub(crate) fn image_key(name: &str) -> String {
    format!("image {name}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn enter(flights: &Flights, key: &str) -> OwnedMutexGuard<()> {
        flights
            .turn(key, &PullProgress::default(), String::new)
            .await
    }

    #[tokio::test]
    async fn one_at_a_time_for_a_key_and_no_trace_of_what_is_over() {
        let flights = Flights::default();
        let first = enter(&flights, "a").await;
        assert!(flights.try_enter("a").is_none());
        let _other = enter(&flights, "b").await;
        let progress = PullProgress::default();
        let next = flights.turn("a", &progress, || "waits for a".to_owned());
        let mut next = std::pin::pin!(next);
        assert!(
            tokio::time::timeout(Duration::ZERO, &mut next)
                .await
                .is_err()
        );
        assert_eq!(progress.noted().as_deref(), Some("waits for a"));
        assert!(is_awaited(&first));
        drop(first);
        let next = next.await;
        assert!(!is_awaited(&next) && progress.noted().is_none());
        drop(next);
        assert!(flights.try_enter("a").is_some());
        for n in 0..10 * ENTRIES_MAX {
            drop(enter(&flights, &n.to_string()).await);
        }
        assert!(flights.under_way.lock().unwrap().len() <= ENTRIES_MAX);
        assert!(flights.try_enter("b").is_none());
    }
}
