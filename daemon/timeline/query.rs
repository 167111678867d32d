//! The values that say which frames are looked up: the rate, the tiers and the position of a run.

use std::time::Duration;

use crate::frame::FrameId;
use crate::run_clock::Moment;

/// Time between two frames at the camera's rate.
#[derive(Clone, Copy, Debug)]
pub struct Period(pub Duration);

impl Period {
    pub fn of_rate(fps: f64) -> Period {
        Period(Duration::from_secs_f64(1.0 / fps))
    }

    /// Returns the longest time between two frames that is not a gap: one late frame is jitter.
    pub fn gap(self) -> Duration {
        self.0.mul_f64(2.5)
    }

    /// Returns the number of frames in `length` at this rate.
    pub(super) fn frames_in(self, length: Duration) -> usize {
        (length.as_secs_f64() / self.0.as_secs_f64()).round().max(1.0) as usize
    }
}

/// The frames that may be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiers {
    /// Frames whose tokens are in memory, so nothing has to be encoded again.
    Hot,
    All,
}

/// The current position of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunPosition {
    /// The next frame to arrive. All frames of its run with lower numbers have arrived, including
    /// those that are not in the ring.
    pub next: FrameId,
    pub now: Moment,
}
