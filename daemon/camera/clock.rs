//! Determines when a frame was captured: by the clock of the run, which orders frames, and in UTC.
//!
//! UTC is the camera's time if it is credible, otherwise the host's time of arrival. The time of
//! the run is derived from the same source: it is that UTC minus the UTC at which the run began.
//! The reason is that frames arrive less evenly than they are captured. If the camera's clock is
//! set, the time of the run continues as if it had not been.
//!
//! Guarantees: the time of the run rises strictly over the life of a camera, including reconnects.
//! UTC does too until a clock is set back by more than [`CLOCK_STEP`]; then UTC goes back with that
//! clock. If a clock differs by less, time passes at half its speed until the clocks agree. This is
//! usual after a connect: the first frame arrives before the camera's first report and gets the
//! time of arrival.

use std::time::{Duration, SystemTime};

use crate::frame::{CLOCK_STEP, Clock, difference, shift};

/// Maximum error of a camera's clock. A clock that is off by more is not trusted …
const BELIEVED_WITHIN: Duration = Duration::from_secs(5);
/// … until it is off by less than this. The lower limit prevents switching back and forth.
const BELIEVED_AGAIN_WITHIN: Duration = Duration::from_secs(4);

const LEAST: Duration = Duration::from_millis(1);

/// Divisor for the slowest camera clock: it may lose at most 1/`SLOWER` of the time that passes.
const SLOWER: i128 = 2000;

const STEP: i128 = CLOCK_STEP.as_nanos() as i128;

#[derive(Debug, Default)]
pub struct CaptureClock {
    last: Option<Last>,
    disbelieved: bool,
    /// The camera's clock, or `None` if it is unknown or not trusted.
    camera: Option<Camera>,
}

/// The start of the run by the camera's clock.
#[derive(Clone, Copy, Debug)]
struct Camera {
    /// The start that is used to date frames.
    began: SystemTime,
    /// The start according to the recent frame with the least delay.
    seems: SystemTime,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    arrived: Duration,
    monotonic: Duration,
    captured_at: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub monotonic: Duration,
    pub captured_at: SystemTime,
    pub clock: Clock,
    pub change: Option<ClockChange>,
}

/// A change in the state of the camera's clock. Amounts are in nanoseconds and positive if the
/// camera's clock is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockChange {
    /// The clock is no longer trusted. The value is its error.
    Distrusted(i128),
    /// The clock was set by this amount.
    Stepped(i128),
}

impl CaptureClock {
    /// Dates a frame. `arrived` is the time of the run at which it arrived, `origin` the UTC of the
    /// run's start by the host's clock, `camera` the capture time that the camera reports.
    pub fn stamp(
        &mut self,
        arrived: Duration,
        origin: SystemTime,
        camera: Option<SystemTime>,
    ) -> Stamp {
        let host = shift(origin, arrived.as_nanos() as i128);
        let mut change = None;
        let believed = camera.filter(|&camera| {
            let off = difference(host, camera);
            let within = if self.disbelieved { BELIEVED_AGAIN_WITHIN } else { BELIEVED_WITHIN };
            let believed = off.unsigned_abs() <= within.as_nanos();
            if !believed {
                if !self.disbelieved {
                    change = Some(ClockChange::Distrusted(off));
                }
                self.camera = None;
            }
            self.disbelieved = !believed;
            believed
        });
        let (monotonic, time, clock) = match believed {
            Some(camera) => {
                let (began, step) = self.follow(arrived, origin, camera);
                change = step.map(ClockChange::Stepped);
                (after(began, camera), camera, Clock::Camera)
            }
            None => (arrived, host, Clock::Host),
        };
        let (monotonic, captured_at) = match self.last {
            Some(last) => {
                let passed = (arrived.saturating_sub(last.arrived) / 2).max(LEAST);
                let back = difference(time, last.captured_at);
                let captured_at = match back {
                    0..=STEP => shift(last.captured_at, passed.as_nanos() as i128),
                    _ => time,
                };
                let rises = monotonic > last.monotonic;
                (if rises { monotonic } else { last.monotonic + passed }, captured_at)
            }
            None => (monotonic, time),
        };
        self.last = Some(Last { arrived, monotonic, captured_at });
        Stamp { monotonic, captured_at, clock, change }
    }

