//! Finds the spans without captions, and their causes from the changes of the camera's state.

use std::time::{Duration, SystemTime};

use super::TimelineGap;
use crate::event::{CameraState, CameraStatus, Gap, GapCause};
use crate::frame::Span;
use crate::journal::Bucket;

/// Shortest span that is a gap.
const SHORTEST: Duration = Duration::from_secs(5);

/// A change of a camera's state.
pub struct Change {
    /// The run of the daemon, whose number is the time of its start in milliseconds.
    pub run: u64,
    pub at: SystemTime,
    pub status: CameraStatus,
}

/// Returns the gaps within a span, in order of time. `covered` has the buckets with captions and
/// `changes` the changes of the camera's state before the span's end, both in order of time.
pub fn gaps<'a>(
    span: Span,
    covered: &[&Bucket],
    changes: impl Iterator<Item = &'a Change> + Clone,
) -> Vec<TimelineGap> {
    let shortest = shortest(covered);
    let mut gaps = Vec::new();
    let mut end = span.from;
    for bucket in covered {
        let hole = Span { from: end, to: bucket.covered.from };
        if hole.length() > shortest {
            explain(hole, shortest, changes.clone(), &mut gaps);
        }
        end = end.max(bucket.covered.to);
    }
    // The caption of the newest windows may not be written yet.
    let hole = Span { from: end, to: span.to };
    if hole.length() > 2 * shortest {
        explain(hole, shortest, changes, &mut gaps);
    }
    gaps
}

/// Returns the length above which a span between two windows is a gap: windows may be apart by
/// design, and their usual distance is none.
fn shortest(covered: &[&Bucket]) -> Duration {
    let mut steps: Vec<Duration> = covered
        .windows(2)
        .filter_map(|pair| {
            let length = pair[1].covered.to.duration_since(pair[0].covered.to).ok()?;
            Some(length / u32::try_from(pair[1].captions).ok()?.max(1))
        })
        .collect();
    steps.sort();
    let median = steps.get(steps.len() / 2).copied().unwrap_or_default();
    SHORTEST.max(median.mul_f64(1.5))
}

/// Divides a hole where the camera's state changed, and adds the pieces with their causes.
fn explain<'a>(
    hole: Span,
    shortest: Duration,
    changes: impl Iterator<Item = &'a Change>,
    gaps: &mut Vec<TimelineGap>,
) {
    let mut last: Option<&Change> = None;
    let mut from = hole.from;
    let mut add = |to: SystemTime, last: Option<&Change>| {
        let to = to.clamp(from, hole.to);
        let piece = Span { from, to };
        from = to;
        let (cause, reason) = match last {
            None => (GapCause::BeforeStart, ""),
            Some(change) if change.status.state == CameraState::Live => (GapCause::Overload, ""),
            Some(change) => (GapCause::CameraDown, change.status.reason.as_str()),
        };
        // Connecting takes a moment, and captions begin some time after the camera has become live.
        let is_usual = piece.length() <= shortest
            && last.is_some_and(|last| {
                matches!(last.status.state, CameraState::Live | CameraState::Connecting)
            });
        if piece.length().is_zero() || is_usual {
            return;
        }
        match gaps.last_mut() {
            Some(TimelineGap { gap, reason: known })
                if gap.span.to == piece.from && gap.cause == cause && known == reason =>
            {
                gap.span.to = piece.to;
            }
            _ => {
                let gap = Gap { span: piece, cause };
                gaps.push(TimelineGap { gap, reason: reason.to_owned() });
            }
        }
    };
    for change in changes {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(change.run);
        let is_new_run = last.is_some_and(|last| last.run != change.run);
        if is_new_run && hole.from < start && start < hole.to {
            // A camera that was down stays so. Otherwise, the daemon was not running.
            let is_down = last.is_some_and(|last| last.status.state != CameraState::Live);
            add(start, last.filter(|_| is_down));
            last = None;
        }
        if change.at >= hole.to {
            break;
        }
        if change.at > hole.from {
            add(change.at, last);
        }
        last = Some(change);
    }
    add(hole.to, last);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn bucket(from: u64, to: u64, captions: u64) -> Bucket {
        Bucket { captions, covered: Span { from: at(from), to: at(to) } }
    }

    fn change(run: u64, seconds: u64, state: CameraState) -> Change {
        let reason = if state == CameraState::Live { "" } else { "no route" };
        let status =
            CameraStatus { state, reason: reason.into(), ..CameraStatus::connecting(at(seconds)) };
        Change { run: run * 1000, at: at(seconds), status }
    }

    /// Returns the gaps of the span from 100 s to 200 s.
    fn found(buckets: &[Bucket], changes: &[Change]) -> Vec<(u64, u64, GapCause)> {
        let covered: Vec<_> = buckets.iter().collect();
        let span = Span { from: at(100), to: at(200) };
        let seconds = |time: SystemTime| time.duration_since(at(0)).unwrap().as_secs();
        let gaps = gaps(span, &covered, changes.iter());
        let shown = |TimelineGap { gap, .. }: &TimelineGap| {
            (seconds(gap.span.from), seconds(gap.span.to), gap.cause)
        };
        gaps.iter().map(shown).collect()
    }

    #[test]
    fn a_covered_span_has_no_gap() {
        let live = [change(1, 50, CameraState::Live)];
        let buckets = [bucket(96, 120, 5), bucket(116, 160, 10), bucket(156, 192, 10)];
        assert_eq!(found(&buckets, &live), []);
    }

    #[test]
    fn a_camera_that_was_down_is_the_cause_with_its_reason() {
        let changes = [
            change(1, 50, CameraState::Live),
            change(1, 132, CameraState::Lost),
            change(1, 160, CameraState::Live),
        ];
        let buckets = [bucket(96, 130, 8), bucket(160, 198, 8)];
        assert_eq!(found(&buckets, &changes), [(132, 160, GapCause::CameraDown)]);
        let covered: Vec<_> = buckets.iter().collect();
        let span = Span { from: at(100), to: at(200) };
        assert_eq!(gaps(span, &covered, changes.iter())[0].reason, "no route");
    }

    #[test]
    fn a_live_camera_without_captions_is_overload() {
        let live = [change(1, 50, CameraState::Live)];
        let buckets = [bucket(96, 120, 5), bucket(160, 198, 10)];
        assert_eq!(found(&buckets, &live), [(120, 160, GapCause::Overload)]);
    }

    #[test]
    fn a_daemon_that_was_not_running_is_the_cause() {
        let changes = [change(1, 50, CameraState::Live), change(150, 152, CameraState::Live)];
        let buckets = [bucket(96, 130, 8), bucket(152, 198, 10)];
        assert_eq!(found(&buckets, &changes), [(130, 152, GapCause::BeforeStart)]);
        // Nothing is known of the time before the first change.
        let first = [change(140, 140, CameraState::Live)];
        let buckets = [bucket(140, 198, 10)];
        assert_eq!(found(&buckets, &first), [(100, 140, GapCause::BeforeStart)]);
    }

    #[test]
    fn windows_that_are_apart_by_design_leave_no_gap() {
        let live = [change(1, 50, CameraState::Live)];
        let buckets = [108, 128, 148, 168, 188].map(|end| bucket(end - 4, end, 1));
        assert_eq!(found(&buckets, &live), []);
    }
}
