//! Permits by key: a few for each key, so that one that is slow holds up no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Semaphore;

use crate::lock::lock;

/// Keys remembered before those without a holder are cleared away.
const KEYS_MAX: usize = 256;

/// Semaphores by key, each with the same number of permits.
#[derive(Debug)]
pub(crate) struct KeyedPermits {
    each: usize,
    by_key: Mutex<HashMap<String, Weak<Semaphore>>>,
}

impl KeyedPermits {
    /// Permits of which every key has `each`.
    pub(crate) fn new(each: usize) -> Self {
        Self {
            each,
            by_key: Mutex::default(),
        }
    }

    /// Permits of a key. They count as long as somebody holds or awaits one.
    pub(crate) fn of(&self, key: &str) -> Arc<Semaphore> {
        let mut by_key = lock(&self.by_key);
        if let Some(permits) = by_key.get(key).and_then(Weak::upgrade) {
            return permits;
        }
        if by_key.len() >= KEYS_MAX {
            by_key.retain(|_, permits| permits.strong_count() > 0);
        }
        let permits = Arc::new(Semaphore::new(self.each));
        by_key.insert(key.to_owned(), Arc::downgrade(&permits));
        permits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_and_those_that_nobody_holds_are_forgotten() {
        let permits = KeyedPermits::new(1);
        let held = permits.of("held").try_acquire_owned().unwrap();
        assert_eq!(permits.of("held").available_permits(), 0);
        for other in 0..2 * KEYS_MAX {
            assert_eq!(permits.of(&other.to_string()).available_permits(), 1);
        }
        assert!(lock(&permits.by_key).len() <= KEYS_MAX);
        assert_eq!(permits.of("held").available_permits(), 0);
        drop(held);
        assert_eq!(permits.of("held").available_permits(), 1);
    }
}
