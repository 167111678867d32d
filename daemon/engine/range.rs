//! Which span of a camera's time a question is about, and which ranges are none: pure rules.

use std::time::{Duration, SystemTime};

use crate::frame::{Span, rfc3339};
use crate::service::Range;

/// `now` is the camera's; `window` is what "recent" means. An end that is still to come is now. The
/// error is for the asker. An event has been made its window before.
pub fn span(range: Range, now: SystemTime, window: Duration) -> Result<Span, String> {
    let back = |length| now.checked_sub(length).unwrap_or(SystemTime::UNIX_EPOCH);
    let (from, to) = match range {
        Range::Recent | Range::Event { .. } => (back(window), now),
        Range::Last(Duration::ZERO) => return Err("a range of no length has no footage".into()),
        Range::Last(length) => (back(length), now),
        Range::Between { from, to } => (from, to.unwrap_or(now.max(from))),
    };
    let show = rfc3339::format;
    if from > to {
        return Err(format!("the range runs backwards, from {} to {}", show(from), show(to)));
    }
    if from >= now {
        return Err(format!("{} is still to come; it is {} now", show(from), show(now)));
    }
    if from == to {
        return Err(format!("the range at {} has no length", show(from)));
    }
    Ok(Span { from, to: to.min(now) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn between(from: u64, to: u64) -> Range {
        Range::Between { from: at(from), to: Some(at(to)) }
    }

    fn spanned(range: Range) -> Result<(u64, u64), String> {
        let span = span(range, at(1000), Duration::from_secs(50))?;
        let seconds = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
        };
        Ok((seconds(span.from), seconds(span.to)))
    }

    #[test]
    fn ranges_become_spans() {
        assert_eq!(spanned(Range::Recent), Ok((950, 1000)));
        assert_eq!(spanned(Range::Last(Duration::from_secs(600))), Ok((400, 1000)));
        assert_eq!(spanned(Range::Last(Duration::MAX)), Ok((0, 1000)));
        assert_eq!(spanned(between(100, 200)), Ok((100, 200)));
        assert_eq!(spanned(between(900, 2000)), Ok((900, 1000)));
        assert_eq!(spanned(Range::Between { from: at(900), to: None }), Ok((900, 1000)));
    }

    #[test]
    fn what_is_no_range_is_refused_in_plain_words() {
        for (range, said) in [
            (Range::Last(Duration::ZERO), "no length"),
            (between(500, 500), "no length"),
            (between(500, 400), "backwards"),
            (between(3000, 400), "backwards"),
            (between(1000, 2000), "still to come"),
            (Range::Between { from: at(2000), to: None }, "still to come"),
        ] {
            let refused = spanned(range).expect_err(said);
            assert!(refused.contains(said), "{range:?}: {refused}");
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
