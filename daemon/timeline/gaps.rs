//! Finds where frames are missing in a range, and why. The frames before and after a gap show the
//! cause.

use std::time::{Duration, SystemTime};

use super::lookup::RangeEntries;
use super::ring::{between, clock_was_set};
use super::{Entry, Period, Ring, RunPosition, TimeRange};
use crate::event::{Gap, GapCause};
use crate::frame::{FrameId, Span, difference, shift};

/// Returns the gaps in order of time. `skips_first` is true if frames before the section were left
/// out, because they are not hot.
pub(super) fn gaps(
    ring: &Ring,
    range: &TimeRange,
    section: &RangeEntries<'_>,
    period: Period,
    position: RunPosition,
    skips_first: bool,
) -> Vec<Gap> {
    let mut walk = Walk {
        ring,
        section,
        range,
        period,
        position,
        gaps: Vec::new(),
        outside: Vec::new(),
        there: Vec::new(),
        follows: false,
        edge: range.span.from,
        seen: None,
        skipped: skips_first,
    };
    let is_indexed = ring.usual_step <= period.gap();
    for range in section.ranges() {
        walk.arrive(range.start);
        if !is_indexed {
            (range.start + 1..range.end).for_each(|at| walk.arrive(at));
            continue;
        }
        for at in ring.breaks_in(range) {
            walk.pass_to(at - 1);
            walk.arrive(at);
        }
        walk.pass_to(range.end - 1);
    }
    walk.leave();
    let mut gaps = walk.gaps;
    let outside = walk.outside.into_iter();
    gaps.extend(walk.there.into_iter().fold(outside.collect(), |gaps: Vec<Gap>, there| {
        gaps.iter().flat_map(|gap| without(gap, there, period)).collect()
    }));
    gaps.sort_by_key(|gap| gap.span.from);
    gaps
}

/// Returns the rest of a gap after frames are taken out of it.
fn without(gap: &Gap, there: Span, period: Period) -> impl Iterator<Item = Gap> {
    let Gap { span, cause } = *gap;
    let before = Span { from: span.from, to: span.to.min(there.from) };
    let behind = Span { from: span.from.max(there.to), to: span.to };
    let apart = there.to <= span.from || span.to <= there.from;
    let left = if apart { [Some(span), None] } else { [Some(before), Some(behind)] };
    let least = if apart { 0 } else { period.gap().as_nanos() as i128 };
    let left = left.into_iter().flatten().filter(move |s| difference(s.from, s.to) > least);
    left.map(move |span| Gap { span, cause })
}

struct Walk<'a> {
    ring: &'a Ring,
    section: &'a RangeEntries<'a>,
    range: &'a TimeRange,
    period: Period,
    position: RunPosition,
    /// Gaps between frames that follow each other in the ring.
    gaps: Vec<Gap>,
    /// Gaps before the first frame of a stretch and after the last frame of all. Another stretch
    /// may have frames there.
    outside: Vec<Gap>,
    /// Span from the first to the last frame of each stretch.
    there: Vec<Span>,
    /// True if the current position is between frames that follow each other.
    follows: bool,
    /// The time up to which gaps are known.
    edge: SystemTime,
    /// The entry at the edge, or `None` if the range begins there.
    seen: Option<usize>,
    /// True if entries after the edge were skipped because they are not hot.
    skipped: bool,
}

