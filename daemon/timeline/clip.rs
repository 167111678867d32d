//! Selects the frames of a span for the model, and computes how much of the span they cover.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::gaps::gaps;
use super::{Entry, Period, Ring, RunPosition, Tiers, TimeRange};
use crate::event::{Coverage, FrameReference, Gap, GapCause};
use crate::frame::{Clock, FrameId, Span, shift};
use crate::slowfast::{FrameTokens, Plan, sampling};

/// The sampled frames of a span. Some may have to be encoded again.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Frames in the order of capture; never empty.
    pub frames: Vec<Entry>,
    /// Number of frames from which these were sampled.
    pub available: usize,
    /// Span from the earliest to the latest of those frames, by the range's clock.
    pub available_span: Span,
    range: TimeRange,
    run: u64,
    gaps: Vec<Gap>,
    frames_expected: u32,
}

/// A selected frame's tokens and its JPEG, as far as they are in memory.
#[derive(Clone, Debug, Default)]
pub struct FrameData {
    pub tokens: Option<Arc<FrameTokens>>,
    pub jpeg: Option<Arc<[u8]>>,
}

/// A frame's tokens for the model.
#[derive(Clone, Debug)]
pub struct ClipFrame {
    pub tokens: Arc<FrameTokens>,
    pub jpeg: Option<Arc<[u8]>>,
    /// True if the frame was re-encoded from its JPEG. The tokens differ slightly from the
    /// original.
    pub reencoded: bool,
}

#[derive(Clone, Debug)]
pub struct Clip {
    /// Frames in the order of capture; never empty.
    pub frames: Vec<ClipFrame>,
    pub references: Vec<FrameReference>,
    pub coverage: Coverage,
}

/// Samples the plan's frames evenly from the range (arXiv 2407.15841, section 3.2). Returns `None`
/// if it has no frames.
pub fn select(
    ring: &Ring,
    range: TimeRange,
    period: Period,
    position: RunPosition,
    plan: &Plan,
    tiers: Tiers,
) -> Option<Selection> {
    let run = position.next.run;
    let all = ring.entries_in(&range, run);
    let skips_first = tiers == Tiers::Hot
        && all.ranges().first().is_some_and(|range| range.start < ring.first_hot());
    let section = match tiers {
        Tiers::All => all,
        Tiers::Hot => all.starting_at(ring.first_hot()),
    };
    let available = section.len();
    let picked = sampling::pick(available, plan.frames);
    let frames: Vec<Entry> = picked.into_iter().filter_map(|i| section.nth(i)).cloned().collect();
    let available_span = around(section.ends().map(|entry| range.time_of(entry, run)))?;
    let gaps = gaps(ring, &range, &section, period, position, skips_first);
    let frames_expected = period.frames_in(range.span.length()).min(plan.frames) as u32;
    Some(Selection { frames, available, available_span, range, run, gaps, frames_expected })
}

/// Returns the span from the earliest to the latest of these times, or `None` if there are none.
fn around(times: impl Iterator<Item = SystemTime>) -> Option<Span> {
    times
        .map(|time| Span { from: time, to: time })
        .reduce(|all, one| Span { from: all.from.min(one.from), to: all.to.max(one.to) })
}

/// Returns the clock of the frames' times: the camera's if it gave all of them.
fn clock_of<'a>(frames: impl IntoIterator<Item = &'a Entry>) -> Clock {
    let from_camera = frames.into_iter().all(|entry| entry.clock == Clock::Camera);
    if from_camera { Clock::Camera } else { Clock::Host }
}

impl Selection {
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Replaces the sample by those of these frames that still exist. Returns `None` if none does.
    pub fn just(mut self, ring: &Ring, frames: &[FrameId]) -> Option<Selection> {
        self.frames = frames.iter().filter_map(|id| ring.get(*id).cloned()).collect();
        if self.frames.is_empty() { None } else { Some(self) }
    }

    /// Samples the frames evenly again, to at most `most`.
    pub fn sample(mut self, most: usize) -> Selection {
        let picked = sampling::pick(self.frames.len(), most);
        self.frames = picked.into_iter().map(|at| self.frames[at].clone()).collect();
        self.frames_expected = self.frames_expected.min(most as u32);
        self
    }

