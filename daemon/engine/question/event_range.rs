//! Finds the frames of an earlier event: the window of a caption or an answer.
//!
//! The window is looked up by the event's frames and the run's clock, so the same frames are found
//! even if the host's clock was set in the meantime. It is looked up by UTC if the frames are of an
//! earlier run or have left the buffer, or if the window was given in UTC and a clock was set in it.

use std::time::Duration;

use crate::event::{FrameReference, Inference};
use crate::frame::{CLOCK_STEP, difference};
use crate::run_clock::Moment;
use crate::timeline::{Ring, TimeRange};

/// Returns an event's window as a range of the run's clock, or `None` if it must be looked up by
/// UTC. A caption's window is always one of the run's clock. `ring` is that of the event's camera,
/// and `run` is the current run.
pub fn in_run(inference: &Inference, is_caption: bool, ring: &Ring, run: u64) -> Option<TimeRange> {
    let Inference { window, frames, coverage, .. } = inference;
    if frames.iter().any(|frame| frame.id.run != run) {
        return None;
    }
    let last = frames.last()?;
    let last_time = ring.get(last.id)?.monotonic;
    let is_inside =
        |frame: &FrameReference| window.from <= frame.captured_at && frame.captured_at < window.to;
    // A frame that has left the buffer shows nothing.
    let shows_a_step = |frame: &FrameReference| {
        ring.get(frame.id).is_some_and(|entry| {
            let utc = difference(frame.captured_at, last.captured_at);
            let real = last_time.saturating_sub(entry.monotonic).as_nanos() as i128;
            (utc - real).unsigned_abs() > CLOCK_STEP.as_nanos()
        })
    };
    if !is_caption && frames.iter().all(is_inside) && frames.iter().any(shows_a_step) {
        return None;
    }
    // The coverage has the last frame's time by the clock of the window's end.
    let after = difference(coverage.covered_span?.to, window.to);
    let end = last_time.checked_add(Duration::from_nanos(u64::try_from(after).ok()?))?;
    Some(TimeRange::ending(Moment { monotonic: end, utc: window.to }, *window))
}
