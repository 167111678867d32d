//! Measures a camera's RTP clock against the time of arrival.
//!
//! Some cameras announce 25 frames per second and send 21, or count time wrongly in another way.
//! Network jitter can only delay packets, so the earliest packet of each second is the most exact.
//! If the earliest packets drift steadily in one direction, the camera's clock runs at another rate
//! than the host's.

use std::collections::VecDeque;

/// Nanoseconds per second. All times in this module are in nanoseconds.
const SECOND: i64 = 1_000_000_000;

/// Limits of drift: a number of consecutive seconds, and the drift as a fraction of that time, in
/// addition to [`NOISE`]. A smaller drift takes longer to detect.
const DRIFTS: [(usize, f64); 3] = [(3, 0.08), (7, 0.03), (15, 0.015)];
const NOISE: f64 = 0.05 * SECOND as f64;

/// Number of seconds without drift after which the clock counts as steady again.
const CALM: usize = 10;

/// Jump of RTP time against the time of arrival above which the measurement restarts.
const JUMP: i64 = 2 * SECOND;

#[derive(Debug)]
pub struct Tempo {
    last: Option<Packet>,
    /// RTP time since the first packet.
    elapsed: i64,
    block: Option<Block>,
    blocks: VecDeque<Block>,
    steady: bool,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    ticks: u32,
    arrival: i64,
}

/// A block of about one second: its start, and the delay of its earliest packet against RTP time.
#[derive(Clone, Copy, Debug)]
struct Block {
    began: i64,
    delay: i64,
}

impl Tempo {
    /// Creates a measurement. `steady` is the assumed state of the clock until it has been
    /// measured.
    pub fn new(steady: bool) -> Tempo {
        Tempo { last: None, elapsed: 0, block: None, blocks: VecDeque::new(), steady }
    }

    /// Adds a packet with its RTP timestamp, in ticks of which there are `rate` per second, and its
    /// time of arrival. Returns true if the clock is steady.
    pub fn packet(&mut self, ticks: u32, rate: u32, arrival: u64) -> bool {
        let arrival = i64::try_from(arrival).unwrap_or(i64::MAX);
        let packet = Packet { ticks, arrival };
        let Some(last) = self.last.replace(packet) else {
            return self.steady;
        };
        // The timestamp has 32 bits and wraps.
        let ticks = i64::from(ticks.wrapping_sub(last.ticks) as i32);
        let step = ticks.saturating_mul(SECOND) / i64::from(rate.max(1));
        let waited = arrival.saturating_sub(last.arrival).max(0);
        self.elapsed = self.elapsed.saturating_add(step);
        if step.saturating_sub(waited).abs() > JUMP.saturating_add(waited / 2) {
            (self.block, self.elapsed) = (None, 0);
            self.blocks.clear();
        }
        self.measure(arrival, arrival.saturating_sub(self.elapsed));
        self.steady
    }

    fn measure(&mut self, now: i64, delay: i64) {
        match &mut self.block {
            Some(block) if now.saturating_sub(block.began) < SECOND => {
                block.delay = block.delay.min(delay);
            }
            block => {
                if let Some(full) = block.replace(Block { began: now, delay }) {
                    self.blocks.push_back(full);
                    if self.blocks.len() > DRIFTS[2].0 + 1 {
                        self.blocks.pop_front();
                    }
                    self.judge();
                }
            }
        }
    }

    fn judge(&mut self) {
        if DRIFTS.iter().any(|(steps, part)| self.drifts(*steps, *part)) {
            self.steady = false;
        } else if !self.steady && self.is_calm() {
            self.steady = true;
        }
    }

    fn drifts(&self, steps: usize, part: f64) -> bool {
        let Some(skipped) = self.blocks.len().checked_sub(steps + 1) else { return false };
        let mut delays = self.blocks.iter().skip(skipped);
        let Some(first) = delays.next() else { return false };
        let (mut rises, mut falls, mut last) = (true, true, first);
        for block in delays {
            rises &= block.delay > last.delay;
            falls &= block.delay < last.delay;
            last = block;
        }
        let drift = last.delay.saturating_sub(first.delay);
        let time = last.began.saturating_sub(first.began);
        (rises || falls) && drift.unsigned_abs() as f64 > NOISE + part * time as f64
    }