    /// Returns what is in memory of each frame.
    pub fn data(&self) -> Vec<FrameData> {
        let data = |entry: &Entry| FrameData {
            tokens: entry.tokens().cloned(),
            jpeg: entry.jpeg().cloned(),
        };
        self.frames.iter().map(data).collect()
    }

    /// Returns the share of the range that the frames show, whether their tokens are in memory or
    /// not.
    pub fn coverage(&self) -> Coverage {
        let times = self.frames.iter().map(|entry| self.range.time_of(entry, self.run));
        Coverage {
            frames_expected: self.frames_expected,
            frames_used: self.frames.len() as u32,
            covered_span: around(times),
            gaps: self.gaps.clone(),
            clock_source: clock_of(&self.frames),
        }
    }

    /// Builds the clip from the data of each frame, in the order of `frames`. Frames without
    /// tokens have left the buffer in the meantime, which is a gap. Returns `None` if no frame has
    /// tokens.
    pub fn clip(mut self, data: Vec<FrameData>, plan: &Plan) -> Option<Clip> {
        let (range, run) = (self.range, self.run);
        let Span { from: mut edge, to } = range.span;
        // Span of the frames without tokens since the last frame that has them.
        let mut missing: Option<Span> = None;
        let mut seen = Vec::with_capacity(data.len());
        let mut gap = |missing: Option<Span>, edge: SystemTime, to: SystemTime| {
            let Some(there) = missing else { return };
            // A clock was set back in between, so the missing frames are not between the other two.
            let span = if edge < to { Span { from: edge, to } } else { there };
            self.gaps.push(Gap { span, cause: GapCause::Evicted });
        };
        for (entry, FrameData { tokens, jpeg }) in self.frames.into_iter().zip(data) {
            let at = range.time_of(&entry, run);
            let Some(tokens) = tokens else {
                let here = Span { from: at, to: shift(at, 1_000_000) };
                missing = Some(missing.map_or(here, |there| Span {
                    from: there.from.min(here.from),
                    to: there.to.max(here.to),
                }));
                continue;
            };
            gap(missing.take(), edge, at);
            edge = at;
            let reencoded = entry.tokens().is_none();
            seen.push((entry, ClipFrame { tokens, jpeg, reencoded }));
        }
        gap(missing, edge, to);
        self.gaps.sort_by_key(|gap| gap.span.from);
        let covered = around(seen.iter().map(|(entry, _)| range.time_of(entry, run)))?;
        let slow: HashSet<usize> =
            sampling::slow(seen.len(), plan.slow_frames).into_iter().collect();
        let reference = |(at, (entry, _)): (usize, &(Entry, _))| FrameReference {
            id: entry.id,
            captured_at: entry.captured_at,
            slow: slow.contains(&at),
        };
        let coverage = Coverage {
            frames_expected: self.frames_expected,
            frames_used: seen.len() as u32,
            covered_span: Some(covered),
            gaps: self.gaps,
            clock_source: clock_of(seen.iter().map(|(entry, _)| entry)),
        };
        let references = seen.iter().enumerate().map(reference).collect();
        let frames = seen.into_iter().map(|(_, frame)| frame).collect();
        Some(Clip { frames, references, coverage })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Limits;
    use super::super::ring::tests::{at, entry, id, limits};
    use super::super::ring::{DiskAddress, DiskState, Residency};
    use super::*;
    use crate::run_clock::Moment;

    /// Limits for a ring that keeps the last 30 s hot and nothing older.
    const THIRTY_SECONDS: fn() -> Limits = || limits(30_000, 1 << 20, 1 << 20);

    fn ring(frames: &[(u64, u64)]) -> Ring {
        let mut ring = Ring::new(THIRTY_SECONDS());
        for (number, milliseconds) in frames {
            ring.push(entry(*number, *milliseconds, 0));
        }
        ring
    }

    /// Returns the position of a run that began at 0.5 s.
    fn position_at(number: u64) -> RunPosition {
        // The present is later than all times in question.
        let now = Moment { monotonic: Duration::from_secs(1000), utc: at(1_000_500) };
        RunPosition { next: id(number), now }
    }

    fn plan() -> Plan {
        "4:slowfast-slow_2frms_concat-fast_1x1".parse().expect("a plan")
    }

    fn clip_of(ring: &Ring, from: u64, to: u64, position: u64, tiers: Tiers) -> Option<Clip> {
        let span = Span { from: at(from), to: at(to) };
        let selection =
            select(ring, span.into(), Period::of_rate(2.0), position_at(position), &plan(), tiers)?;
        let data = selection.data();
        selection.clip(data, &plan())
    }

    fn clip(ring: &Ring, from: u64, to: u64) -> Clip {
        let position = ring.newest().map_or(0, |entry| entry.id.number + 1);
        clip_of(ring, from, to, position, Tiers::All).expect("frames")
    }

    fn gap(cause: GapCause, from: u64, to: u64) -> Gap {
        Gap { span: Span { from: at(from), to: at(to) }, cause }
    }

    #[test]
    fn a_complete_window_has_no_gap() {
        let frames: Vec<_> = (0..20).map(|i| (i, i * 500)).collect();
        let clip = clip(&ring(&frames), 2000, 6000);
        assert_eq!(clip.coverage.frames_expected, 4);
        assert_eq!(clip.coverage.gaps, []);
        let numbers: Vec<_> = clip.references.iter().map(|f| (f.id.number, f.slow)).collect();
        assert_eq!(numbers, [(5, true), (7, false), (8, true), (10, false)]);
    }

    #[test]
    fn a_gap_names_its_cause() {
        let down = ring(&[(0, 0), (1, 500), (2, 3000), (3, 3500)]);
        assert_eq!(clip(&down, 0, 4000).coverage.gaps, [gap(GapCause::CameraDown, 500, 3000)]);
        let overload = ring(&[(0, 0), (1, 500), (6, 3000), (7, 3500)]);
        assert_eq!(clip(&overload, 0, 4000).coverage.gaps, [gap(GapCause::Overload, 500, 3000)]);
        let tail = ring(&[(0, 0), (1, 500)]);
        assert_eq!(clip(&tail, 0, 4000).coverage.gaps, [gap(GapCause::CameraDown, 500, 4000)]);
        let behind = clip_of(&tail, 0, 4000, 7, Tiers::All).expect("frames");
        assert_eq!(behind.coverage.gaps, [gap(GapCause::Overload, 500, 4000)]);
        // The cause is the same for a range in the past: the frames after it show the cause.
        let past = ring(&[(0, 0), (1, 500), (9, 6000), (10, 6500)]);
        assert_eq!(clip(&past, 0, 4000).coverage.gaps, [gap(GapCause::Overload, 500, 4000)]);
        let past = ring(&[(0, 0), (1, 500), (2, 6000), (3, 6500)]);
        assert_eq!(clip(&past, 0, 4000).coverage.gaps, [gap(GapCause::CameraDown, 500, 4000)]);
        let evicted: Vec<_> = (0..100).map(|i| (i, i * 500)).collect();
        assert_eq!(
            clip(&ring(&evicted), 10_000, 25_000).coverage.gaps,
            [gap(GapCause::Evicted, 10_000, 19_500)]
        );
    }

    #[test]
    fn time_before_the_start_has_its_own_cause() {
        // The run began at 0.5 s, and its first frame arrived at 4 s.
        let restarted = |frames: [u64; 2]| {
            let mut ring = Ring::new(THIRTY_SECONDS());
            for (number, milliseconds) in (0..).zip(frames) {
                let monotonic = Duration::from_millis(milliseconds - 500);
                ring.push(Entry { monotonic, ..entry(number, milliseconds, 0) });
            }
            ring
        };
        let late = restarted([4000, 4500]);
        assert_eq!(clip(&late, 0, 5000).coverage.gaps, [gap(GapCause::CameraDown, 500, 4000)]);
        let mut restarted = restarted([14_000, 14_500]);
        let earlier = |number, milliseconds| Entry {
            id: FrameId { run: 20, number },
            residency: Residency::Disk,
            disk_state: DiskState::At(DiskAddress { segment: 1, offset: 0, length: 9 }),
            ..entry(number, milliseconds, 0)
        };
        restarted.restore(vec![earlier(70, 100), earlier(71, 200)]);
        let span = Span { from: at(0), to: at(15_000) };
        let period = Period(Duration::from_millis(100));
        let selection =
            select(&restarted, span.into(), period, position_at(2), &plan(), Tiers::All);
        assert_eq!(
            selection.expect("frames").gaps,
            [
                gap(GapCause::BeforeStart, 200, 500),
                gap(GapCause::CameraDown, 500, 14_000),
                gap(GapCause::CameraDown, 14_000, 14_500),
                gap(GapCause::CameraDown, 14_500, 15_000),
            ]
        );
    }

    #[test]
    fn frames_without_tokens_are_selected_only_for_re_encoding() {
        let size = entry(0, 0, 0).bytes();
        let mut ring = Ring::new(limits(60_000, 4 * size, 1 << 20));
        for number in 0..10 {
            ring.push(entry(number, number * 500, 0));
        }
        let span = Span { from: at(1000), to: at(5000) };
        let selected = |tiers| {
            select(&ring, span.into(), Period::of_rate(2.0), position_at(10), &plan(), tiers)
                .expect("some")
        };
        let numbers = |selection: &Selection| {
            selection.frames.iter().map(|entry| entry.id.number).collect::<Vec<_>>()
        };
        let all = selected(Tiers::All);
        assert_eq!(numbers(&all), [3, 5, 6, 8]);
        assert_eq!(all.gaps, []);
        let hot = selected(Tiers::Hot);
        assert_eq!(numbers(&hot), [6, 7, 8, 9]);
        assert_eq!(hot.gaps, [gap(GapCause::Evicted, 1000, 3000)]);
        // Frames that could not be encoded again are missing, and a gap reports it.
        let data = all.data();
        assert_eq!(
            data.iter().map(|data| data.tokens.is_some()).collect::<Vec<_>>(),
            [false, false, true, true]
        );
        let clip = all.clip(data, &plan()).expect("two frames");
        assert!(clip.frames.iter().all(|frame| frame.jpeg.is_some()));
        assert_eq!(clip.coverage.gaps, [gap(GapCause::Evicted, 1000, 3000)]);
        assert_eq!((clip.coverage.frames_used, clip.coverage.frames_expected), (2, 4));
        assert_eq!(clip.references.len(), clip.frames.len());
    }

    #[test]
    fn an_empty_ring_has_no_clip() {
        assert!(clip_of(&ring(&[]), 0, 9000, 0, Tiers::All).is_none());
    }

    proptest::proptest! {
        #[test]
        fn a_frame_is_selected_once_and_in_order(
            steps in proptest::collection::vec((1u64..3000, 1u64..4), 1..80),
            (from, length) in (0u64..60_000, 1u64..60_000),
            hot in 1usize..60,
        ) {
            let size = entry(0, 0, 0).bytes();
            let mut ring = Ring::new(limits(1 << 40, hot * size, 1 << 30));
            let (mut now, mut number) = (0, 0);
            for (after, numbers) in steps {
                now += after;
                number += numbers;
                ring.push(entry(number, now, 0));
            }
            let span = Span { from: at(from), to: at(from + length) };
            let selection =
                select(&ring, span.into(), Period::of_rate(1.0), position_at(number + 1), &plan(), Tiers::All);
            let Some(selection) = selection else { return Ok(()) };
            proptest::prop_assert!(selection.frames.len() <= 4);
            for pair in selection.frames.windows(2) {
                proptest::prop_assert!(pair[0].id < pair[1].id);
            }
            proptest::prop_assert!(selection.frames.iter().all(|e| span.contains(e.captured_at)));
            let mut edge = span.from;
            for gap in &selection.gaps {
                proptest::prop_assert!(edge <= gap.span.from && gap.span.from < gap.span.to);
                edge = gap.span.to;
            }
            proptest::prop_assert!(edge <= span.to);
        }
    }
}
