//! Which of the decoded pictures are looked at: `fps` of them a second, evenly.
//!
//! GStreamer's `videorate` does this too, but takes whole rates only as a limit (`max-rate`), and
//! as caps fails on cameras slower than the rate wanted, or that do not tell their rate at all.

use std::time::Duration;

const EARLY: u64 = 10_000_000;

#[derive(Clone, Debug)]
pub struct Pace {
    /// Nanoseconds, as are all times here.
    interval: u64,
    due: Option<u64>,
}

impl Pace {
    pub fn new(fps: f64) -> Pace {
        let interval = Duration::try_from_secs_f64(1.0 / fps).unwrap_or(Duration::MAX);
        Pace { interval: u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), due: None }
    }

    /// Whether the picture with this presentation time is one to look at.
    ///
    /// In any span of `t` seconds at most `t · fps + 1.1` are; a picture may come a little early,
    /// or a camera whose rate is the one wanted would lose frames to its jitter.
    pub fn admits(&mut self, time: u64) -> bool {
        let early = (self.interval / 10).min(EARLY);
        match self.due {
            // The time jumped back: a new beginning.
            Some(due) if time.saturating_add(self.interval.saturating_mul(2)) < due => {}
            Some(due) if time.saturating_add(early) < due => return false,
            // On time: the next is due an interval after this one was due, so that the rate is
            // exact over many frames.
            Some(due) if time < due.saturating_add(self.interval) => {
                self.due = Some(due.saturating_add(self.interval));
                return true;
            }
            _ => {}
        }
        self.due = Some(time.saturating_add(self.interval));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(fps: f64, camera: u64, seconds: u64) -> usize {
        let mut pace = Pace::new(fps);
        (0..camera * seconds).filter(|i| pace.admits(i * SECOND / camera)).count()
    }

    #[test]
    fn exactly_the_wanted_rate_comes_through() {
        for (fps, wanted) in
            [(0.5, 30), (1.0, 60), (2.0, 120), (5.0, 300), (7.0, 420), (25.0, 1500)]
        {
            assert_eq!(admitted(fps, 25, 60), wanted, "{fps} of 25");
        }
    }

    #[test]
    fn a_slower_camera_loses_nothing() {
        assert_eq!(admitted(10.0, 4, 60), 240);
    }

    #[test]
    fn after_a_gap_frames_do_not_come_in_a_burst() {
        let mut pace = Pace::new(2.0);
        assert!(pace.admits(0));
        assert!(pace.admits(10 * SECOND));
        assert!(!pace.admits(10 * SECOND + SECOND / 4));
        assert!(pace.admits(10 * SECOND + SECOND / 2));
    }

    #[test]
    fn a_jump_back_is_a_new_beginning() {
        let mut pace = Pace::new(1.0);
        assert!(pace.admits(100 * SECOND));
        assert!(pace.admits(5 * SECOND));
        assert!(!pace.admits(5 * SECOND + SECOND / 2));
    }

    proptest! {
        #[test]
        fn never_more_than_wanted_and_jitter_costs_none(
            jitter in prop::collection::vec(0u64..4_000_000, 250),
            fps in 0.2f64..25.0,
        ) {
            let mut pace = Pace::new(fps);
            let count = jitter
                .iter()
                .enumerate()
                .filter(|(i, jitter)| pace.admits(*i as u64 * 40_000_000 + *jitter))
                .count() as f64;
            prop_assert!(count <= 10.0 * fps + 1.1, "{count} of {fps}");
            prop_assert!(count >= 10.0 * fps - 1.1, "{count} of {fps}");
        }
    }
}
