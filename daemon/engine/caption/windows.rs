//! Determines when a camera's next window closes.
//!
//! Windows follow the frames' own time by the run's clock, so changes of the host's clock have no
//! effect. A window is closed by its last frame: the first frame whose successor is expected at or
//! after the window's end. So no window waits for a frame of the next one. If frames fail to
//! arrive, the elapsed time closes the window slightly later.
//!
//! Each camera's windows close at its own offset within `interval`, so cameras that start together do
//! not all need captions at once. The first window closes as soon as it is full. The second closes
//! early, which moves the camera to its own offset within `interval`.

use std::time::{Duration, Instant};

use crate::timeline::Period;

pub struct Windows {
    period: Period,
    window: Duration,
    interval: Duration,
    /// Offset from a multiple of `interval`, in the run's time, at which windows are to close. `None`
    /// once they do.
    close_offset: Option<Duration>,
    /// The end of the next window, or `None` before the first frame.
    next_end: Option<Duration>,
    /// The newest frame's time, and its time of arrival.
    newest: Option<(Duration, Instant)>,
}

/// A closed window: a half-open part of the run's time. The first may begin slightly before the
/// run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    pub length: Duration,
    pub to: Duration,
    /// Number of windows that ended before this one and were not returned.
    pub passed_over: u64,
}

impl Windows {
    pub fn new(
        period: Period,
        window: Duration,
        interval: Duration,
        close_offset: Duration,
    ) -> Windows {
        Windows {
            period,
            window,
            interval,
            close_offset: Some(close_offset),
            next_end: None,
            newest: None,
        }
    }

    /// Records a frame of this time. Returns the window that it closes.
    pub fn frame(&mut self, monotonic: Duration, arrived: Instant) -> Option<Closed> {
        self.newest = Some((monotonic, arrived));
        let half = self.period.0 / 2;
        let first = (monotonic + self.window).saturating_sub(half);
        let end = *self.next_end.get_or_insert(first);
        self.close(monotonic + half, end)
    }

    /// Returns a window that ended some time ago and that no frame has closed.
    pub fn tick(&mut self, now: Instant) -> Option<Closed> {
        let (monotonic, arrived) = self.newest?;
        let patience = self.period.0.mul_f64(1.5) + Duration::from_secs(1);
        let time = monotonic + now.saturating_duration_since(arrived);
        self.close(time.checked_sub(patience)?, self.next_end?)
    }

    /// Closes the window ending at `end` once `time` has reached it. If several have ended, only
    /// the last is returned, because captions describe the present. It counts the others.
    fn close(&mut self, time: Duration, mut end: Duration) -> Option<Closed> {
        let since = time.checked_sub(end)?;
        let next = self
            .close_offset
            .take()
            .map_or(self.interval, |close_offset| self.until(close_offset, end));
        let mut next = end + next;
        let mut passed_over = 0;
        if let Some(beyond) = since.checked_sub(next - end) {
            let more = beyond.as_nanos() / self.interval.as_nanos();
            passed_over = u64::try_from(1 + more).unwrap_or(u64::MAX);
            end = next + nanoseconds(more * self.interval.as_nanos());
            next = end + self.interval;
        }
        self.next_end = Some(next);
        Some(Closed { length: self.window, to: end, passed_over })
    }

    /// Returns the time from `end` to the next close: a whole number of frames, at most `interval`,
    /// chosen to close as near to `close_offset` as possible.
    fn until(&self, close_offset: Duration, end: Duration) -> Duration {
        let beyond = (end + self.interval - close_offset).as_nanos() % self.interval.as_nanos();
        let wanted = self.interval.as_secs_f64() - beyond as f64 / 1e9;
        match (wanted / self.period.0.as_secs_f64()).round() {
            0.0 => self.interval,
            frames => self.period.0.mul_f64(frames).min(self.interval),
        }
    }
}

