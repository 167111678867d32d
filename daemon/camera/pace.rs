//! Samples the decoded frames: selects `fps` of them per second, evenly spaced.
//!
//! GStreamer's `videorate` has two limits: its `max-rate` accepts only whole numbers, and a rate
//! set as caps fails with cameras that are slower or report no rate.

use std::time::Duration;

const EARLY: u64 = 10_000_000;

/// The time of a frame, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time of the stream.
    pub stream: u64,
    /// Time of arrival.
    pub arrival: u64,
}

#[derive(Clone, Debug)]
pub struct Pace {
    /// Nanoseconds between sampled frames. All times in this module are in nanoseconds.
    interval: u64,
    due: Option<u64>,
    /// Arrival of the last sampled frame.
    last: Option<u64>,
    steady: bool,
}

impl Pace {
    pub fn new(fps: f64) -> Pace {
        let interval = Duration::try_from_secs_f64(1.0 / fps).unwrap_or(Duration::MAX);
        let interval = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        Pace { interval, due: None, last: None, steady: true }
    }

    /// Returns true if this frame is to be sampled. If `steady`, the stream's time decides, because
    /// it evens out the bursts of the network; otherwise the time of arrival does.
    ///
    /// Any span of `t` seconds has at most `t · fps + 1.1` sampled frames. A frame may come a
    /// little early. Otherwise a camera with exactly the wanted rate would lose frames to its
    /// jitter.
    pub fn admits(&mut self, moment: Moment, steady: bool) -> bool {
        let time = if steady { moment.stream } else { moment.arrival };
        if self.steady != steady {
            self.steady = steady;
            let waited = self.last.map(|last| moment.arrival.saturating_sub(last));
            self.due = waited.map(|w| time.saturating_sub(w).saturating_add(self.interval));
        }
        // The stream's time stands still or advances too slowly.
        let overdue = self.last.is_some_and(|last| {
            moment.arrival >= last.saturating_add(self.interval.saturating_mul(2))
        });
        let admitted = self.is_due(time, overdue);
        if admitted {
            self.last = Some(moment.arrival);
        }
        admitted
    }

    fn is_due(&mut self, time: u64, overdue: bool) -> bool {
        let early = (self.interval / 10).min(EARLY);
        match self.due {
            // The time jumped back: start again.
            Some(due) if time.saturating_add(self.interval.saturating_mul(2)) < due => {}
            Some(due) if time.saturating_add(early) < due && !overdue => return false,
            Some(due) if time.saturating_add(early) < due => {}
            // The frame is on time. The next one is due one interval after this one was due, which
            // keeps the rate exact over many frames.
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

    /// Returns the time of a frame that arrives at its stream time.
    fn on_time(time: u64) -> Moment {
        Moment { stream: time, arrival: time }
    }

    fn admitted(fps: f64, camera: u64, seconds: u64) -> usize {
        let mut pace = Pace::new(fps);
        (0..camera * seconds).filter(|i| pace.admits(on_time(i * SECOND / camera), true)).count()
    }

    #[test]
    fn the_configured_rate_is_delivered_exactly() {
        for (fps, wanted) in
            [(0.5, 30), (1.0, 60), (2.0, 120), (5.0, 300), (7.0, 420), (25.0, 1500)]
        {
            assert_eq!(admitted(fps, 25, 60), wanted, "{fps} of 25");
        }
    }

    #[test]
    fn a_slower_camera_loses_no_frame() {
        assert_eq!(admitted(10.0, 4, 60), 240);
    }

    #[test]
    fn after_a_gap_frames_do_not_come_in_a_burst() {
        let mut pace = Pace::new(2.0);
        assert!(pace.admits(on_time(0), true));
        assert!(pace.admits(on_time(10 * SECOND), true));
        assert!(!pace.admits(on_time(10 * SECOND + SECOND / 4), true));
        assert!(pace.admits(on_time(10 * SECOND + SECOND / 2), true));
    }

    #[test]
    fn a_jump_back_in_time_restarts_pacing() {
        let mut pace = Pace::new(1.0);
        assert!(pace.admits(on_time(100 * SECOND), true));
        assert!(pace.admits(on_time(5 * SECOND), true));
        assert!(!pace.admits(on_time(5 * SECOND + SECOND / 2), true));
    }

    #[test]
    fn a_stream_with_constant_timestamps_is_still_sampled() {
        let mut pace = Pace::new(2.0);
        let admitted: Vec<_> = (0..250u64)
            .map(|frame| frame * SECOND / 25)
            .filter(|at| pace.admits(Moment { stream: 42, arrival: *at }, true))
            .collect();
        assert_eq!(admitted.len(), 10, "a second apart: {admitted:?}");
        let later = (250..500u64).map(|frame| frame * SECOND / 25);
        let admitted =
            later.filter(|at| pace.admits(Moment { stream: 42, arrival: *at }, false)).count();
        assert_eq!(admitted, 20);
    }

    #[test]
    fn a_network_burst_is_paced_by_stream_time() {
        let mut pace = Pace::new(5.0);
        let burst = |second: u64| {
            (0..25u64).map(move |frame| Moment {
                stream: second * SECOND + frame * SECOND / 25,
                arrival: (second + 1) * SECOND,
            })
        };
        assert_eq!((0..20).flat_map(burst).filter(|m| pace.admits(*m, true)).count(), 100);
    }

    #[test]
    fn a_change_of_the_time_source_loses_no_frame() {
        for ahead in [-800_000_000i64, 0, 900_000_000] {
            let mut pace = Pace::new(2.0);
            let mut admitted = Vec::new();
            for frame in 0..200u64 {
                let arrival = 10 * SECOND + frame * SECOND / 10;
                let moment = Moment { stream: arrival.saturating_add_signed(ahead), arrival };
                if pace.admits(moment, !(53..=111).contains(&frame)) {
                    admitted.push(arrival);
                }
            }
            assert!((39..=42).contains(&admitted.len()), "{ahead}: {}", admitted.len());
            let most = admitted.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(most <= 600_000_000, "{ahead}: {most}");
        }
    }

    proptest! {
        #[test]
        fn the_rate_is_never_exceeded_and_jitter_loses_no_frame(
            jitter in prop::collection::vec(0u64..4_000_000, 250),
            fps in 0.2f64..25.0,
        ) {
            let mut pace = Pace::new(fps);
            let count = jitter
                .iter()
                .enumerate()
                .filter(|(i, jitter)| pace.admits(on_time(*i as u64 * 40_000_000 + *jitter), true))
                .count() as f64;
            prop_assert!(count <= 10.0 * fps + 1.1, "{count} of {fps}");
            prop_assert!(count >= 10.0 * fps - 1.1, "{count} of {fps}");
        }
    }
}
