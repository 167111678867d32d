//! Selects the entries of a ring that belong to a range, whatever the clocks did.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use super::time_range::RunRange;
use super::{Entry, Ring, TimeRange};
use crate::frame::Span;

/// The entries of a range, in order: ranges of the ring, none of them empty.
pub struct RangeEntries<'a> {
    entries: &'a VecDeque<Entry>,
    ranges: Vec<Range<usize>>,
}

impl<'a> RangeEntries<'a> {
    pub fn inside(&self) -> impl Iterator<Item = &'a Entry> {
        self.positions().filter_map(|at| self.entries.get(at))
    }

    /// Returns the positions of the entries in the ring.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.ranges.clone().into_iter().flatten()
    }

    /// Returns the positions as ranges, in order; none is empty.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Leaves out the entries before this position.
    pub fn starting_at(mut self, first: usize) -> RangeEntries<'a> {
        self.ranges.iter_mut().for_each(|range| range.start = range.start.max(first));
        self.ranges.retain(|range| !range.is_empty());
        self
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.ranges.iter().map(ExactSizeIterator::len).sum()
    }

    /// Returns the entry of this index, counted from the first one inside.
    pub fn nth(&self, mut index: usize) -> Option<&'a Entry> {
        for range in &self.ranges {
            if index < range.len() {
                return self.entries.get(range.start + index);
            }
            index -= range.len();
        }
        None
    }

    /// Returns the first and the last entry of each range.
    pub fn ends(&self) -> impl Iterator<Item = &'a Entry> {
        let ends = self.ranges.iter().flat_map(|range| [range.start, range.end - 1]);
        ends.filter_map(|at| self.entries.get(at))
    }

    /// Returns the entry at any position of the ring.
    pub fn get(&self, at: usize) -> Option<&'a Entry> {
        self.entries.get(at)
    }

    /// Returns the position after the last entry.
    pub fn end(&self) -> Option<usize> {
        Some(self.ranges.last()?.end)
    }
}

impl Ring {
    /// Returns the span from the earliest to the latest time of an entry, or `None` if there are no
    /// entries.
    pub fn span(&self) -> Option<Span> {
        let ends = self.each_stretch().filter_map(|stretch| {
            let (first, last) =
                (self.entries.get(stretch.start)?, self.entries.get(stretch.end - 1)?);
            Some(Span { from: first.captured_at, to: last.captured_at })
        });
        ends.reduce(|all, one| Span { from: all.from.min(one.from), to: all.to.max(one.to) })
    }

    /// Returns true if all entries from `time` on are present. Entries of earlier runs arrive
    /// newest first. `run` is the current run, which began at `began` by the current clock.
    pub fn is_whole_from(&self, time: SystemTime, run: u64, began: SystemTime) -> bool {
        let reaches = |oldest: &Entry| oldest.id.run < run && oldest.captured_at <= time;
        time >= began || self.entries.front().is_some_and(reaches)
    }

