//! Computes the span that a question is about, given the current time. Pure rules.

use std::time::{Duration, SystemTime};

use crate::frame::{Span, rfc3339};
use crate::question::earlier;

/// A range of time, relative to now or in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockRange {
    /// This length of time, up to now.
    Last(Duration),
    /// An explicit range. If `to` is `None` or in the future, it ends now.
    Between { from: SystemTime, to: Option<SystemTime> },
}

/// Returns the span of a range, or an error message for the asker. `now` is the camera's time.
pub fn span(range: ClockRange, now: SystemTime) -> Result<Span, String> {
    let (from, to) = match range {
        ClockRange::Last(length) => (earlier(now, length), now),
        ClockRange::Between { from, to } => (from, to.map_or(now, |to| to.min(now))),
    };
    let show = rfc3339::format;
    if from >= now {
        return Err(format!("{} is still to come; it is {} now", show(from), show(now)));
    }
    if from >= to {
        return Err(format!("the range at {} has no length", show(from)));
    }
    Ok(Span { from, to })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn between(from: u64, to: u64) -> ClockRange {
        ClockRange::Between { from: at(from), to: Some(at(to)) }
    }

    fn spanned(range: ClockRange) -> Result<(u64, u64), String> {
        let span = span(range, at(1000))?;
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
        };
        Ok((seconds(span.from), seconds(span.to)))
    }

    #[test]
    fn ranges_become_spans() {
        assert_eq!(spanned(ClockRange::Last(Duration::from_secs(600))), Ok((400, 1000)));
        assert_eq!(spanned(ClockRange::Last(Duration::MAX)), Ok((0, 1000)));
        assert_eq!(spanned(between(100, 200)), Ok((100, 200)));
        assert_eq!(spanned(between(900, 2000)), Ok((900, 1000)));
        assert_eq!(spanned(ClockRange::Between { from: at(900), to: None }), Ok((900, 1000)));
    }

    #[test]
    fn future_ranges_are_rejected() {
        for range in [between(1000, 2000), ClockRange::Between { from: at(2000), to: None }] {
            let refused = spanned(range).expect_err("still to come");
            assert!(refused.contains("still to come"), "{range:?}: {refused}");
        }
        assert!(spanned(between(500, 500)).expect_err("no length").contains("no length"));
    }

    /// The camera's clock may show any time.
    #[test]
    fn a_span_never_begins_before_1970() {
        let week = Duration::from_secs(7 * 86_400);
        for now in [at(5), at(1), SystemTime::UNIX_EPOCH - week] {
            for range in [ClockRange::Last(week), ClockRange::Last(Duration::MAX)] {
                let span = span(range, now);
                assert!(span.is_err() || span.is_ok_and(|span| span.from == at(0)), "{range:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_span_has_length_and_ends_by_now(from in 0u64..2000, to in 0u64..2000) {
            if let Ok((start, end)) = spanned(between(from, to)) {
                prop_assert!(start == from && start < end && end <= 1000.min(to));
            } else {
                prop_assert!(from >= to || from >= 1000);
            }
        }
    }
}
