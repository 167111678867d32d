//! A sampled frame of a camera, its times, and the clock they were read from.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

/// A frame as the camera module delivers it.
#[derive(Clone)]
pub struct Frame {
    pub camera: Arc<str>,
    /// Number of the frame: counts the sampled frames of this camera from 0, across reconnects. A
    /// hole is a dropped frame.
    pub number: u64,
    /// Time of capture by the run's clock ([`crate::run_clock`]). It rises strictly, whatever the
    /// host's clock and the camera's do.
    pub monotonic: Duration,
    /// Time of capture in UTC. It is strictly later than that of the previous frame, unless a clock
    /// was set back by more than [`CLOCK_STEP`].
    pub captured_at: SystemTime,
    pub clock: Clock,
    pub width: u32,
    pub height: u32,
    /// Blue, green, red and a padding byte per pixel: `width * height * 4` bytes without gaps.
    /// GStreamer converts to this format at half the cost of RGB.
    pub bgrx: Bytes,
}

/// Identifies a frame of a camera across restarts of the daemon. The order is that of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct FrameId {
    /// The run of the daemon that took the frame: the number of milliseconds from 1970 to its start
    /// by the host's clock, but always greater than that of every run on disk.
    pub run: u64,
    pub number: u64,
}

/// Error above which a clock counts as set, if it occurs all at once (a step). A smaller error is
/// corrected without a jump.
pub const CLOCK_STEP: Duration = Duration::from_millis(1500);

/// Returns the nanoseconds from one time to another. Negative if the second is before the first.
pub fn difference(from: SystemTime, to: SystemTime) -> i128 {
    match to.duration_since(from) {
        Ok(later) => later.as_nanos() as i128,
        Err(earlier) => -(earlier.duration().as_nanos() as i128),
    }
}

/// Returns the time this many nanoseconds later, or the time itself if the result cannot be
/// represented.
pub fn shift(time: SystemTime, nanoseconds: i128) -> SystemTime {
    let by = nanoseconds.unsigned_abs();
    let Ok(seconds) = u64::try_from(by / 1_000_000_000) else { return time };
    let by = Duration::new(seconds, (by % 1_000_000_000) as u32);
    let shifted = if nanoseconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    shifted.unwrap_or(time)
}

/// The clock from which `captured_at` was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// The camera's clock, by RTCP sender reports (RFC 3550, 6.4.1).
    Camera,
    /// This machine's clock at arrival, because the camera sent no time or one that is not
    /// credible.
    Host,
}

/// The earliest time that lookout uses, 1970.
pub const EARLIEST: SystemTime = SystemTime::UNIX_EPOCH;

/// Returns the latest time that lookout uses, 9999-12-31T23:59:59: years in RFC 3339 have four
/// digits.
pub fn latest() -> SystemTime {
    EARLIEST + Duration::from_secs(253_402_300_799)
}

/// Returns the nearest time between [`EARLIEST`] and [`latest`].
pub fn clamped(time: SystemTime) -> SystemTime {
    time.clamp(EARLIEST, latest())
}

/// A half-open span of time `[from, to)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Span {
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub from: SystemTime,
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
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
    /// Formats the span as `14:05:00–14:05:50`, in UTC, with dates if `dated` is set.
    pub fn clock(&self, dated: bool) -> String {
        let show = |time| {
            let text = humantime::format_rfc3339_seconds(clamped(time)).to_string();
            let from = if dated { 0 } else { 11 };
            text.get(from..19).unwrap_or(&text).replace('T', " ")
        };
        format!("{}–{}", show(self.from), show(self.to))
    }

    /// Returns true if the ends are on different days in UTC, so that times without dates are
    /// ambiguous.
    pub fn is_over_days(&self) -> bool {
        let day = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400
        };
        day(self.from) != day(self.to)
    }
}

/// The format of times on every interface: RFC 3339, UTC, milliseconds.
pub mod rfc3339 {
    use std::time::SystemTime;

    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde::{Serialize, Serializer};

    use super::clamped;

    /// The type of a time in a JSON Schema.
    pub struct Text;

    impl JsonSchema for Text {
        fn schema_name() -> Cow<'static, str> {
            "Time".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "type": "string", "format": "date-time" })
        }

        fn inline_schema() -> bool {
            true
        }
    }

    /// Formats any time. One outside the range of the format becomes the nearest that can be
    /// written.
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

    /// Generates any time that the system can represent.
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
        fn every_time_can_be_formatted(from in times(), to in times()) {
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
