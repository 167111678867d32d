//! The clock of the daemon's run, shared by all cameras: a time that cannot be set, and the UTC for
//! it by the host's clock.
//!
//! Frames are ordered by the run's time. Each frame also has its UTC, so recorded times do not
//! change if the host's clock is set. Small corrections of the host's clock are followed slowly. A
//! step is followed at once and logged once.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::frame::{CLOCK_STEP, difference, shift};
use crate::sync::lock;

/// Divisor of the elapsed time: at most this fraction is used to follow a correction that is not a
/// step.
const FOLLOWED: i128 = 10;

/// Maximum time for reading two clocks. After a slower attempt they are read again, at most
/// `READ_TRIES` times in all.
const READ_WITHIN: Duration = Duration::from_millis(5);
const READ_TRIES: usize = 10;

pub struct RunClock {
    /// The host's boot time at the start of the run.
    begun: Duration,
    origin: Mutex<Origin>,
}

/// A moment of the run, and its UTC by one of the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub monotonic: Duration,
    pub utc: SystemTime,
}

impl Moment {
    /// Returns the UTC of another moment of the run by the clock of this one.
    pub fn utc_at(&self, monotonic: Duration) -> SystemTime {
        shift(self.utc, monotonic.as_nanos() as i128 - self.monotonic.as_nanos() as i128)
    }

    pub fn later(&self, by: Duration) -> Moment {
        Moment { monotonic: self.monotonic + by, utc: shift(self.utc, by.as_nanos() as i128) }
    }
}

impl RunClock {
    /// Starts a run.
    pub fn start() -> RunClock {
        let (begun, wall) = read_both();
        let origin = Origin { utc: wall, looked: Duration::ZERO };
        RunClock { begun, origin: Mutex::new(origin) }
    }

    /// Returns the current moment by the host's clock.
    pub fn now(&self) -> Moment {
        let mut origin = lock(&self.origin);
        let (boot, wall) = read_both();
        let monotonic = boot.saturating_sub(self.begun);
        if let Some(by) = origin.look(monotonic, wall) {
            let (seconds, way) =
                (by.unsigned_abs() as f64 / 1e9, if by > 0 { "on" } else { "back" });
            tracing::warn!(
                "the host's clock was set {way} by {seconds:.1} s: frames have the new time from now on"
            );
        }
        Moment { monotonic, utc: shift(origin.utc, monotonic.as_nanos() as i128) }
    }
}

/// The UTC of the run's start, as far as it is known.
#[derive(Clone, Copy, Debug)]
struct Origin {
    utc: SystemTime,
    /// The time of the run when the clocks were last compared.
    looked: Duration,
}

impl Origin {
    /// Compares the clocks. Returns the nanoseconds by which the host's was set, if it was.
    fn look(&mut self, monotonic: Duration, wall: SystemTime) -> Option<i128> {
        let off = difference(shift(self.utc, monotonic.as_nanos() as i128), wall);
        let passed = monotonic.saturating_sub(self.looked).as_nanos() as i128;
        self.looked = self.looked.max(monotonic);
        if off.unsigned_abs() > CLOCK_STEP.as_nanos() {
            self.utc = shift(self.utc, off);
            return Some(off);
        }
        self.utc = shift(self.utc, off.clamp(-passed / FOLLOWED, passed / FOLLOWED));
        None
    }
}

/// Returns the boot time and UTC, read as close together as possible.
fn read_both() -> (Duration, SystemTime) {
    let mut before = boot_time();
    let mut tries = 0;
    loop {
        let wall = SystemTime::now();
        let after = boot_time();
        tries += 1;
        if after.saturating_sub(before) <= READ_WITHIN || tries == READ_TRIES {
            return (after, wall);
        }
        before = after;
    }
}

/// Returns the time since the host was started, including suspension.
pub fn boot_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result. This clock cannot fail on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    fn begun(milliseconds: u64) -> Origin {
        Origin { utc: at(milliseconds), looked: Duration::ZERO }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_time_of_a_run_begins_at_zero_and_rises() {
        let clock = RunClock::start();
        let (first, second) = (clock.now(), clock.now());
        assert!(first.monotonic < seconds(5) && first.monotonic <= second.monotonic);
        assert!(difference(first.utc, SystemTime::now()).unsigned_abs() < 1_000_000_000);
    }

    #[test]
    fn a_clock_step_is_followed_at_once_and_reported_once() {
        let mut origin = begun(7_200_000);
        assert_eq!(origin.look(seconds(10), at(7_210_000)), None);
        // The clock is set back by an hour.
        assert_eq!(origin.look(seconds(11), at(3_611_000)), Some(-3_600_000_000_000));
        assert_eq!(origin.utc, at(3_600_000));
        assert_eq!(origin.look(seconds(12), at(3_612_000)), None);
        // The clock is set from 1970 to the present.
        let now = 1_800_000_000_000;
        assert!(origin.look(seconds(13), at(now)).is_some_and(|by| by > 0));
        assert_eq!(origin.look(seconds(14), at(now + 1000)), None);
        assert_eq!(origin.utc, at(now - 13_000));
    }

    #[test]
    fn slow_drift_is_not_a_step() {
        let mut origin = begun(1_000_000);
        // The drift is 500 ppm for a day, as much as NTP corrects without a step: 43 s in total.
        for minute in 1..24 * 60 {
            let wall = at(1_000_000 + minute * 60_030);
            assert_eq!(origin.look(seconds(minute * 60), wall), None);
            assert_eq!(difference(shift(origin.utc, i128::from(minute) * 60_000_000_000), wall), 0);
        }
    }

    proptest! {
        #[test]
        fn utc_goes_back_only_by_a_step(
            looks in prop::collection::vec((1u64..100_000, -1500i64..1500, any::<bool>()), 1..100),
        ) {
            let mut origin = begun(1 << 40);
            let (mut monotonic, mut wall) = (0, 1 << 40);
            let mut last = at(0);
            for (passed, moved, step) in looks {
                monotonic += passed;
                wall += passed as i64 + if step { moved * 10_000 } else { moved };
                let wall = at(wall as u64);
                let stepped = origin.look(Duration::from_millis(monotonic), wall);
                let utc = shift(origin.utc, i128::from(monotonic) * 1_000_000);
                prop_assert!(difference(utc, wall).unsigned_abs() <= CLOCK_STEP.as_nanos());
                prop_assert!(last < utc || stepped.is_some_and(|by| by < 0));
                last = utc;
            }
        }
    }
}
