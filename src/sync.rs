//! The locks of the program. Loom's locks take their place in the model checks.

use std::sync::PoisonError;
pub use std::sync::{Condvar, Mutex, MutexGuard, atomic};
use std::time::Duration;

/// Locks `mutex`, poisoned or not. The data that our locks guard are whole after each statement, so a panic
/// leaves nothing half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification, for `time` at most. It may return without one.
pub fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, time).unwrap_or_else(PoisonError::into_inner).0
}
