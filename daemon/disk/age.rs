//! Computes the ages of frames on disk such that a wrong clock does not distort them. Pure rules.
//!
//! The age of this run's frames follows from the monotonic clock. The age of an earlier run's
//! frames is at least the time recorded since. Only the wall clock shows for how long the daemon
//! was not running. It counts once it has kept step with the monotonic clock for 15 minutes, and
//! never if it claims an age of more than a year beyond what was recorded.
//!
//! Guarantees: a start in 2099, a frame of 2099 or a clock that is set makes no frame older than it
//! is. With a correct clock, only the first 15 minutes of a run lack the wall clock's contribution.

use std::time::{Duration, SystemTime};

use super::Record;

/// Time for which the wall clock must keep step with the monotonic one.
const CONFIRMED: Duration = Duration::from_secs(15 * 60);

/// Difference above which a clock was set, not merely corrected.
const STEP: Duration = Duration::from_secs(5);

/// Maximum age that the wall clock may claim beyond what was recorded. A larger claim comes from a
/// wrong clock.
const CLAIM_MOST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The times at which a segment's frames were taken, according to their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub run: u64,
    /// Monotonic times of its run, from the first frame to the last.
    pub first: Duration,
    pub last: Duration,
    /// Latest UTC of any frame.
    pub newest: SystemTime,
}

impl Times {
    pub fn with(earlier: Option<Times>, record: &Record) -> Times {
        let (at, newest) = (record.monotonic, record.captured_at);
        let Some(times) = earlier else {
            return Times { run: record.id.run, first: at, last: at, newest };
        };
        Times {
            run: times.run.max(record.id.run),
            first: times.first.min(at),
            last: times.last.max(at),
            newest: times.newest.max(newest),
        }
    }

    fn length(&self) -> Duration {
        self.last.saturating_sub(self.first)
    }
}

/// A moment on both clocks: the time since the start of this run, and UTC.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub uptime: Duration,
    pub wall: SystemTime,
}

/// Checks that the wall clock keeps step with the monotonic one.
#[derive(Debug, Default)]
pub struct WallClock {
    since: Option<Now>,
}

impl WallClock {
    /// Returns true if the wall clock has kept step for long enough to be trusted.
    pub fn is_confirmed(&mut self, now: Now) -> bool {
        let since = *self.since.get_or_insert(now);
        let passed = now.uptime.saturating_sub(since.uptime);
        let wanted = since.wall.checked_add(passed).unwrap_or(since.wall);
        let apart = match now.wall.duration_since(wanted) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        };
        if apart > STEP {
            self.since = Some(now);
            return false;
        }
        passed >= CONFIRMED
    }
}

/// Returns the age of each segment's oldest frame at the start of this run. The oldest segment
/// comes first. `began` is the start of this run, once it is known. A segment with unknown times
/// (`None`) is as old as the next one.
pub fn at_start(segments: &[Option<Times>], began: Option<SystemTime>) -> Vec<Duration> {
    let mut ages = recorded_since(segments);
    if let Some(began) = began {
        for (age, claim) in ages.iter_mut().zip(claims(segments, began)) {
            if claim.saturating_sub(*age) <= CLAIM_MOST {
                *age = claim.max(*age);
            }
        }
    }
    let mut least = Duration::ZERO;
    for age in ages.iter_mut().rev() {
        least = least.max(*age);
        *age = least;
    }
    ages
}

/// Returns the recorded time since the first frame of each segment: a lower bound of its age.
fn recorded_since(segments: &[Option<Times>]) -> Vec<Duration> {
    let mut ages = vec![Duration::ZERO; segments.len()];
    // `later`: the recorded time of all runs after the current one. `at_hand`: the current run and
    // its end.
    let (mut later, mut at_hand) = (Duration::ZERO, None::<(u64, Duration)>);
    for (age, times) in ages.iter_mut().zip(segments).rev() {
        let Some(times) = times else { continue };
        let end = match at_hand {
            Some((run, end)) if run == times.run => end.max(times.last),
            Some((_, end)) => {
                later = later.saturating_add(end);
                times.last
            }
            None => times.last,
        };
        at_hand = Some((times.run, end));
        *age = later.saturating_add(end.saturating_sub(times.first));
    }
    ages
}

