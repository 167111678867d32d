//! Defines which frames are selected: by UTC, or by the clock of the current run.
//!
//! "The last ten minutes" and a caption's window are selected by the run's clock, so they are
//! correct even if the host's clock changes in the meantime. They are reported in UTC by the clock
//! at the range's end. So all times of a range rise, and its length is the real one. Frames keep
//! the UTC with which they were captured.

use std::time::{Duration, SystemTime};

use super::Entry;
use crate::frame::{Span, difference, shift};
use crate::run_clock::Moment;

/// Maximum UTC difference at which a frame counts as captured by the range's clock. Its own UTC is
/// then reported.
const SAME_WITHIN: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// The range in UTC, as it is reported. It also selects frames of earlier runs.
    pub span: Span,
    /// The half-open part of this run that is selected, or `None` if the span selects by UTC.
    pub(super) in_run: Option<RunRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunRange {
    /// Start of the part, or `None` if it is before the run.
    pub from: Option<Duration>,
    pub to: Duration,
}

impl From<Span> for TimeRange {
    fn from(span: Span) -> TimeRange {
        TimeRange { span, in_run: None }
    }
}

impl TimeRange {
    /// Creates the range of this length that ends at `to` in the run, reported by the clock of
    /// `by`. The part before the run is empty, whatever earlier runs recorded.
    pub fn in_run(to: Duration, length: Duration, by: Moment) -> TimeRange {
        let end = by.utc_at(to);
        let from = shift(end, -(length.as_nanos() as i128));
        let span = Span { from: since_1970(from), to: since_1970(end) };
        TimeRange { span, in_run: Some(RunRange { from: Some(to.saturating_sub(length)), to }) }
    }

    /// Creates the range of a span that ends `now`. The part within the run is selected by the
    /// run's clock.
    pub fn ending(now: Moment, span: Span) -> TimeRange {
        let from = now.monotonic.checked_sub(span.length());
        TimeRange { span, in_run: Some(RunRange { from, to: now.monotonic }) }
    }

    /// Returns a part of this range. `span` is given by the same clock.
    pub fn part(&self, span: Span) -> TimeRange {
        let in_run = self.in_run.map(|in_run| {
            let before_end = |time| {
                let before = difference(time, self.span.to).max(0) as u128;
                let seconds = u64::try_from(before / 1_000_000_000).unwrap_or(u64::MAX);
                in_run.to.checked_sub(Duration::new(seconds, (before % 1_000_000_000) as u32))
            };
            RunRange { from: before_end(span.from), to: before_end(span.to).unwrap_or_default() }
        });
        TimeRange { span, in_run }
    }

    /// Returns the capture time of the entry, as this range reports it. `run` is the current run.
    pub(super) fn time_of(&self, entry: &Entry, run: u64) -> SystemTime {
        let Some(RunRange { to, .. }) = self.in_run.filter(|_| entry.id.run == run) else {
            return entry.captured_at;
        };
        let end = Moment { monotonic: to, utc: self.span.to };
        let utc = end.utc_at(entry.monotonic);
        let same = difference(utc, entry.captured_at).unsigned_abs() <= SAME_WITHIN.as_nanos();
        if same { entry.captured_at } else { utc }
    }
}

/// Limits a time to 1970 or later. No frame is older, because a clock at 1970 has just started.
fn since_1970(time: SystemTime) -> SystemTime {
    time.max(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn parts_of_an_extent_follow_each_other_in_the_run_as_in_utc() {
        let now = Moment { monotonic: seconds(100), utc: at(5000) };
        let whole = TimeRange::ending(now, Span { from: at(4800), to: at(5000) });
        assert_eq!(whole.in_run, Some(RunRange { from: None, to: seconds(100) }));
        let part = |from, to| whole.part(Span { from: at(from), to: at(to) }).in_run;
        let in_run = |from, to| Some(RunRange { from, to: seconds(to) });
        assert_eq!(part(4800, 4890), in_run(None, 0));
        assert_eq!(part(4890, 4950), in_run(None, 50));
        assert_eq!(part(4950, 5000), in_run(Some(seconds(50)), 100));
        let by_utc = TimeRange::from(Span { from: at(1), to: at(9) });
        assert_eq!(by_utc.part(Span { from: at(2), to: at(3) }).in_run, None);
    }

    #[test]
    fn a_window_soon_after_1970_does_not_begin_before() {
        let by = Moment { monotonic: seconds(20), utc: at(10) };
        let window = TimeRange::in_run(seconds(20), seconds(20), by);
        assert_eq!(window.span, Span { from: at(0), to: at(10) });
        // The first frame arrived as soon as the run began, so its window begins before the run.
        let by = Moment { monotonic: seconds(20), utc: at(1010) };
        let window = TimeRange::in_run(seconds(20), seconds(21), by);
        assert_eq!(window.span, Span { from: at(989), to: at(1010) });
        assert_eq!(window.in_run, Some(RunRange { from: Some(seconds(0)), to: seconds(20) }));
    }
}
