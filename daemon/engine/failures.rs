//! When failures of a model that follow each other mean that it is broken.
//!
//! One that fails now and then goes on: a GPU may be out of memory for a while, and one window may
//! hold what a model of 16 bits cannot compute. One that only fails is of no use to anybody, and a
//! start anew may mend it.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::model::ModelError;
use crate::telemetry::FailureKind;

/// So many failures, without a success between, are too many if they go on for long enough.
const MOST: u32 = 5;

/// How long failures may go on. A run may fail for want of memory that others have taken; numbers
/// depend on nobody else.
fn longest(kind: FailureKind) -> Duration {
    match kind {
        FailureKind::Run => Duration::from_secs(60),
        FailureKind::NotFinite => Duration::from_secs(5),
    }
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

    /// Counts a failure; an error when it is one too many.
    pub fn failed(
        &mut self,
        now: Instant,
        kind: FailureKind,
        why: &dyn Display,
    ) -> Result<(), ModelError> {
        self.in_a_row += 1;
        let since = now.saturating_duration_since(*self.first.get_or_insert(now));
        if self.in_a_row < MOST || since < longest(kind) {
            return Ok(());
        }
        let (times, seconds) = (self.in_a_row, since.as_secs());
        Err(ModelError(format!("{times} times in a row in {seconds} s, the last time: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the model counts as broken after failures at these seconds.
    fn broken(failures: &mut Failures, start: Instant, kind: FailureKind, seconds: &[u64]) -> bool {
        let mut at = seconds.iter().map(|at| start + Duration::from_secs(*at));
        at.any(|at| failures.failed(at, kind, &"out of memory").is_err())
    }

    #[test]
    fn many_failures_for_long_are_a_broken_model() {
        let start = Instant::now();
        let broken = |kind, seconds: &[u64]| broken(&mut Failures::default(), start, kind, seconds);
        assert!(broken(FailureKind::NotFinite, &[0, 1, 2, 3, 5]));
        assert!(!broken(FailureKind::NotFinite, &[0, 2, 4, 6]), "too few");
        assert!(!broken(FailureKind::NotFinite, &[0, 0, 1, 1, 2, 2, 3, 3]), "not for long");
        assert!(!broken(FailureKind::Run, &[0, 10, 20, 30, 40, 50]), "memory may come back");
        assert!(broken(FailureKind::Run, &[0, 10, 20, 30, 60]));
        let mut failures = Failures { in_a_row: 6, first: Some(start) };
        let later = start + Duration::from_secs(61);
        let error = failures.failed(later, FailureKind::Run, &"out of memory");
        let said = "7 times in a row in 61 s, the last time: out of memory";
        assert_eq!(error.expect_err("broken").to_string(), said);
    }

    #[test]
    fn a_success_between_begins_the_count_anew() {
        let (start, mut failures) = (Instant::now(), Failures::default());
        let kind = FailureKind::NotFinite;
        assert!(!broken(&mut failures, start, kind, &[0, 5, 6, 7]));
        failures.worked();
        assert!(!broken(&mut failures, start, kind, &[8, 9, 10, 11, 12]));
        assert!(broken(&mut failures, start, kind, &[13]));
    }
}
