//! When a picture was taken: the camera's word where it can be believed, else the time of arrival.
//!
//! Times are strictly increasing over the life of a camera, reconnects included. The first frame
//! after a connect usually comes before the camera's first sender report, and has the time of
//! arrival; a camera whose clock is behind then gives times that lie before it: those become the
//! smallest step later, until the camera's clock has caught up.

use std::time::{Duration, SystemTime};

use crate::frame::Clock;

/// A camera whose clock is off by more is not believed …
const BELIEVED_WITHIN: Duration = Duration::from_secs(5);
/// … until it is off by less than this: no going to and fro at the border.
const BELIEVED_AGAIN_WITHIN: Duration = Duration::from_secs(4);

const STEP: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub struct CaptureClock {
    last: Option<SystemTime>,
    disbelieved: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub captured_at: SystemTime,
    pub clock: Clock,
    /// Set when the camera's clock just ceased to be believed: by how much it is off.
    pub newly_off_by: Option<Duration>,
}

impl CaptureClock {
    /// `arrived` is the host's time when the frame came in, `camera` what the camera says.
    pub fn stamp(&mut self, arrived: SystemTime, camera: Option<SystemTime>) -> Stamp {
        let mut newly_off_by = None;
        let believed = camera.filter(|&camera| {
            let off = distance(camera, arrived);
            let within = match self.disbelieved {
                true => BELIEVED_AGAIN_WITHIN,
                false => BELIEVED_WITHIN,
            };
            let believed = off <= within;
            if !believed && !self.disbelieved {
                newly_off_by = Some(off);
            }
            self.disbelieved = !believed;
            believed
        });
        let (time, clock) = match believed {
            Some(camera) => (camera, Clock::Camera),
            None => (arrived, Clock::Host),
        };
        let captured_at = match self.last {
            Some(last) if time <= last => last + STEP,
            _ => time,
        };
        self.last = Some(captured_at);
        Stamp { captured_at, clock, newly_off_by }
    }

    pub fn last(&self) -> Option<SystemTime> {
        self.last
    }
}

/// From `timestamp/x-ntp`: nanoseconds since 1900.
pub fn from_ntp(nanoseconds: u64) -> Option<SystemTime> {
    const FROM_1900_TO_1970: Duration = Duration::from_secs(2_208_988_800);
    let since_1970 = Duration::from_nanos(nanoseconds).checked_sub(FROM_1900_TO_1970)?;
    Some(SystemTime::UNIX_EPOCH + since_1970)
}

fn distance(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + milliseconds)
    }

    #[test]
    fn the_camera_is_believed_when_it_is_near() {
        let mut clock = CaptureClock::default();
        assert_eq!(clock.stamp(at(100), None).clock, Clock::Host);
        let stamp = clock.stamp(at(600), Some(at(550)));
        assert_eq!((stamp.captured_at, stamp.clock), (at(550), Clock::Camera));
    }

    #[test]
    fn a_clock_far_off_is_told_once_and_not_believed() {
        let mut clock = CaptureClock::default();
        let stamp = clock.stamp(at(10_000), Some(at(0)));
        assert_eq!((stamp.captured_at, stamp.clock), (at(10_000), Clock::Host));
        assert_eq!(stamp.newly_off_by, Some(Duration::from_secs(10)));
        assert_eq!(clock.stamp(at(11_000), Some(at(1_000))).newly_off_by, None);
        let stamp = clock.stamp(at(12_000), Some(at(7_500)));
        assert_eq!(stamp.clock, Clock::Host, "4.5 s off: believed at first, not yet again");
        assert_eq!(clock.stamp(at(13_000), Some(at(12_900))).clock, Clock::Camera);
    }

    #[test]
    fn the_ntp_epoch_is_1900() {
        assert_eq!(from_ntp(2_208_988_800_000_000_000), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(from_ntp(1), None);
    }

    proptest! {
        #[test]
        fn times_strictly_increase(
            frames in prop::collection::vec((0u64..20_000, prop::option::of(0u64..20_000)), 1..50),
        ) {
            let mut clock = CaptureClock::default();
            let mut last = None;
            for (arrived, camera) in frames {
                let stamp = clock.stamp(at(arrived), camera.map(at));
                prop_assert!(last.is_none_or(|last| last < stamp.captured_at));
                last = Some(stamp.captured_at);
            }
        }
    }
}
