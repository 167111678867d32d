//! Distinguishes a model that fails occasionally from a broken one.
//!
//! After an occasional failure the worker continues: a GPU may be out of memory for a while, and a
//! 16-bit model may be unable to compute one window. A model that always fails is useless, and a
//! restart may fix it.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::model::ModelError;

/// Minimum number of consecutive failures at which a model counts as broken.
const MOST: u32 = 5;

/// Returns for how long consecutive failures are tolerated. Memory may become available when
/// another process releases it. Any other lasting failure continues until the daemon restarts.
fn longest(why: &str) -> Duration {
    let why = why.to_lowercase();
    let for_memory = ["out of memory", "allocate memory", "bad_alloc", "alloc_failed"];
    Duration::from_secs(if for_memory.iter().any(|words| why.contains(words)) { 60 } else { 5 })
}

/// The failures of a model since it last worked.
#[derive(Debug, Default)]
pub struct Failures {
    in_a_row: u32,
    first: Option<Instant>,
}

impl Failures {
    pub fn worked(&mut self) {
        *self = Failures::default();
    }

    /// Counts a failure. Returns an error if the model now counts as broken.
    pub fn failed(&mut self, now: Instant, why: &dyn Display) -> Result<(), ModelError> {
        self.in_a_row += 1;
        let since = now.saturating_duration_since(*self.first.get_or_insert(now));
        let why = why.to_string();
        if self.in_a_row < MOST || since < longest(&why) {
            return Ok(());
        }
        let (times, seconds) = (self.in_a_row, since.as_secs());
        Err(ModelError(format!("{times} times in a row in {seconds} s, the last time: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of onnxruntime.
    const MEMORY: &str = "Failed to allocate memory for requested buffer of size 4096";
    const DRIVER: &str = "CUDA failure 700: an illegal memory access was encountered";

    /// Returns true if the model counts as broken after failures at these seconds.
    fn broken(failures: &mut Failures, start: Instant, why: &str, seconds: &[u64]) -> bool {
        let mut at = seconds.iter().map(|at| start + Duration::from_secs(*at));
        at.any(|at| failures.failed(at, &why).is_err())
    }

    #[test]
    fn many_failures_over_time_mean_a_broken_model() {
        let start = Instant::now();
        let broken = |why, seconds: &[u64]| broken(&mut Failures::default(), start, why, seconds);
        assert!(broken(DRIVER, &[0, 1, 2, 3, 5]));
        assert!(!broken(DRIVER, &[0, 2, 4, 6]), "too few");
        assert!(!broken(DRIVER, &[0, 0, 1, 1, 2, 2, 3, 3]), "not for long");
        for memory in [MEMORY, "CUDA failure 2: out of memory", "std::bad_alloc"] {
            assert!(!broken(memory, &[0, 10, 20, 30, 40, 50]), "it may come back");
            assert!(broken(memory, &[0, 10, 20, 30, 60]));
        }
        let mut failures = Failures { in_a_row: 6, first: Some(start) };
        let error = failures.failed(start + Duration::from_secs(7), &DRIVER).expect_err("broken");
        assert_eq!(error.to_string(), format!("7 times in a row in 7 s, the last time: {DRIVER}"));
    }

    #[test]
    fn a_success_restarts_the_count() {
        let (start, mut failures) = (Instant::now(), Failures::default());
        assert!(!broken(&mut failures, start, DRIVER, &[0, 5, 6, 7]));
        failures.worked();
        assert!(!broken(&mut failures, start, DRIVER, &[8, 9, 10, 11, 12]));
        assert!(broken(&mut failures, start, DRIVER, &[13]));
    }
}