    /// Follows the camera's clock with a frame captured at `camera`. Returns the start of the run
    /// by the camera's clock, and the amount by which that clock was set, if it was.
    fn follow(
        &mut self,
        arrived: Duration,
        origin: SystemTime,
        camera: SystemTime,
    ) -> (SystemTime, Option<i128>) {
        let seems = shift(camera, -(arrived.as_nanos() as i128));
        let (Some(known), Some(last)) = (self.camera, self.last) else {
            // If the clocks agree, the run has one start. Otherwise the camera's clock sets its
            // own.
            let agree = difference(origin, seems).abs() <= STEP;
            let began = if agree { origin } else { seems };
            self.camera = Some(Camera { began, seems });
            return (began, None);
        };
        let by = difference(known.seems, seems);
        let (now, step) = if by > STEP {
            // A frame cannot be captured after it arrives: the clock was set forward.
            (Camera { began: shift(known.began, by), seems }, Some(by))
        } else if after(known.began, camera) + CLOCK_STEP < last.monotonic {
            // A frame cannot be captured before an earlier one: the clock was set back.
            (Camera { began: seems, seems }, Some(by))
        } else {
            let passed = arrived.saturating_sub(last.arrived).as_nanos() as i128;
            let seems = seems.max(shift(known.seems, -passed / SLOWER));
            (Camera { seems, ..known }, None)
        };
        self.camera = Some(now);
        (now.began, step)
    }

    pub fn last(&self) -> Option<SystemTime> {
        self.last.map(|last| last.captured_at)
    }
}

fn after(began: SystemTime, time: SystemTime) -> Duration {
    time.duration_since(began).unwrap_or_default()
}

