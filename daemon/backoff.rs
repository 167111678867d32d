//! Computes the pauses before a failed operation is retried.
//!
//! Guarantees: the pauses double up to a maximum. They are jittered, so that operations which
//! failed together do not retry at the same instant.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);

/// Time of success after which the next failure is followed by the shortest pause.
pub const SETTLED: Duration = Duration::from_secs(10);

/// The pauses of one operation that is retried.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(max: Duration) -> Backoff {
        Backoff { next: FIRST.min(max), max }
    }

    /// Returns the next pause. `chance` is a random number from 0 to 1; the pause is between half
    /// of the current maximum and all of it.
    pub fn pause(&mut self, chance: f64) -> Duration {
        let longest = self.next;
        self.next = (self.next * 2).min(self.max);
        jittered(longest, chance)
    }

    /// Makes the next pause the shortest one again.
    pub fn reset(&mut self) {
        *self = Backoff::new(self.max);
    }
}

/// Returns a duration between half of `longest` (`chance` 0) and all of it (`chance` 1).
pub fn jittered(longest: Duration, chance: f64) -> Duration {
    longest.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_secs(3));
        let pauses: Vec<u128> = (0..5).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 3000, 3000]);
        backoff.reset();
        assert_eq!(backoff.pause(1.0), FIRST);
    }

    #[test]
    fn jitter_keeps_at_least_half() {
        let mut backoff = Backoff::new(Duration::from_secs(3));
        assert_eq!(backoff.pause(0.0), FIRST / 2);
        assert_eq!(backoff.pause(0.5), Duration::from_millis(750));
    }

    #[test]
    fn a_longest_pause_below_the_first_is_honoured() {
        let mut backoff = Backoff::new(Duration::from_millis(100));
        assert_eq!(backoff.pause(1.0), Duration::from_millis(100));
        assert_eq!(backoff.pause(1.0), Duration::from_millis(100));
    }
}