impl Walk<'_> {
    /// Examines the time from the edge to this entry.
    fn arrive(&mut self, at: usize) {
        let Some(next) = self.section.get(at) else { return };
        let (edge, to) = (self.edge, self.time_of(next));
        self.follows = self.seen.is_some_and(|seen| seen + 1 == at || self.skipped);
        let before = at.checked_sub(1).and_then(|at| self.section.get(at));
        let left = if self.skipped { Some(GapCause::Evicted) } else { next.left_before };
        match (before, left) {
            (_, Some(cause)) => {
                self.add(edge, to, cause);
            }
            (Some(before), None) if before.id.run == next.id.run => {
                let cause = self.lost(Some(before.id), next.id);
                if clock_was_set(before, next) || self.seen.is_some_and(|seen| seen + 1 != at) {
                    self.over_a_step(at, before, next, cause);
                } else if self.seen.is_none() || self.is_long(between(before, next)) {
                    self.add(edge, to, cause);
                }
            }
            _ => {
                let cause = self.lost(None, next.id);
                let started = began(next, to);
                if to > edge {
                    self.over_a_start(edge, started, to, cause);
                } else {
                    // The clock was set back during the restart.
                    self.add_step_before(to, started, cause);
                }
            }
        }
        match self.there.last_mut() {
            Some(there) if self.follows && edge < to => there.to = to,
            _ => self.there.push(Span { from: to, to }),
        }
        (self.edge, self.seen, self.skipped) = (to, Some(at), false);
    }

    /// Moves on to this entry. Nothing is missing between it and the edge.
    fn pass_to(&mut self, at: usize) {
        let Some(entry) = self.section.get(at).filter(|_| self.seen != Some(at)) else { return };
        let to = self.time_of(entry);
        match self.there.last_mut() {
            Some(there) => there.to = there.to.max(to),
            None => self.there.push(Span { from: to, to }),
        }
        (self.edge, self.seen) = (to, Some(at));
    }

    /// Examines the time from the edge to the range's end.
    fn leave(&mut self) {
        let (edge, mut to) = (self.edge, self.range.span.to);
        self.follows = false;
        if self.range.in_run.is_none() {
            // A clock that was set back has shown later times than now.
            to = to.min(self.position.now.utc.max(edge));
        }
        let Some(end) = self.section.end() else { return };
        let last = end.checked_sub(1).and_then(|at| self.section.get(at));
        let after = self.section.get(end);
        let left = match after {
            _ if self.skipped => Some(GapCause::Evicted),
            Some(after) => after.left_before,
            None => self.ring.newest_were_deleted.then_some(GapCause::Deleted),
        };
        if let Some(cause) = left {
            self.add(edge, to, cause);
            return;
        }
        match (last, after) {
            (Some(last), Some(after)) if last.id.run == after.id.run => {
                let cause = self.lost(Some(last.id), after.id);
                if clock_was_set(last, after) {
                    let real = shift(edge, between(last, after)).clamp(edge, to);
                    let from = if self.add(edge, real, cause) { real } else { edge };
                    self.add(from, to, GapCause::Clock);
                } else {
                    self.add(edge, to, cause);
                }
            }
            (_, Some(after)) if after.captured_at < edge => {
                self.add(edge, to, GapCause::BeforeStart);
            }
            (_, Some(after)) => {
                let cause = self.lost(None, after.id);
                self.over_a_start(edge, began(after, after.captured_at), to, cause);
            }
            (Some(last), None) if last.id.run == self.position.next.run => {
                let cause = self.lost(Some(last.id), self.position.next);
                self.add(edge, to, cause);
            }
            (_, None) => {
                let cause = self.lost(None, self.position.next);
                self.over_a_start(edge, self.position.now.utc_at(Duration::ZERO), to, cause);
            }
        }
    }

    /// Adds the gaps between two frames of a run if a clock was set between them.
    fn over_a_step(&mut self, at: usize, before: &Entry, next: &Entry, cause: GapCause) {
        let (edge, to) = (self.edge, self.time_of(next));
        let real = between(before, next);
        if self.range.in_run.is_some() || to <= edge {
            return self.add_step_before(to, shift(to, -real), cause);
        }
        let mut from = edge;
        let in_run = |at: usize| self.section.get(at).is_some_and(|e| e.id.run == next.id.run);
        if !self.seen.is_some_and(in_run) {
            // Frames of this run from before the step have other times.
            let started = began(next, to).clamp(edge, to);
            self.add(edge, started, GapCause::BeforeStart);
            from = started;
        }
        if self.seen.is_some_and(|seen| seen + 1 == at) {
            let real = shift(edge, real).clamp(from, to);
            if self.add(from, real, cause) {
                from = real;
            }
        }
        if from < to {
            self.note(from, to, GapCause::Clock);
        }
    }

    /// Adds a clock step in the last period before `to`. Frames missing between `from` and that
    /// period have a cause of their own.
    fn add_step_before(&mut self, to: SystemTime, from: SystemTime, cause: GapCause) {
        let from = from.max(self.range.span.from).min(to);
        let step = shift(to, -(self.period.0.as_nanos() as i128)).max(from);
        self.add(from, step, cause);
        if step < to {
            let span = Span { from: step, to };
            self.gaps.push(Gap { span, cause: GapCause::Clock });
        }
    }

    /// Adds the gaps between two frames if the daemon was started between them.
    fn over_a_start(
        &mut self,
        edge: SystemTime,
        started: SystemTime,
        to: SystemTime,
        cause: GapCause,
    ) {
        let started = started.clamp(edge, to.max(edge));
        let before = self.add(edge, started, GapCause::BeforeStart);
        let after = self.add(started, to, cause);
        if !before && !after {
            self.add(edge, to, GapCause::BeforeStart);
        }
    }

    /// Adds a gap if it is longer than jitter. Returns true if it was added.
    fn add(&mut self, from: SystemTime, to: SystemTime, cause: GapCause) -> bool {
        let long = self.is_long(difference(from, to));
        if long {
            self.note(from, to, cause);
        }
        long
    }

    fn note(&mut self, from: SystemTime, to: SystemTime, cause: GapCause) {
        let gap = Gap { span: Span { from, to }, cause };
        if self.follows { self.gaps.push(gap) } else { self.outside.push(gap) }
    }

    fn is_long(&self, nanoseconds: i128) -> bool {
        nanoseconds > self.period.gap().as_nanos() as i128
    }

    /// Returns why frames are missing before a frame of a run. `before` is the previous one, or
    /// `None` at the run's start.
    fn lost(&self, before: Option<FrameId>, next: FrameId) -> GapCause {
        let first = before.map_or(0, |before| before.number + 1);
        let missing = next.number.saturating_sub(first);
        let corrupt = self.ring.corrupt_between(FrameId { number: first, ..next }, next);
        match missing {
            0 => GapCause::CameraDown,
            _ if 2 * corrupt >= missing => GapCause::Corrupt,
            _ => GapCause::Overload,
        }
    }

    fn time_of(&self, entry: &Entry) -> SystemTime {
        self.range.time_of(entry, self.position.next.run)
    }
}