    /// Returns the entries of a range. `run` is the current run.
    pub fn entries_in(&self, range: &TimeRange, run: u64) -> RangeEntries<'_> {
        let TimeRange { span, in_run } = *range;
        let mut ranges: Vec<Range<usize>> = Vec::new();
        // Selects by UTC in every stretch, up to `end`.
        let mut by_utc = |end: usize| {
            for Range { start, end } in self.each_stretch().map(|s| s.start..s.end.min(end)) {
                let from = self.first(start..end, |entry| entry.captured_at < span.from);
                let to = self.first(from..end, |entry| entry.captured_at < span.to);
                ranges.push(from..to);
            }
        };
        match in_run {
            None => by_utc(self.entries.len()),
            Some(RunRange { from, to }) => {
                let place = |time: Duration| {
                    self.first(0..self.entries.len(), |e| (e.id.run, e.monotonic) < (run, time))
                };
                let begin = place(from.unwrap_or_default());
                if from.is_none() {
                    by_utc(begin);
                }
                ranges.push(begin..place(to));
            }
        }
        ranges.retain(|range| !range.is_empty());
        RangeEntries { entries: &self.entries, ranges }
    }

    /// Returns the positions after the first one of the range before which something may be missing.
    pub(super) fn breaks_in(&self, range: &Range<usize>) -> impl Iterator<Item = usize> {
        let id = |at: usize| self.entries.get(at).map(|entry| entry.id);
        let (first, last) = (id(range.start), id(range.end - 1));
        let from = self.breaks.partition_point(|id| Some(*id) <= first);
        let to = self.breaks.partition_point(|id| Some(*id) <= last);
        (from..to.max(from)).filter_map(|at| self.position(*self.breaks.get(at)?))
    }

    /// Returns the stretches in order; none is empty.
    fn each_stretch(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let first = self.entries.get(start)?.id;
            let next = self.stretches.partition_point(|id| *id <= first);
            let end = match self.stretches.get(next) {
                Some(next) => self.first(start..self.entries.len(), |entry| entry.id < *next),
                None => self.entries.len(),
            };
            Some(std::mem::replace(&mut start, end)..end)
        })
    }

    /// Returns the first position in the range whose entry does not satisfy `are`. The entries that
    /// do must come first.
    fn first(&self, within: Range<usize>, are: impl Fn(&Entry) -> bool) -> usize {
        let Range { start: mut low, end: mut high } = within;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entries.get(middle) {
                Some(entry) if are(entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::ring::tests::{RUN, address, at, check, entry, limits};
    use super::super::{DiskState, Residency};
    use super::*;
    use crate::frame::FrameId;
    use crate::run_clock::Moment;

    pub fn found(ring: &Ring, from: u64, to: u64) -> Vec<(u64, u64)> {
        let span = Span { from: at(from), to: at(to) };
        let section = ring.entries_in(&span.into(), RUN);
        section.inside().map(|entry| (entry.id.run, entry.id.number)).collect()
    }

    #[test]
    fn a_span_is_half_open() {
        let mut ring = Ring::new(limits(60_000, 1 << 20, 0));
        for number in 0..10 {
            ring.push(entry(number, number * 1000, 0));
        }
        assert_eq!(found(&ring, 3000, 6000), [(RUN, 3), (RUN, 4), (RUN, 5)]);
        assert_eq!(found(&ring, 3001, 3999), []);
        assert_eq!(ring.span(), Some(Span { from: at(0), to: at(9000) }));
    }

    #[test]
    fn frames_of_1970_do_not_replace_frames_still_on_disk() {
        let mut ring = Ring::new(limits(60_000, 1 << 20, 1 << 20));
        ring.push(entry(0, 1000, 0));
        let began = at(9_000_000);
        assert!(!ring.is_whole_from(at(8_000_000), RUN, began));
        assert!(ring.is_whole_from(began, RUN, began));
        ring.restore(vec![Entry {
            id: FrameId { run: 3, number: 0 },
            residency: Residency::Disk,
            disk_state: DiskState::At(address(1)),
            ..entry(0, 8_000_000, 0)
        }]);
        assert!(ring.is_whole_from(at(8_000_000), RUN, began));
        assert!(!ring.is_whole_from(at(7_999_999), RUN, began));
    }

    #[test]
    fn a_clock_set_forward_two_weeks_keeps_the_hot_tier() {
        let mut ring = Ring::new(limits(60_000, 1 << 20, 1 << 20));
        let fortnight = 14 * 24 * 3_600_000;
        for number in 0..40 {
            let set = if number < 20 { 0 } else { fortnight };
            ring.push(Entry {
                captured_at: at(number * 500 + set),
                ..entry(number, number * 500, 0)
            });
        }
        assert_eq!((ring.usage().hot.frames, ring.usage().evicted), (40, 0));
        // After the clock is corrected, the frames from in between are still there.
        for number in 40..60 {
            ring.push(entry(number, number * 500, 0));
        }
        assert_eq!((ring.usage().hot.frames, ring.usage().evicted), (60, 0));
        assert_eq!(found(&ring, 0, 40_000).len(), 40);
        assert_eq!(found(&ring, fortnight, fortnight + 40_000).len(), 20);
    }

    #[test]
    fn recent_frames_are_found_whatever_the_clock_did() {
        let mut ring = Ring::new(limits(1 << 40, 1 << 20, 1 << 20));
        let hour = 3_600_000;
        // The clock is set back by an hour at 5 s, and forward again at 8 s.
        let utc = |monotonic| {
            2 * hour + monotonic - if (5000..8000).contains(&monotonic) { hour } else { 0 }
        };
        let mut recent = |monotonic: u64| {
            let captured_at = at(utc(monotonic));
            ring.push(Entry { captured_at, ..entry(monotonic / 500, monotonic, 0) });
            let now =
                Moment { monotonic: Duration::from_millis(monotonic + 250), utc: captured_at };
            let last = Duration::from_secs(3);
            let range = TimeRange::ending(now, Span { from: captured_at - last, to: captured_at });
            let section = ring.entries_in(&range, RUN);
            section.inside().map(|entry| entry.id.number).collect::<Vec<_>>()
        };
        for number in 0..30u64 {
            let six: Vec<_> = (number.saturating_sub(5)..=number).collect();
            assert_eq!(recent(number * 500), six);
        }
    }

    /// An event of the clocks or the daemon between two frames.
    #[derive(Clone, Debug)]
    enum Fate {
        Nothing,
        /// The host's clock is set to this many seconds since 1970.
        Set(u64),
        /// A run ends, and another begins with the clock at this many seconds since 1970.
        Restart(u64),
    }

    fn fates() -> impl Strategy<Value = Vec<Fate>> {
        let clock = prop_oneof![0u64..100, 1000u64..100_000, 4_070_000_000u64..4_070_100_000];
        let fate = prop_oneof![
            10 => Just(Fate::Nothing),
            1 => clock.clone().prop_map(Fate::Set),
            1 => clock.prop_map(Fate::Restart),
        ];
        prop::collection::vec(fate, 1..120)
    }

    proptest! {
        #[test]
        fn no_clock_hides_a_frame(fates in fates(), hot in 1usize..80) {
            let size = entry(0, 0, 0).bytes();
            let new = || Ring::new(limits(1 << 50, hot * size, 1 << 30));
            let mut ring = new();
            let (mut run, mut number, mut monotonic, mut utc) = (1, 0, 0, 50_000_000);
            let mut pushed: Vec<(FrameId, SystemTime)> = Vec::new();
            for fate in fates {
                match fate {
                    Fate::Nothing => {}
                    Fate::Set(seconds) => utc = seconds * 1000,
                    Fate::Restart(seconds) => {
                        utc = seconds * 1000;
                        run = (run + 1).max(utc);
                        (number, monotonic) = (0, 3000);
                        // All frames were on disk.
                        let on_disk = |entry: &Entry| Entry {
                            residency: Residency::Disk,
                            disk_state: DiskState::At(address(1)),
                            ..entry.clone()
                        };
                        let kept: Vec<_> = ring.entries.iter().map(on_disk).collect();
                        ring = new();
                        // The newest are restored first, as they are read from the disk.
                        for part in kept.chunks(7).rev() {
                            ring.restore(part.to_vec());
                        }
                    }
                }
                (monotonic, utc) = (monotonic + 500, utc + 500);
                let id = FrameId { run, number };
                let disk_state = DiskState::At(address(1));
                ring.push(Entry { id, disk_state, captured_at: at(utc), ..entry(number, monotonic, 0) });
                pushed.push((id, at(utc)));
                number += 1;
            }
            check(&ring)?;
            prop_assert_eq!(ring.entries.len(), pushed.len());
            let everything = Span { from: at(0), to: at(1 << 50) };
            let order: Vec<_> =
                ring.entries_in(&everything.into(), run).inside().map(|entry| entry.id).collect();
            prop_assert_eq!(order, pushed.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            for (id, captured_at) in pushed {
                prop_assert!(ring.get(id).is_some());
                let around = Span { from: captured_at, to: captured_at + Duration::from_nanos(1) };
                let section = ring.entries_in(&around.into(), run);
                prop_assert!(section.inside().any(|entry| entry.id == id), "{:?} is hidden", id);
                prop_assert!(section.inside().all(|entry| entry.captured_at == captured_at));
            }
        }
    }
}
