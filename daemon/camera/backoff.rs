//! Pauses before a camera is tried again. Cameras behind one switch do not all come back in the same
//! instant.

use std::time::Duration;

pub use crate::backoff::{Backoff, SETTLED, jittered};

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