/// Returns the start of the entry's run, by the clock that shows `time` for the entry.
fn began(entry: &Entry, time: SystemTime) -> SystemTime {
    shift(time, -(entry.monotonic.as_nanos() as i128))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ring::tests::{RUN, at, entry, id, limits};
    use super::super::ring::{DiskAddress, DiskState, Residency};
    use super::super::{Tiers, select};
    use super::*;
    use crate::run_clock::Moment;

    const HOUR: u64 = 3_600_000;

    fn keeps_all() -> Ring {
        Ring::new(limits(1 << 50, 1 << 30, 1 << 30))
    }

    /// Creates a ring of frames, each given as number, time of the run and UTC.
    fn ring(frames: &[(u64, u64, u64)]) -> Ring {
        let mut ring = keeps_all();
        for (number, monotonic, utc) in frames {
            ring.push(Entry { captured_at: at(*utc), ..entry(*number, *monotonic, 0) });
        }
        ring
    }

    /// Creates two frames per second until `end`, with numbers and times from 0.
    fn frames(end: u64, utc: impl Fn(u64) -> u64) -> Vec<(u64, u64, u64)> {
        (0..end / 500).map(|number| (number, number * 500, utc(number * 500))).collect()
    }

    fn gaps_of(ring: &Ring, range: impl Into<TimeRange>) -> Vec<(GapCause, u64, u64)> {
        let newest = ring.newest().expect("a frame");
        let number = newest.id.number + 1;
        let now = Moment { monotonic: newest.monotonic, utc: newest.captured_at };
        let now = now.later(Duration::from_millis(250));
        let position = RunPosition { next: FrameId { number, ..newest.id }, now };
        let plan = "4:slowfast-slow_2frms_concat-fast_1x1".parse().expect("a plan");
        let selection =
            select(ring, range.into(), Period::of_rate(2.0), position, &plan, Tiers::All);
        let milliseconds = |time| (difference(at(0), time) / 1_000_000) as u64;
        let shown = |gap: &Gap| (gap.cause, milliseconds(gap.span.from), milliseconds(gap.span.to));
        selection.expect("frames").gaps().iter().map(shown).collect()
    }

    fn between(from: u64, to: u64) -> Span {
        Span { from: at(from), to: at(to) }
    }

    /// Returns the window of the run that ends just after the newest frame.
    fn window(ring: &Ring, length: u64) -> TimeRange {
        let newest = ring.newest().expect("a frame");
        let by = Moment { monotonic: newest.monotonic, utc: newest.captured_at };
        let to = newest.monotonic + Duration::from_millis(250);
        TimeRange::in_run(to, Duration::from_millis(length), by)
    }

    #[test]
    fn a_clock_set_forward_leaves_times_out() {
        let ring = ring(&frames(20_000, |t| HOUR + t + if t < 10_000 { 0 } else { HOUR }));
        let step = (GapCause::Clock, HOUR + 9500, 2 * HOUR + 10_000);
        assert_eq!(gaps_of(&ring, between(HOUR, 2 * HOUR + 20_000)), [step]);
        assert_eq!(gaps_of(&ring, between(HOUR, HOUR + 9000)), []);
        // The window has its real length and is reported by the clock at its end.
        let step = (GapCause::Clock, 2 * HOUR + 9500, 2 * HOUR + 10_000);
        let window = window(&ring, 19_750);
        assert_eq!(window.span, between(2 * HOUR, 2 * HOUR + 19_750));
        assert_eq!(gaps_of(&ring, window), [step]);
    }

    #[test]
    fn a_clock_set_back_repeats_times() {
        let ring = ring(&frames(20_000, |t| 2 * HOUR + t - if t < 10_000 { 0 } else { HOUR }));
        let step = (GapCause::Clock, HOUR + 9500, HOUR + 10_000);
        assert_eq!(gaps_of(&ring, window(&ring, 20_000)), [step]);
        assert_eq!(gaps_of(&ring, between(HOUR + 9500, HOUR + 19_750)), [step]);
        // No clock has shown the times in between.
        let both = between(HOUR + 9500, 2 * HOUR + 9750);
        let never = (GapCause::BeforeStart, HOUR + 19_500, 2 * HOUR);
        assert_eq!(gaps_of(&ring, both), [step, never]);
        assert_eq!(gaps_of(&ring, between(2 * HOUR, 2 * HOUR + 9750)), []);
    }

    #[test]
    fn a_camera_that_was_down_while_the_clock_was_set_was_down_as_well() {
        let utc = |t| 2 * HOUR + t + if t < 10_000 { 0 } else { HOUR };
        let mut seen = frames(30_000, utc);
        seen.retain(|(_, t, _)| !(5000..15_000).contains(t));
        seen.iter_mut().zip(0..).for_each(|(frame, number)| frame.0 = number);
        let on = ring(&seen);
        let gap = |cause, from, to| (cause, from, to);
        assert_eq!(
            gaps_of(&on, between(2 * HOUR, 4 * HOUR)),
            [
                gap(GapCause::CameraDown, 2 * HOUR + 4500, 2 * HOUR + 15_000),
                gap(GapCause::Clock, 2 * HOUR + 15_000, 3 * HOUR + 15_000),
            ]
        );
        assert_eq!(
            gaps_of(&on, window(&on, 30_000)),
            [
                gap(GapCause::CameraDown, 3 * HOUR + 4500, 3 * HOUR + 14_500),
                gap(GapCause::Clock, 3 * HOUR + 14_500, 3 * HOUR + 15_000),
            ]
        );
    }

    fn earlier(run: u64, number: u64, utc: u64) -> Entry {
        Entry {
            id: FrameId { run, number },
            residency: Residency::Disk,
            disk_state: DiskState::At(DiskAddress { segment: 1, offset: 0, length: 9 }),
            ..entry(number, utc, 0)
        }
    }

    #[test]
    fn after_a_start_in_1970_earlier_frames_and_the_step_are_found() {
        let now = 500_000 * HOUR;
        // The earlier run ended an hour before this one began. NTP set the clock 20 s after that.
        let mut ring = ring(&frames(40_000, |t| if t < 20_000 { 7000 + t } else { now + t }));
        let end = now - HOUR;
        ring.restore((0..100).map(|n| earlier(3, n, end - 50_000 + n * 500)).collect());
        let gaps = gaps_of(&ring, between(end - 50_000, now + 39_750));
        let clock = (GapCause::Clock, now, now + 20_000);
        assert_eq!(gaps, [(GapCause::BeforeStart, end - 500, now), clock]);
        // The frames of 1970 are found at their own times.
        assert_eq!(gaps_of(&ring, between(7000, 26_750)), []);
        // Recent frames reach back across the step.
        let newest = Moment { monotonic: Duration::from_millis(39_750), utc: at(now + 39_750) };
        let recent = TimeRange::ending(newest, between(now + 9750, now + 39_750));
        assert_eq!(gaps_of(&ring, recent), [(GapCause::Clock, now + 19_500, now + 20_000)]);
    }

    #[test]
    fn a_start_with_a_clock_that_is_behind_is_a_step() {
        // The earlier run ended at one hour; this one began ten minutes before that.
        let begun = HOUR - 600_000;
        let mut ring = keeps_all();
        for number in 0..20 {
            let (monotonic, utc) = (5000 + number * 500, begun + 5000 + number * 500);
            ring.push(Entry { captured_at: at(utc), ..entry(number, monotonic, 0) });
        }
        ring.restore((0..1600).map(|n| earlier(3, n, HOUR - 800_000 + n * 500)).collect());
        assert_eq!(
            gaps_of(&ring, between(begun - 100_000, begun + 14_750)),
            [(GapCause::Clock, begun + 4500, begun + 5000),]
        );
    }

    #[test]
    fn undecodable_frames_are_a_gap_of_their_own() {
        let mut ring = ring(&[(0, 0, 0), (1, 500, 500), (7, 3500, 3500), (8, 4000, 4000)]);
        for number in 2..7 {
            ring.corrupt(id(number));
        }
        assert_eq!(gaps_of(&ring, between(0, 4250)), [(GapCause::Corrupt, 500, 3500)]);
        // Most of the missing frames were dropped because of overload.
        let mut ring = keeps_all();
        ring.push(entry(0, 0, 0));
        ring.corrupt(id(3));
        ring.push(entry(8, 4000, 0));
        assert_eq!(gaps_of(&ring, between(0, 4250)), [(GapCause::Overload, 0, 4000)]);
    }

    proptest! {
        #[test]
        fn each_clock_step_is_a_gap_and_nothing_else_is(
            steps in prop::collection::vec(prop::option::weighted(0.1, -100_000i64..100_000), 2..60),
        ) {
            let mut ring = keeps_all();
            let (mut utc, mut number) = (10 * HOUR, 0);
            let mut set = 0;
            for step in &steps {
                // A correction that is not a step is followed slowly.
                let small = |step: i64| if step.unsigned_abs() > 1500 { step } else { step / 100 };
                let step = step.filter(|_| number > 0).map_or(0, small);
                set += usize::from(step.unsigned_abs() > 1500);
                utc = utc.saturating_add_signed(step) + 500;
                ring.push(Entry { captured_at: at(utc), ..entry(number, number * 500, 0) });
                number += 1;
            }
            let window = window(&ring, number * 500);
            let gaps = gaps_of(&ring, window);
            prop_assert_eq!(gaps.iter().filter(|gap| gap.0 == GapCause::Clock).count(), set);
            prop_assert_eq!(gaps.len(), set);
            prop_assert!(gaps.iter().all(|gap| gap.2 - gap.1 <= 500), "{:?}", gaps);
        }

        #[test]
        fn gaps_lie_within_the_span_whatever_the_clock_did(
            steps in prop::collection::vec((100u64..4000, -20_000i64..20_000, any::<bool>()), 2..60),
            (from, length) in (0u64..60_000, 1u64..120_000),
            restored in 0u64..20,
        ) {
            let mut ring = keeps_all();
            let (mut utc, mut monotonic) = (30_000, 0);
            for (number, (after, step, steps)) in (0..).zip(steps) {
                monotonic += after;
                utc = (utc + after).saturating_add_signed(if steps { step } else { 0 });
                ring.push(Entry { captured_at: at(utc), ..entry(number, monotonic, 0) });
            }
            ring.restore((0..restored).map(|n| earlier(RUN - 1, n, 1000 * n)).collect());
            let span = between(from, from + length);
            if ring.entries_in(&span.into(), RUN).end().is_some() {
                let gaps = gaps_of(&ring, span);
                for (cause, start, end) in gaps {
                    prop_assert!(start < end, "{:?}", cause);
                    prop_assert!(from <= start && end <= from + length, "{:?}", cause);
                }
            }
        }
    }
}
