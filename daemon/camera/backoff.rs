//! Computes the pauses before a camera is retried. The pauses are jittered, so cameras behind one
//! switch do not all reconnect at the same moment.

use std::time::Duration;

pub use crate::backoff::{Backoff, SETTLED, jittered};

/// Pauses after the first, second and each further refusal of a password. Shorter pauses get users
/// locked out: cameras allow five tries in half an hour. Jitter can halve a pause.
const AFTER_WRONG_PASSWORD: [Duration; 3] =
    [Duration::from_secs(2 * 60), Duration::from_secs(8 * 60), Duration::from_secs(20 * 60)];

/// Returns the pause after `refusals` earlier refusals of a password; `chance` is as in
/// [`jittered`].
pub fn after_wrong_password(refusals: usize, chance: f64) -> Duration {
    jittered(AFTER_WRONG_PASSWORD[refusals.min(AFTER_WRONG_PASSWORD.len() - 1)], chance)
}

/// Pause after a refusal with a lasting reason.
pub const AFTER_REFUSAL: Duration = Duration::from_secs(60);

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
}
