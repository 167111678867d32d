//! Defines which footage is selected: by UTC, or by the clock of the current run.
//!
//! "The last ten minutes" and a caption's window are selected by the run's clock, so they are
//! correct even if the host's clock changes in the meantime. They are reported in UTC by the clock
//! at the extent's end. So all times of an extent rise, and its length is the real one. Frames keep
//! the UTC with which they were captured.

use std::time::{Duration, SystemTime};

use super::Entry;
use crate::frame::{Span, difference, shift};
use crate::run_clock::Moment;

/// Maximum UTC difference at which a frame counts as captured by the extent's clock. Its own UTC is
/// then reported.
const SAME_WITHIN: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The extent in UTC, as it is reported. It also selects frames of earlier runs.
    pub span: Span,
    /// The half-open part of this run that is selected, or `None` if the span selects by UTC.
    pub(super) of_run: Option<OfRun>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OfRun {
    /// Start of the part, or `None` if it is before the run.
    pub from: Option<Duration>,
    pub to: Duration,
}

impl From<Span> for Extent {
    fn from(span: Span) -> Extent {
        Extent { span, of_run: None }
    }
}

impl Extent {
    /// Creates the extent of this length that ends at `to` in the run, reported by the clock of
    /// `by`. The part before the run is empty, whatever earlier runs recorded.
    pub fn of_run(to: Duration, length: Duration, by: Moment) -> Extent {
        let end = by.tells(to);
        let from = shift(end, -(length.as_nanos() as i128));
        let span = Span { from: since_1970(from), to: since_1970(end) };
        Extent { span, of_run: Some(OfRun { from: Some(to.saturating_sub(length)), to }) }
    }

    /// Creates the extent of a span that ends `now`. The part within the run is selected by the
    /// run's clock.
    pub fn ending(now: Moment, span: Span) -> Extent {
        let from = now.monotonic.checked_sub(span.length());
        Extent { span, of_run: Some(OfRun { from, to: now.monotonic }) }
    }

    /// Returns a part of this extent. `span` is given by the same clock.
    pub fn part(&self, span: Span) -> Extent {
        let of_run = self.of_run.map(|of_run| {
            let before_end = |time| {
                let before = difference(time, self.span.to).max(0) as u128;
                let seconds = u64::try_from(before / 1_000_000_000).unwrap_or(u64::MAX);
                of_run.to.checked_sub(Duration::new(seconds, (before % 1_000_000_000) as u32))
            };
            OfRun { from: before_end(span.from), to: before_end(span.to).unwrap_or_default() }
        });
        Extent { span, of_run }
    }

    /// Returns the capture time of the entry, as this extent reports it. `run` is the current run.
    pub(super) fn tells(&self, entry: &Entry, run: u64) -> SystemTime {
        let Some(OfRun { to, .. }) = self.of_run.filter(|_| entry.id.run == run) else {
            return entry.captured_at;
        };
        let end = Moment { monotonic: to, utc: self.span.to };
        let told = end.tells(entry.monotonic);
        let same = difference(told, entry.captured_at).unsigned_abs() <= SAME_WITHIN.as_nanos();
        if same { entry.captured_at } else { told }
    }
}

/// Limits a time to 1970 or later. No footage is older, because a clock at 1970 has just started.
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
        let whole = Extent::ending(now, Span { from: at(4800), to: at(5000) });
        assert_eq!(whole.of_run, Some(OfRun { from: None, to: seconds(100) }));
        let part = |from, to| whole.part(Span { from: at(from), to: at(to) }).of_run;
        let of_run = |from, to| Some(OfRun { from, to: seconds(to) });
        assert_eq!(part(4800, 4890), of_run(None, 0));
        assert_eq!(part(4890, 4950), of_run(None, 50));
        assert_eq!(part(4950, 5000), of_run(Some(seconds(50)), 100));
        let by_utc = Extent::from(Span { from: at(1), to: at(9) });
        assert_eq!(by_utc.part(Span { from: at(2), to: at(3) }).of_run, None);
    }

    #[test]
    fn a_window_soon_after_1970_does_not_begin_before() {
        let by = Moment { monotonic: seconds(20), utc: at(10) };
        let window = Extent::of_run(seconds(20), seconds(20), by);
        assert_eq!(window.span, Span { from: at(0), to: at(10) });
        // The first frame arrived as soon as the run began, so its window begins before the run.
        let by = Moment { monotonic: seconds(20), utc: at(1010) };
        let window = Extent::of_run(seconds(20), seconds(21), by);
        assert_eq!(window.span, Span { from: at(989), to: at(1010) });
        assert_eq!(window.of_run, Some(OfRun { from: Some(seconds(0)), to: seconds(20) }));
    }
}
