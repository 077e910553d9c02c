//! Locks within this process, taken even after a panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, even one that a panic left. Every value behind one is whole at all times, so a
/// panic while it was held leaves nothing half changed: the panic is told where it happened, and
/// nobody else has to fail of it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