/// Returns the age of each segment by the wall clock. Where clocks contradict each other, the one
/// that is ahead counts as right, because it gives the younger age.
fn claims(segments: &[Option<Times>], began: SystemTime) -> Vec<Duration> {
    let mut reached = SystemTime::UNIX_EPOCH;
    let mut claim = |times: &Option<Times>| {
        let Some(times) = times else { return Duration::ZERO };
        let first = times.newest.checked_sub(times.length()).unwrap_or(SystemTime::UNIX_EPOCH);
        let first = first.max(reached);
        reached = first.checked_add(times.length()).unwrap_or(first).max(times.newest);
        began.duration_since(first).unwrap_or_default()
    };
    segments.iter().map(&mut claim).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR: u64 = 365 * 24 * 3600;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn at(n: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + seconds(n)
    }

    /// An earlier run: for how long the daemon was off before it, the number of segments it wrote,
    /// their length in seconds, and how far its clock was ahead.
    #[derive(Clone, Debug)]
    struct Run {
        off: u64,
        segments: u64,
        length: u64,
        ahead: i64,
    }

    /// Returns the segments, the true age of each, and the true start of this run.
    fn history(runs: &[Run], off: u64) -> (Vec<Option<Times>>, Vec<u64>, u64) {
        let mut now = 50 * YEAR;
        let (mut segments, mut taken) = (Vec::new(), Vec::new());
        for (run, Run { off, segments: count, length, ahead }) in (1..).zip(runs) {
            now += off;
            for n in 0..*count {
                let (first, last) = (n * length, (n + 1) * length);
                let newest = at((now + last).saturating_add_signed(*ahead));
                let times = Times { run, first: seconds(first), last: seconds(last), newest };
                segments.push(Some(times));
                taken.push(now + first);
            }
            now += count * length;
        }
        let began = now + off;
        (segments, taken.into_iter().map(|taken| began - taken).collect(), began)
    }

    fn runs(ahead: impl Strategy<Value = i64> + Clone + 'static) -> BoxedStrategy<Vec<Run>> {
        let run = (0u64..200_000, 0u64..6, 1u64..20_000, ahead)
            .prop_map(|(off, segments, length, ahead)| Run { off, segments, length, ahead });
        prop::collection::vec(run, 0..8).boxed()
    }

    proptest! {
        /// Holds for any clocks of all runs.
        #[test]
        fn ages_are_never_overestimated_before_the_clock_is_trusted(
            runs in runs(-60 * YEAR as i64..80 * YEAR as i64),
            off in 0u64..1_000_000,
        ) {
            let (segments, truth, _) = history(&runs, off);
            for (age, truth) in at_start(&segments, None).into_iter().zip(truth) {
                prop_assert!(age <= seconds(truth));
            }
        }

        /// Frames of 2099 make no other frame too old.
        #[test]
        fn a_clock_that_was_ahead_overestimates_no_age(
            runs in runs(0..80 * YEAR as i64),
            off in 0u64..1_000_000,
        ) {
            let (segments, truth, began) = history(&runs, off);
            for (age, truth) in at_start(&segments, Some(at(began))).into_iter().zip(truth) {
                prop_assert!(age <= seconds(truth));
            }
        }

        #[test]
        fn with_correct_clocks_ages_are_exact(
            runs in runs(Just(0)),
            off in 0u64..1_000_000,
        ) {
            let (segments, truth, began) = history(&runs, off);
            let truth: Vec<_> = truth.into_iter().map(seconds).collect();
            prop_assert_eq!(at_start(&segments, Some(at(began))), truth);
        }

        #[test]
        fn a_claimed_age_above_a_year_is_not_trusted(
            runs in runs(-60 * YEAR as i64..80 * YEAR as i64),
            (off, wrong) in (0u64..1_000_000, 2 * YEAR..80 * YEAR),
        ) {
            let (segments, _, began) = history(&runs, off);
            let recorded = at_start(&segments, None);
            for (age, recorded) in
                at_start(&segments, Some(at(began + wrong))).into_iter().zip(recorded)
            {
                prop_assert!(age <= recorded + CLAIM_MOST);
            }
        }
    }

    #[test]
    fn a_clock_is_trusted_after_15_minutes_without_a_step() {
        let mut clock = WallClock::default();
        let mut at =
            |uptime, wall| clock.is_confirmed(Now { uptime: seconds(uptime), wall: at(wall) });
        assert!(!at(0, 4_000_000_000) && !at(899, 4_000_000_899));
        // NTP corrects the clock just before the time is over.
        assert!(!at(900, 1_700_000_900) && !at(1700, 1_700_001_700));
        assert!(at(1800, 1_700_001_801));
        assert!(!at(1801, 1_700_101_801), "set again");
    }

    #[test]
    fn a_segment_with_unknown_times_is_deleted_with_the_next() {
        let times = |run, first, last| {
            Some(Times { run, first: seconds(first), last: seconds(last), newest: at(last) })
        };
        let segments = [None, times(1, 0, 10), None, times(1, 10, 20), times(2, 0, 5), None];
        let wanted = [25, 25, 15, 15, 5, 0].map(seconds);
        assert_eq!(at_start(&segments, None), wanted);
    }
}
