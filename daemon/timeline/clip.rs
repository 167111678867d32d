//! The frames of a span that the model sees, and how much of the span they cover.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::ring::Section;
use super::{Entry, Ring};
use crate::event::{Coverage, FrameRef, Gap, GapCause};
use crate::frame::{Clock, Span};
use crate::slowfast::{Plan, sampling};

/// Time between two frames at the camera's rate.
#[derive(Clone, Copy, Debug)]
pub struct Period(pub Duration);

impl Period {
    pub fn of_rate(fps: f64) -> Period {
        Period(Duration::from_secs_f64(1.0 / fps))
    }

    /// More than this between two frames is a gap: one frame late is jitter.
    fn gap(self) -> Duration {
        self.0.mul_f64(2.5)
    }

    /// Frames at this rate in `length`.
    fn frames_in(self, length: Duration) -> usize {
        (length.as_secs_f64() / self.0.as_secs_f64()).round().max(1.0) as usize
    }
}

#[derive(Clone, Debug)]
pub struct Clip {
    /// In order of time; never empty.
    pub frames: Vec<Arc<Entry>>,
    pub references: Vec<FrameRef>,
    pub coverage: Coverage,
}

/// Samples the plan's frames of the span, evenly (arXiv 2407.15841, section 3.2). Frames with
/// numbers below `came` have come, whether they are in the ring or not. `None`: the span holds no
/// frame.
pub fn select(ring: &Ring, span: Span, period: Period, came: u64, plan: &Plan) -> Option<Clip> {
    let section = ring.span(span);
    let gaps = gaps(span, period, &section, ring.evicted_until(), came);
    let inside = section.inside;
    let picked = sampling::pick(inside.len(), plan.frames);
    let frames: Vec<Arc<Entry>> = picked.into_iter().map(|i| inside[i].clone()).collect();
    let (first, last) = (frames.first()?, frames.last()?);
    let slow: HashSet<usize> = sampling::slow(frames.len(), plan.slow_frames).into_iter().collect();
    let reference = |(at, entry): (usize, &Arc<Entry>)| FrameRef {
        number: entry.number,
        captured_at: entry.captured_at,
        slow: slow.contains(&at),
    };
    let from_camera = frames.iter().all(|entry| entry.clock == Clock::Camera);
    let coverage = Coverage {
        frames_wanted: period.frames_in(span.length()).min(plan.frames) as u32,
        frames_used: frames.len() as u32,
        covered: Some(Span { from: first.captured_at, to: last.captured_at }),
        gaps,
        clock: if from_camera { Clock::Camera } else { Clock::Host },
    };
    Some(Clip { references: frames.iter().enumerate().map(reference).collect(), frames, coverage })
}

/// Where frames are missing in the span, and why: their numbers tell whether they came.
fn gaps(
    span: Span,
    period: Period,
    section: &Section,
    evicted_until: Option<SystemTime>,
    came: u64,
) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let (mut last, mut edge) = (section.before.as_deref(), span.from);
    let mut hole = |last: Option<&Entry>, edge: SystemTime, next: Option<&Entry>| {
        let to = next.map_or(span.to, |next| next.captured_at.min(span.to));
        if to.duration_since(edge).unwrap_or_default() <= period.gap() {
            return;
        }
        let next = next.map_or(came, |next| next.number);
        let evicted = last.is_none() && evicted_until.is_some_and(|until| until >= edge);
        let cause = match last {
            _ if evicted => GapCause::Evicted,
            Some(last) if next > last.number + 1 => GapCause::Overload,
            _ => GapCause::CameraDown,
        };
        gaps.push(Gap { span: Span { from: edge, to }, cause });
    };
    for entry in &section.inside {
        hole(last, edge, Some(entry));
        (last, edge) = (Some(&**entry), entry.captured_at);
    }
    hole(last, edge, section.after.as_deref());
    gaps
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::ring::tests::{at, entry};
    use super::*;

    fn ring(frames: &[(u64, u64)]) -> Ring {
        let mut ring = Ring::new(Limits { age: Duration::from_secs(30), bytes: 1 << 20 });
        for (number, milliseconds) in frames {
            ring.push(entry(*number, *milliseconds, 0));
        }
        ring
    }

    fn plan() -> Plan {
        "4:slowfast-slow_2frms_concat-fast_1x1".parse().expect("a plan")
    }

    fn clip(ring: &Ring, from: u64, to: u64) -> Clip {
        let span = Span { from: at(from), to: at(to) };
        let came = ring.newest().map_or(0, |entry| entry.number + 1);
        select(ring, span, Period::of_rate(2.0), came, &plan()).expect("frames")
    }

    #[test]
    fn a_whole_window() {
        let frames: Vec<_> = (0..20).map(|i| (i, i * 500)).collect();
        let clip = clip(&ring(&frames), 2000, 6000);
        assert_eq!(clip.coverage.frames_wanted, 4);
        assert_eq!(clip.coverage.gaps, []);
        let numbers: Vec<_> = clip.references.iter().map(|f| (f.number, f.slow)).collect();
        assert_eq!(numbers, [(5, true), (7, false), (8, true), (10, false)]);
    }

    #[test]
    fn a_gap_names_its_cause() {
        let down = ring(&[(0, 0), (1, 500), (2, 3000), (3, 3500)]);
        let gap = |cause, from, to| Gap { span: Span { from: at(from), to: at(to) }, cause };
        assert_eq!(clip(&down, 0, 4000).coverage.gaps, [gap(GapCause::CameraDown, 500, 3000)]);
        let overload = ring(&[(0, 0), (1, 500), (6, 3000), (7, 3500)]);
        assert_eq!(clip(&overload, 0, 4000).coverage.gaps, [gap(GapCause::Overload, 500, 3000)]);
        let tail = ring(&[(0, 0), (1, 500)]);
        assert_eq!(clip(&tail, 0, 4000).coverage.gaps, [gap(GapCause::CameraDown, 500, 4000)]);
        let span = Span { from: at(0), to: at(4000) };
        let behind = select(&tail, span, Period::of_rate(2.0), 7, &plan()).expect("frames");
        assert_eq!(behind.coverage.gaps, [gap(GapCause::Overload, 500, 4000)]);
        // The same of a range that has passed: what came behind it tells.
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
    fn nothing_is_nothing() {
        let span = Span { from: at(0), to: at(9000) };
        assert!(select(&ring(&[]), span, Period::of_rate(1.0), 0, &plan()).is_none());
    }
}
