//! Locks that stay usable after a panic, and a value that a thread can wait for.
//!
//! A lock is poisoned if a thread panics while it holds the lock. The daemon's values are consistent
//! after each of their methods, so a poisoned lock is used like any other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Locks a mutex, poisoned or not.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value behind a lock. Threads can wait until it has changed.
#[derive(Debug, Default)]
pub struct Waiting<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Waiting<T> {
    pub const fn new(value: T) -> Waiting<T> {
        Waiting { value: Mutex::new(value), changed: Condvar::new() }
    }

    /// Locks the value. No waiting thread is woken.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.value)
    }

    /// Changes the value, then wakes one waiting thread.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_one();
        result
    }

    /// Changes the value, then wakes all waiting threads.
    pub fn change_for_all<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until the value is ready, for `timeout` at most. Returns the locked value, ready or
    /// not.
    pub fn wait(
        &self,
        timeout: Duration,
        mut is_ready: impl FnMut(&T) -> bool,
    ) -> MutexGuard<'_, T> {
        let waited =
            self.changed.wait_timeout_while(self.lock(), timeout, |value| !is_ready(value));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn a_waiting_thread_wakes_when_the_value_is_ready() {
        let waiting = Arc::new(Waiting::new(0));
        let thread = thread::spawn({
            let waiting = waiting.clone();
            move || *waiting.wait(Duration::from_secs(60), |value| *value == 2)
        });
        for _ in 0..2 {
            waiting.change(|value| *value += 1);
        }
        assert_eq!(thread.join().expect("no panic"), 2);
        assert_eq!(*waiting.wait(Duration::ZERO, |value| *value == 3), 2, "the time is over");
    }

    #[test]
    fn a_value_is_usable_after_a_panic() {
        let waiting = Arc::new(Waiting::new(1));
        let thread = thread::spawn({
            let waiting = waiting.clone();
            move || waiting.change(|_: &mut i32| panic!("deliberate"))
        });
        assert!(thread.join().is_err());
        assert_eq!(*waiting.lock(), 1);
    }
}
