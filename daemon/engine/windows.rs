//! When a camera's next window closes.
//!
//! Windows are cut by the frames' own time. The last frame of a window closes it: the first whose
//! successor is expected at or beyond the end, so that nobody waits for a frame which belongs to
//! the next window. When frames fail to come, the clock on the wall closes it a little later.

use std::time::{Duration, Instant, SystemTime};

use crate::frame::Span;
use crate::timeline::Period;

pub struct Windows {
    period: Period,
    window: Duration,
    every: Duration,
    /// The end of the next window; `None` before the first frame.
    next_end: Option<SystemTime>,
    /// The newest frame's time, and when it came.
    newest: Option<(SystemTime, Instant)>,
}

impl Windows {
    pub fn new(period: Period, window: Duration, every: Duration) -> Windows {
        Windows { period, window, every, next_end: None, newest: None }
    }

    /// A frame came; returns the window that it closes.
    pub fn frame(&mut self, captured_at: SystemTime, came: Instant) -> Option<Span> {
        self.newest = Some((captured_at, came));
        let half = self.period.0 / 2;
        let end = *self.next_end.get_or_insert(captured_at - half + self.window);
        self.close(captured_at + half, end)
    }

    /// No frame has to come: returns the window that ended some time ago all the same.
    pub fn tick(&mut self, now: Instant) -> Option<Span> {
        let (captured_at, came) = self.newest?;
        let patience = self.period.0.mul_f64(1.5) + Duration::from_secs(1);
        let time = captured_at + now.saturating_duration_since(came);
        self.close(time.checked_sub(patience)?, self.next_end?)
    }

    /// The window ending at `end` closes once `time` has reached it. Of several that have ended
    /// only the last is returned: captions tell of now.
    fn close(&mut self, time: SystemTime, mut end: SystemTime) -> Option<Span> {
        if time < end {
            return None;
        }
        while end + self.every <= time {
            end += self.every;
        }
        self.next_end = Some(end + self.every);
        Some(Span { from: end - self.window, to: end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + milliseconds)
    }

    fn windows() -> Windows {
        Windows::new(Period::of_rate(2.0), Duration::from_secs(8), Duration::from_secs(4))
    }

    #[test]
    fn the_last_frame_of_a_window_closes_it() {
        let (mut windows, now) = (windows(), Instant::now());
        let mut closed = Vec::new();
        for frame in 0..32 {
            // Up to 100 ms of jitter changes nothing.
            let time = at(frame * 500 + frame * 37 % 100);
            closed.extend(windows.frame(time, now).map(|span| (frame, span)));
        }
        let frames: Vec<u64> = closed.iter().map(|(frame, _)| *frame).collect();
        assert_eq!(frames, [15, 23, 31]);
        let (_, first) = closed[0];
        assert_eq!((first.from, first.to), (at(0) - Duration::from_millis(250), at(7750)));
        assert!(first.contains(at(7600)));
    }

    #[test]
    fn the_wall_closes_what_frames_do_not() {
        let (mut windows, now) = (windows(), Instant::now());
        for frame in 0..10 {
            assert_eq!(windows.frame(at(frame * 500), now), None);
        }
        // The newest frame is at 4.5 s; the window ends at 7.75 s, and patience is 1.75 s.
        assert_eq!(windows.tick(now + Duration::from_millis(4900)), None);
        let span = windows.tick(now + Duration::from_millis(5100)).expect("closed");
        assert_eq!(span.to, at(7750));
        assert_eq!(windows.tick(now + Duration::from_millis(5200)), None);
        // Frames come again after an hour: one window, the last.
        let span = windows.frame(at(3_600_000), now).expect("closed");
        assert!(span.to <= at(3_600_250) && span.to > at(3_596_000));
    }
}
