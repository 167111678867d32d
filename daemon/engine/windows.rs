//! When a camera's next window closes.
//!
//! Windows are cut by the frames' own time. The last frame of a window closes it: the first whose
//! successor is expected at or beyond the end, so that nobody waits for a frame which belongs to
//! the next window. When frames fail to come, the clock on the wall closes it a little later.
//!
//! Each camera has its own moment in `every` at which its windows close, so that those of cameras
//! which start together do not all want their captions at once. The first window closes as soon
//! as it is full, the second one as much earlier than `every` after it as that takes.

use std::time::{Duration, Instant, SystemTime};

use crate::frame::Span;
use crate::timeline::Period;

pub struct Windows {
    period: Period,
    window: Duration,
    every: Duration,
    /// So long after a multiple of `every` from 1970 windows are to close; `None` once they do.
    phase: Option<Duration>,
    /// The end of the next window; `None` before the first frame.
    next_end: Option<SystemTime>,
    /// The newest frame's time, and when it came.
    newest: Option<(SystemTime, Instant)>,
}

impl Windows {
    pub fn new(period: Period, window: Duration, every: Duration, phase: Duration) -> Windows {
        Windows { period, window, every, phase: Some(phase), next_end: None, newest: None }
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
        let mut next = end + self.phase.take().map_or(self.every, |phase| self.until(phase, end));
        while next <= time {
            (end, next) = (next, next + self.every);
        }
        self.next_end = Some(next);
        Some(Span { from: end - self.window, to: end })
    }

    /// From `end` to a whole number of frames later, at most `every`, where `phase` is nearest.
    fn until(&self, phase: Duration, end: SystemTime) -> Duration {
        let since_1970 = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let beyond = (since_1970 + self.every - phase).as_nanos() % self.every.as_nanos();
        let wanted = self.every.as_secs_f64() - beyond as f64 / 1e9;
        match (wanted / self.period.0.as_secs_f64()).round() {
            0.0 => self.every,
            frames => self.period.0.mul_f64(frames).min(self.every),
        }
    }
}

/// The phase of the camera that is number `index`, from 0: as far from those before it as can be
/// without knowing how many follow (van der Corput's sequence: 0, 1/2, 1/4, 3/4, 1/8 … of `every`).
pub fn phase(index: usize, every: Duration) -> Duration {
    every.mul_f64((index as u32).reverse_bits() as f64 / 2f64.powi(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + milliseconds)
    }

    /// Closing 250 ms before a whole second that can be divided by 4, as `at(0)` can.
    fn windows() -> Windows {
        windows_at(3750)
    }

    fn windows_at(phase: u64) -> Windows {
        let (window, every) = (Duration::from_secs(8), Duration::from_secs(4));
        Windows::new(Period::of_rate(2.0), window, every, Duration::from_millis(phase))
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
    fn the_second_window_closes_sooner_so_that_all_later_ones_keep_the_phase() {
        for phase in 0..4000 {
            let (mut windows, now) = (windows_at(phase), Instant::now());
            let spans = (0..60).filter_map(|frame| windows.frame(at(frame * 500), now));
            let ends: Vec<SystemTime> = spans.map(|span| span.to).collect();
            assert_eq!(ends[0], at(7750));
            let step = |pair: &[SystemTime]| pair[1].duration_since(pair[0]).expect("later");
            let steps: Vec<u128> = ends.windows(2).map(|pair| step(pair).as_millis()).collect();
            let first = steps[0] as u64;
            assert!((500..=4000).contains(&first) && first.is_multiple_of(500), "{phase}: {first}");
            assert!(steps[1..].iter().all(|step| *step == 4000), "{phase}");
            let off = (7750 + first + 4000 - phase) % 4000;
            assert!(off.min(4000 - off) <= 250, "{phase}: {off}");
        }
    }

    #[test]
    fn phases_are_far_apart_however_many_there_are() {
        for cameras in 1..100 {
            let mut phases: Vec<_> =
                (0..cameras).map(|c| phase(c, Duration::from_secs(1))).collect();
            phases.sort();
            phases.push(Duration::from_secs(1));
            let apart = phases.windows(2).map(|p| (p[1] - p[0]).as_secs_f64() * cameras as f64);
            assert!(apart.into_iter().all(|gap| (0.5..=2.0).contains(&gap)), "{phases:?}");
        }
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