fn nanoseconds(count: u128) -> Duration {
    Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Returns the offset at which the windows of the camera with this index close, counted from 0. It
/// is as far from the earlier ones as possible without knowing how many follow (van der Corput
/// sequence: 0, 1/2, 1/4, 3/4, 1/8 … of `interval`).
pub fn close_offset(index: usize, interval: Duration) -> Duration {
    interval.mul_f64((index as u32).reverse_bits() as f64 / 2f64.powi(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(1_000_000 + milliseconds)
    }

    /// Creates windows that close 250 ms before a multiple of 4 s. `at(0)` is such a multiple.
    fn windows() -> Windows {
        windows_at(3750)
    }

    fn windows_at(close_offset: u64) -> Windows {
        let (window, interval) = (Duration::from_secs(8), Duration::from_secs(4));
        Windows::new(Period::of_rate(2.0), window, interval, Duration::from_millis(close_offset))
    }

    #[test]
    fn the_last_frame_of_a_window_closes_it() {
        let (mut windows, now) = (windows(), Instant::now());
        let mut closed = Vec::new();
        for frame in 0..32 {
            // Jitter of up to 100 ms changes nothing.
            let time = at(frame * 500 + frame * 37 % 100);
            closed.extend(windows.frame(time, now).map(|span| (frame, span)));
        }
        let frames: Vec<u64> = closed.iter().map(|(frame, _)| *frame).collect();
        assert_eq!(frames, [15, 23, 31]);
        assert_eq!(
            closed[0].1,
            Closed { length: Duration::from_secs(8), to: at(7750), passed_over: 0 }
        );
    }

    #[test]
    fn the_second_window_closes_early_to_reach_the_close_offset() {
        for close_offset in 0..4000 {
            let (mut windows, now) = (windows_at(close_offset), Instant::now());
            let spans = (0..60).filter_map(|frame| windows.frame(at(frame * 500), now));
            let ends: Vec<Duration> = spans.map(|span| span.to).collect();
            assert_eq!(ends[0], at(7750));
            let steps: Vec<u128> =
                ends.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
            let first = steps[0] as u64;
            assert!(
                (500..=4000).contains(&first) && first.is_multiple_of(500),
                "{close_offset}: {first}"
            );
            assert!(steps[1..].iter().all(|step| *step == 4000), "{close_offset}");
            let off = (7750 + first + 4000 - close_offset) % 4000;
            assert!(off.min(4000 - off) <= 250, "{close_offset}: {off}");
        }
    }

    #[test]
    fn close_offsets_are_far_apart_for_any_number_of_cameras() {
        for cameras in 1..100 {
            let mut phases: Vec<_> =
                (0..cameras).map(|c| close_offset(c, Duration::from_secs(1))).collect();
            phases.sort();
            phases.push(Duration::from_secs(1));
            let apart = phases.windows(2).map(|p| (p[1] - p[0]).as_secs_f64() * cameras as f64);
            assert!(apart.into_iter().all(|gap| (0.5..=2.0).contains(&gap)), "{phases:?}");
        }
    }

    #[test]
    fn a_window_without_frames_closes_by_time() {
        let (mut windows, now) = (windows(), Instant::now());
        for frame in 0..10 {
            assert_eq!(windows.frame(at(frame * 500), now), None);
        }
        // The newest frame is at 4.5 s; the window ends at 7.75 s, and patience is 1.75 s.
        assert_eq!(windows.tick(now + Duration::from_millis(4900)), None);
        let span = windows.tick(now + Duration::from_millis(5100)).expect("closed");
        assert_eq!(span.to, at(7750));
        assert_eq!(windows.tick(now + Duration::from_millis(5200)), None);
        // Frames arrive again after an hour: only the last window is returned.
        let span = windows.frame(at(3_600_000), now).expect("closed");
        assert!(span.to <= at(3_600_250) && span.to > at(3_596_000));
        // The first of them ended at 11.75 s.
        let ended = (span.to - at(7750)).as_millis() as u64 / 4000;
        assert_eq!(span.passed_over, ended - 1);
    }

    #[test]
    fn a_gap_of_years_is_one_step() {
        let interval = Duration::from_millis(500);
        let (period, window) = (Period::of_rate(2.0), Duration::from_secs(8));
        let (mut windows, now) =
            (Windows::new(period, window, interval, Duration::ZERO), Instant::now());
        assert_eq!(windows.frame(Duration::ZERO, now), None);
        let years = Duration::from_secs(100 * 365 * 24 * 3600);
        let begun = Instant::now();
        let closed = windows.frame(years, now).expect("closed");
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(closed.to <= years + period.0 / 2 && closed.to + interval > years + period.0 / 2);
        let next = windows.frame(years + interval, now).expect("closed");
        assert_eq!(next.to, closed.to + interval);
    }
}
