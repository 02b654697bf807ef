//! Locking that a panic elsewhere does not spoil.

pub use std::sync::Mutex;
use std::sync::{MutexGuard, PoisonError};

/// Locks `mutex`, poisoned or not: what our locks guard is whole after each statement, so a panic
/// while one is held leaves nothing half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
