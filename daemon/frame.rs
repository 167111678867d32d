//! One sampled picture of a camera, and the clock it was taken by.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;

/// A picture as the camera module hands it on.
#[derive(Clone)]
pub struct Frame {
    pub camera: Arc<str>,
    /// Counts every sampled frame of this camera from 0, over reconnects; a hole is a dropped frame.
    pub number: u64,
    /// Time of capture by the clock of the run ([`crate::run_clock`]): strictly rising, whatever the
    /// host's clock and the camera's do.
    pub monotonic: Duration,
    /// UTC; strictly later than that of the frame before it, unless a clock was set back by more
    /// than [`CLOCK_STEP`].
    pub captured_at: SystemTime,
    pub clock: Clock,
    pub width: u32,
    pub height: u32,
    /// Blue, green, red and a byte of padding, `width * height * 4` bytes without gaps: what
    /// GStreamer converts to at half the cost of RGB.
    pub bgrx: Bytes,
}

/// Which frame of a camera, over restarts of the daemon. In the order in which they were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// The run of the daemon that took it: the milliseconds from 1970 to its start by the host's
    /// clock, but always more than that of every run on disk.
    pub run: u64,
    pub number: u64,
}

/// A clock that is off by more than this all at once was set; less is corrected without a jump.
pub const CLOCK_STEP: Duration = Duration::from_millis(1500);

/// From one time to another, in nanoseconds: negative, if the second lies before the first.
pub fn difference(from: SystemTime, to: SystemTime) -> i128 {
    match to.duration_since(from) {
        Ok(later) => later.as_nanos() as i128,
        Err(earlier) => -(earlier.duration().as_nanos() as i128),
    }
}

/// The time so many nanoseconds later; the time itself, where the sum is beyond what can be told.
pub fn shift(time: SystemTime, nanoseconds: i128) -> SystemTime {
    let by = nanoseconds.unsigned_abs();
    let Ok(seconds) = u64::try_from(by / 1_000_000_000) else { return time };
    let by = Duration::new(seconds, (by % 1_000_000_000) as u32);
    let shifted = if nanoseconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    shifted.unwrap_or(time)
}

/// Whose clock `captured_at` was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The camera's, by RTCP sender reports (RFC 3550, 6.4.1).
    Camera,
    /// This machine's, at arrival: the camera gave none, or one that is not to be believed.
    Host,
}

/// The first moment that lookout speaks of, 1970.
pub const EARLIEST: SystemTime = SystemTime::UNIX_EPOCH;

/// Returns the last moment that lookout speaks of, 9999-12-31T23:59:59: RFC 3339 has four digits for a year.
pub fn latest() -> SystemTime {
    EARLIEST + Duration::from_secs(253_402_300_799)
}

/// Returns the nearest moment between [`EARLIEST`] and [`latest`].
pub fn clamped(time: SystemTime) -> SystemTime {
    time.clamp(EARLIEST, latest())
}

/// A half-open span of time `[from, to)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    #[serde(with = "rfc3339")]
    pub from: SystemTime,
    #[serde(with = "rfc3339")]
    pub to: SystemTime,
}

impl Span {
    pub fn contains(&self, time: SystemTime) -> bool {
        self.from <= time && time < self.to
    }

    pub fn length(&self) -> Duration {
        self.to.duration_since(self.from).unwrap_or_default()
    }
}

impl Span {
    /// `14:05:00–14:05:50`, UTC, or with the date where `dated`.
    pub fn clock(&self, dated: bool) -> String {
        let show = |time| {
            let text = humantime::format_rfc3339_seconds(clamped(time)).to_string();
            let from = if dated { 0 } else { 11 };
            text.get(from..19).unwrap_or(&text).replace('T', " ")
        };
        format!("{}–{}", show(self.from), show(self.to))
    }

    /// Whether a clock's time alone does not say which day it is.
    pub fn is_over_days(&self) -> bool {
        let day = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400
        };
        day(self.from) != day(self.to)
    }
}

/// Time on every wire: RFC 3339, UTC, milliseconds.
pub mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Serialize, Serializer};

    use super::clamped;

    /// Writes any time there is: one that cannot be written as the nearest that can.
    pub fn format(time: SystemTime) -> String {
        humantime::format_rfc3339_millis(clamped(time)).to_string()
    }

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*time))
    }

    pub mod option {
        use super::*;

        pub fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            time.map(format).serialize(serializer)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any time that the system can hold.
    fn times() -> impl Strategy<Value = SystemTime> {
        let far = prop_oneof![
            any::<u64>(),
            Just(i64::MAX as u64),
            253_402_300_700..253_402_300_900u64,
            0..100u64
        ];
        (far, 0..1_000_000_000u32, any::<bool>()).prop_map(|(seconds, nanos, after)| {
            let length = Duration::new(seconds, nanos);
            let time = match after {
                true => EARLIEST.checked_add(length),
                false => EARLIEST.checked_sub(length),
            };
            time.unwrap_or(EARLIEST)
        })
    }

    proptest! {
        #[test]
        fn every_time_there_is_can_be_written(from in times(), to in times()) {
            let written = rfc3339::format(from);
            prop_assert_eq!(written.len(), "2026-01-01T00:00:00.000Z".len());
            let read = humantime::parse_rfc3339(&written).expect("RFC 3339");
            let off = clamped(from).duration_since(read).expect("not later");
            prop_assert!(off < Duration::from_millis(1));
            let span = Span { from, to };
            prop_assert!(!span.clock(true).is_empty() && !span.clock(false).is_empty());
            prop_assert!(serde_json::to_string(&span).is_ok());
            let _ = (span.is_over_days(), span.length());
        }
    }
}
