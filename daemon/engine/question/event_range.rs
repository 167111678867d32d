//! Finds the frames of an earlier event: the window of a caption, an answer or an alert.
//!
//! The window is looked up by the event's frames and the run's clock, so the same frames are found
//! even if the host's clock was set in the meantime. It is looked up by UTC if the frames are of an
//! earlier run or have left the buffer, or if the window was given in UTC and a clock was set in it.

use std::time::Duration;

use crate::event::{Answer, Body, Caption, Coverage, FrameReference};
use crate::frame::{CLOCK_STEP, Span, difference};
use crate::run_clock::Moment;
use crate::timeline::{Ring, TimeRange};

/// The window of an event, and what the model saw of it.
pub struct SeenWindow<'a> {
    pub window: Span,
    frames: &'a [FrameReference],
    coverage: &'a Coverage,
    /// True for a window that the daemon cut: it is always one of the run's clock.
    is_cut: bool,
}

impl SeenWindow<'_> {
    /// Returns the window of an event, or `None` for a change of a state.
    pub fn of(body: &Body) -> Option<SeenWindow<'_>> {
        let (window, coverage, is_cut) = match body {
            Body::Caption(Caption { inference, .. }) => {
                (inference.window, &inference.coverage, true)
            }
            Body::Answer(Answer { inference, .. }) => {
                (inference.window, &inference.coverage, false)
            }
            Body::Alert(alert) => (alert.window, &alert.coverage, true),
            Body::CameraStatus(_) | Body::RuleStatus(_) => return None,
        };
        Some(SeenWindow { window, frames: body.frames(), coverage, is_cut })
    }

    /// Returns the window as a range of the run's clock, or `None` if it must be looked up by UTC.
    /// `ring` is that of the event's camera, and `run` is the current run.
    pub fn in_run(&self, ring: &Ring, run: u64) -> Option<TimeRange> {
        let SeenWindow { window, frames, coverage, is_cut } = *self;
        if frames.iter().any(|frame| frame.id.run != run) {
            return None;
        }
        let last = frames.last()?;
        let last_time = ring.get(last.id)?.monotonic;
        let is_inside = |frame: &FrameReference| {
            window.from <= frame.captured_at && frame.captured_at < window.to
        };
        // A frame that has left the buffer shows nothing.
        let shows_a_step = |frame: &FrameReference| {
            ring.get(frame.id).is_some_and(|entry| {
                let utc = difference(frame.captured_at, last.captured_at);
                let real = last_time.saturating_sub(entry.monotonic).as_nanos() as i128;
                (utc - real).unsigned_abs() > CLOCK_STEP.as_nanos()
            })
        };
        if !is_cut && frames.iter().all(is_inside) && frames.iter().any(shows_a_step) {
            return None;
        }
        // The coverage has the last frame's time by the clock of the window's end.
        let after = difference(coverage.covered_span?.to, window.to);
        let end = last_time.checked_add(Duration::from_nanos(u64::try_from(after).ok()?))?;
        Some(TimeRange::ending(Moment { monotonic: end, utc: window.to }, window))
    }
}