/// Converts `timestamp/x-ntp`, which is in nanoseconds since 1900.
pub fn from_ntp(nanoseconds: u64) -> Option<SystemTime> {
    const FROM_1900_TO_1970: Duration = Duration::from_secs(2_208_988_800);
    let since_1970 = Duration::from_nanos(nanoseconds).checked_sub(FROM_1900_TO_1970)?;
    Some(SystemTime::UNIX_EPOCH + since_1970)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Returns the host's UTC at the start of the run.
    fn origin() -> SystemTime {
        SystemTime::UNIX_EPOCH + run(1_700_000_000_000)
    }

    fn at(milliseconds: i64) -> SystemTime {
        shift(origin(), i128::from(milliseconds) * 1_000_000)
    }

    fn stamp(clock: &mut CaptureClock, arrived: u64, camera: Option<i64>) -> Stamp {
        clock.stamp(run(arrived), origin(), camera.map(at))
    }

    #[test]
    fn a_camera_clock_near_the_hosts_is_trusted() {
        let mut clock = CaptureClock::default();
        let first = stamp(&mut clock, 100, None);
        assert_eq!(
            (first.monotonic, first.captured_at, first.clock),
            (run(100), at(100), Clock::Host)
        );
        let stamp = stamp(&mut clock, 600, Some(550));
        assert_eq!((stamp.captured_at, stamp.clock), (at(550), Clock::Camera));
    }

    #[test]
    fn a_camera_clock_far_off_is_logged_once_and_not_trusted() {
        let mut clock = CaptureClock::default();
        let first = stamp(&mut clock, 10_000, Some(0));
        assert_eq!((first.captured_at, first.clock), (at(10_000), Clock::Host));
        assert_eq!(first.change, Some(ClockChange::Distrusted(-10_000_000_000)));
        assert_eq!(stamp(&mut clock, 11_000, Some(1_000)).change, None);
        let later = stamp(&mut clock, 12_000, Some(7_500));
        assert_eq!(later.clock, Clock::Host, "4.5 s off: believed at first, not yet again");
        assert_eq!(stamp(&mut clock, 13_000, Some(12_900)).clock, Clock::Camera);
    }

    #[test]
    fn after_a_camera_clock_jumps_an_hour_the_time_of_arrival_is_used() {
        for jump in [3_600_000, -3_600_000] {
            let mut clock = CaptureClock::default();
            for frame in 1..100 {
                let (arrived, off) = (frame * 500, if frame < 50 { 0 } else { jump });
                let stamp = stamp(&mut clock, arrived, Some(arrived as i64 - 50 + off));
                let late = difference(stamp.captured_at, at(arrived as i64));
                assert!((0..=50_000_000).contains(&late), "{frame}: {stamp:?}");
                assert_eq!(stamp.change.is_some(), frame == 50);
            }
        }
    }

    #[test]
    fn a_camera_clock_that_is_set_by_seconds_moves_utc_and_not_the_order() {
        for (step, rises) in [(-3000, false), (3000, true)] {
            let mut clock = CaptureClock::default();
            let mut last = None;
            for frame in 1..200u64 {
                let arrived = frame * 500;
                let camera = arrived as i64 - 40 + if frame < 100 { 0 } else { step };
                let stamp = stamp(&mut clock, arrived, Some(camera));
                assert_eq!(stamp.captured_at, at(camera));
                let late = run(arrived) - stamp.monotonic;
                assert!(late == run(40) || frame >= 100 && late == run(0), "{frame}: {late:?}");
                let change =
                    (frame == 100).then_some(ClockChange::Stepped(i128::from(step) * 1_000_000));
                assert_eq!(stamp.change, change);
                assert!(last.is_none_or(|last| last < stamp.captured_at || frame == 100 && !rises));
                last = Some(stamp.captured_at);
            }
        }
    }

    #[test]
    fn a_small_lag_behind_the_first_frame_does_not_bunch_frames() {
        let mut clock = CaptureClock::default();
        let mut last = stamp(&mut clock, 0, None);
        let mut steps = Vec::new();
        for frame in 1..50u64 {
            let stamp = stamp(&mut clock, frame * 500, Some(frame as i64 * 500 - 1200));
            steps.push(difference(last.captured_at, stamp.captured_at) / 1_000_000);
            assert_eq!(shift(origin(), stamp.monotonic.as_nanos() as i128), stamp.captured_at);
            last = stamp;
        }
        assert_eq!(steps[..6], [250, 250, 250, 50, 500, 500]);
        assert_eq!(last.captured_at, at(49 * 500 - 1200));
    }

    #[test]
    fn setting_the_host_clock_does_not_change_a_trusted_camera_clock() {
        for step in [-3000, 3000] {
            let mut clock = CaptureClock::default();
            for frame in 1..100u64 {
                let set = if frame < 50 { origin() } else { shift(origin(), step * 1_000_000) };
                let taken = frame * 500;
                let stamp = clock.stamp(run(taken + 40), set, Some(at(taken as i64)));
                assert_eq!((stamp.monotonic, stamp.captured_at), (run(taken), at(taken as i64)));
                assert_eq!((stamp.clock, stamp.change), (Clock::Camera, None));
            }
        }
    }

    #[test]
    fn a_camera_that_loses_time_slowly_is_followed_without_a_step() {
        let mut clock = CaptureClock::default();
        // The camera loses 100 millionths for half a day.
        for frame in 1..86_400i64 {
            let taken = frame * 500 - frame / 20;
            let stamp = stamp(&mut clock, frame as u64 * 500 + 40, Some(taken));
            assert_eq!((stamp.captured_at, stamp.change), (at(taken), None));
            assert_eq!(stamp.monotonic, run(taken as u64));
        }
    }

    #[test]
    fn frames_that_come_in_a_burst_keep_their_times() {
        let mut clock = CaptureClock::default();
        // No frame arrives from 10 s to 13 s; then all arrive at once.
        for frame in 1..60u64 {
            let taken = frame * 500;
            let arrived = if (10_000..13_000).contains(&taken) { 13_000 } else { taken };
            let stamp = stamp(&mut clock, arrived + 30, Some(taken as i64));
            assert_eq!((stamp.change, stamp.captured_at), (None, at(taken as i64)));
            assert_eq!(stamp.monotonic, run(taken));
        }
    }

    #[test]
    fn setting_the_host_clock_back_an_hour_keeps_the_frame_rate() {
        let mut clock = CaptureClock::default();
        let hour = 3_600_000_000_000;
        let before: Vec<_> = (1..10).map(|n| clock.stamp(run(n * 500), origin(), None)).collect();
        let set = shift(origin(), -hour);
        let after: Vec<_> = (10..20).map(|n| clock.stamp(run(n * 500), set, None)).collect();
        for (n, stamp) in (1..).zip(before.iter().chain(&after)) {
            assert_eq!(stamp.monotonic, run(n * 500));
        }
        for pair in before.windows(2).chain(after.windows(2)) {
            assert_eq!(difference(pair[0].captured_at, pair[1].captured_at), 500_000_000);
        }
        assert_eq!(difference(before[8].captured_at, after[0].captured_at), 500_000_000 - hour);
    }

    #[test]
    fn the_ntp_epoch_is_1900() {
        assert_eq!(from_ntp(2_208_988_800_000_000_000), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(from_ntp(1), None);
    }

    proptest! {
        #[test]
        fn order_never_goes_back_and_utc_goes_back_only_by_a_step(
            frames in prop::collection::vec(
                (0u64..20_000, prop::option::of(-20_000i64..20_000), prop::option::of(-5000i64..5000)),
                1..50,
            ),
        ) {
            let mut clock = CaptureClock::default();
            let mut last: Option<Stamp> = None;
            let (mut arrived, mut set) = (0, origin());
            for (after, camera, step) in frames {
                arrived += after;
                set = shift(set, i128::from(step.unwrap_or(0)) * 1_000_000);
                let camera = camera.map(|off| at(arrived as i64 + off));
                let stamp = clock.stamp(run(arrived), set, camera);
                prop_assert!(stamp.monotonic <= run(arrived + 8000), "{:?}", stamp);
                if let Some(last) = last {
                    prop_assert!(last.monotonic < stamp.monotonic);
                    let back = difference(stamp.captured_at, last.captured_at);
                    prop_assert!(!(0..=STEP).contains(&back), "{} back", back);
                }
                last = Some(stamp);
            }
        }
    }
}