    fn is_calm(&self) -> bool {
        let Some(skipped) = self.blocks.len().checked_sub(CALM) else { return false };
        let delays = || self.blocks.iter().skip(skipped).map(|block| block.delay);
        match (delays().min(), delays().max()) {
            (Some(least), Some(most)) => (most.saturating_sub(least) as f64) < 2.0 * NOISE,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Plays `seconds` of frames at `fps`, with RTP time running `rate` times as fast as the clock.
    fn play(tempo: &mut Tempo, from: f64, seconds: f64, fps: f64, rate: f64) -> Vec<(f64, bool)> {
        let frames = (seconds * fps) as u64;
        (0..frames)
            .map(|frame| {
                let at = from + frame as f64 / fps;
                let ticks = (at * rate * 90_000.0) as u64 as u32;
                (at, tempo.packet(ticks, 90_000, (at * 1e9) as u64))
            })
            .collect()
    }

    fn noticed(rate: f64) -> Option<f64> {
        let mut tempo = Tempo::new(true);
        let played = play(&mut tempo, 0.0, 30.0, 10.0, rate);
        played.iter().find(|(_, steady)| !steady).map(|(at, _)| *at)
    }

    #[test]
    fn a_clock_of_another_rate_is_noticed_within_seconds() {
        for rate in [0.0, 0.5, 0.8, 1.19, 2.0, 10.0] {
            let at = noticed(rate).unwrap_or(f64::MAX);
            assert!(at < 6.0, "{rate}: after {at} s");
        }
        for rate in [0.95, 1.05] {
            let at = noticed(rate).unwrap_or(f64::MAX);
            assert!(at < 12.0, "{rate}: after {at} s");
        }
        for rate in [0.999, 1.0, 1.001] {
            assert_eq!(noticed(rate), None, "{rate}");
        }
    }

    #[test]
    fn a_slow_camera_is_measured_too() {
        let mut tempo = Tempo::new(true);
        assert!(play(&mut tempo, 0.0, 200.0, 0.2, 1.0).iter().all(|(_, steady)| *steady));
        assert!(play(&mut tempo, 200.0, 60.0, 0.2, 0.8).iter().any(|(_, steady)| !steady));
    }

    #[test]
    fn a_corrected_clock_is_trusted_again() {
        let mut tempo = Tempo::new(false);
        assert!(!play(&mut tempo, 0.0, 5.0, 10.0, 1.0).iter().any(|(_, steady)| *steady));
        assert!(play(&mut tempo, 5.0, 10.0, 10.0, 1.0).iter().any(|(_, steady)| *steady));
    }

    #[test]
    fn jumps_and_wraps_of_rtp_time_are_not_drift() {
        for jump in [3600.0, -30.0, 20_000.0] {
            let mut tempo = Tempo::new(true);
            let mut steady = true;
            for frame in 0..400u64 {
                let at = frame as f64 / 10.0;
                let rtp = 47_000.0 + at + if at > 20.0 { jump } else { 0.0 };
                steady &= tempo.packet((rtp * 90_000.0) as u64 as u32, 90_000, (at * 1e9) as u64);
            }
            assert!(steady, "{jump}");
        }
    }

    #[test]
    fn a_network_pause_is_not_drift() {
        let mut tempo = Tempo::new(true);
        for frame in 0..600u64 {
            let at = frame as f64 / 20.0;
            // Packets sent between 10 and 14 s arrive at 14 s.
            let arrival = if (10.0..14.0).contains(&at) { 14.0 } else { at };
            let ticks = (at * 90_000.0) as u32;
            assert!(tempo.packet(ticks, 90_000, (arrival * 1e9) as u64), "at {at} s");
        }
    }

    proptest! {
        #[test]
        fn jitter_is_not_drift(jitter in prop::collection::vec(0u64..400_000_000, 600)) {
            let mut tempo = Tempo::new(true);
            for (frame, jitter) in jitter.iter().enumerate() {
                let at = frame as u64 * 50_000_000;
                let steady = tempo.packet(frame as u32 * 4500, 90_000, at + jitter);
                prop_assert!(steady, "frame {frame}");
            }
        }

        #[test]
        fn arbitrary_packets_are_handled(
            packets in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u64>()), 200),
        ) {
            let mut tempo = Tempo::new(true);
            for (ticks, rate, arrival) in packets {
                tempo.packet(ticks, rate, arrival);
            }
        }
    }
}
