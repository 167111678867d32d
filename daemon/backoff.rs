//! Pauses before something that failed is tried again. They double, and are jittered, so that what
//! failed together does not come back in the same instant.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);

/// After working for so long, the next failure is followed by the shortest pause.
pub const SETTLED: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub fn new(max: Duration) -> Backoff {
        Backoff { next: FIRST.min(max), max }
    }

    /// `chance` lies in 0..1; the pause is between half and all of what it may be.
    pub fn pause(&mut self, chance: f64) -> Duration {
        let longest = self.next;
        self.next = (self.next * 2).min(self.max);
        jittered(longest, chance)
    }

    pub fn reset(&mut self) {
        *self = Backoff::new(self.max);
    }
}

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
