//! How long to wait before a camera is tried again: doubling, and jittered, so that cameras behind
//! one switch do not all come back in the same instant.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);

/// A camera that was live for so long starts again with the shortest pause.
pub const SETTLED: Duration = Duration::from_secs(10);

/// Asking sooner with a password that was refused gets users locked out: cameras allow five tries in
/// half an hour. The last one stays. As they are jittered, they may be half as long.
const AFTER_WRONG_PASSWORD: [Duration; 3] =
    [Duration::from_secs(2 * 60), Duration::from_secs(8 * 60), Duration::from_secs(20 * 60)];

/// The pause after so many refusals of a password; `chance` as in [`jittered`].
pub fn after_wrong_password(refusals: usize, chance: f64) -> Duration {
    jittered(AFTER_WRONG_PASSWORD[refusals.min(AFTER_WRONG_PASSWORD.len() - 1)], chance)
}

/// What is refused for a lasting reason is asked for rarely.
pub const AFTER_REFUSAL: Duration = Duration::from_secs(60);

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
    fn a_wrong_password_is_tried_five_times_in_half_an_hour_at_most() {
        for chance in [0.0, 0.5, 1.0] {
            let mut times = vec![Duration::ZERO];
            for refusals in 0..10 {
                times.push(times[refusals] + after_wrong_password(refusals, chance));
            }
            let half_hour = Duration::from_secs(30 * 60);
            for first in 0..times.len() - 5 {
                assert!(times[first + 5] - times[first] > half_hour, "{times:?}");
            }
        }
    }

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
