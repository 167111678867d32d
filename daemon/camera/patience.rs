//! Decides when a camera that delivers no frames counts as stalled.
//!
//! `stall_timeout` suits cameras that send several frames per second. A camera that sends one frame
//! every 16 s has not stalled between two of them, so its own interval also counts. Until the
//! interval is known, each attempt that received one or two frames waits twice as long as the one
//! before. A camera that sends packets but no key frame yet is not reconnected, because that brings
//! no key frame sooner.

use std::time::Duration;

/// Minimum wait for the first frame. Some cameras send a key frame only every ten seconds, and no
/// frame can be decoded before one.
const FIRST_FRAME: Duration = Duration::from_secs(15);

/// Time without a key frame after which the wait is reported.
const REPORTED_AFTER: Duration = Duration::from_secs(3);

/// Number of its own frame intervals for which a camera may be silent.
const INTERVALS: u32 = 3;

/// Upper limit of the learned wait.
const LONGEST: Duration = Duration::from_secs(120);

/// Number of key frames in the decoder without a decoded frame that counts as a stall. Decoders
/// hold frames back until they know the order, but not this many key frames.
const OWED_MAX: u64 = 4;

/// The state of an attempt. Each time is the time since an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    pub connected: Option<Duration>,
    /// The last packet. Files have none.
    pub packet: Option<Duration>,
    /// The last frame: decoded or, if only key frames are decoded, received.
    pub frame: Option<Duration>,
    /// The last frame that left the decoder.
    pub decoded: Option<Duration>,
    /// Number of key frames that entered the decoder since then, and the time since the first of
    /// them.
    pub owed: u64,
    pub owed_since: Option<Duration>,
    /// Number of frames so far, and the longest recent interval between them.
    pub frames: u64,
    pub interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Well,
    WaitsForKeyFrame,
    /// The camera delivered nothing for this long.
    Stalled(Duration),
}

/// The learned frame interval of a camera, kept over all its connections.
#[derive(Clone, Debug)]
pub struct Patience {
    stall: Duration,
    interval: Duration,
    /// Number of consecutive attempts that stalled before the interval was known.
    doublings: u32,
}

impl Patience {
    pub fn new(stall: Duration) -> Patience {
        Patience { stall, interval: Duration::ZERO, doublings: 0 }
    }

    pub fn judge(&self, activity: &Activity) -> Verdict {
        let limit = self.limit(activity);
        let longer = |since: Option<Duration>, limit| since.is_some_and(|since| since > limit);
        if activity.decoded.is_some() {
            let swallowed = activity.owed >= OWED_MAX && longer(activity.owed_since, limit);
            let has_stalled = swallowed || longer(activity.frame, limit);
            return if has_stalled { Verdict::Stalled(limit) } else { Verdict::Well };
        }
        let first = limit.max(FIRST_FRAME);
        let packets_come = activity.packet.is_some_and(|since| since <= limit);
        match activity.owed {
            0 if packets_come && longer(activity.connected, REPORTED_AFTER) => {
                Verdict::WaitsForKeyFrame
            }
            0 if packets_come => Verdict::Well,
            0 if longer(activity.connected, first) => Verdict::Stalled(first),
            _ if longer(activity.owed_since, first) => Verdict::Stalled(first),
            _ => Verdict::Well,
        }
    }

    fn limit(&self, activity: &Activity) -> Duration {
        let interval = match activity.frames {
            0..=2 => self.interval.max(activity.interval),
            _ => activity.interval,
        };
        let doubled = match activity.frames {
            0..=2 => self.stall.saturating_mul(1 << self.doublings.min(16)),
            _ => Duration::ZERO,
        };
        let learned = interval.saturating_mul(INTERVALS).max(doubled).min(LONGEST);
        self.stall.max(learned)
    }

    /// Learns from an attempt at its end. `stalled` is true if the attempt ended with a stall.
    pub fn learn(&mut self, activity: &Activity, stalled: bool) {
        match activity.frames {
            0 => {}
            1..=2 if stalled => self.doublings = self.doublings.saturating_add(1),
            1..=2 => {}
            _ => (self.interval, self.doublings) = (activity.interval, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    fn patience() -> Patience {
        Patience::new(SECONDS(5))
    }

    /// Returns the activity of a camera with 25 frames per second.
    fn live() -> Activity {
        let moment = Some(Duration::from_millis(20));
        Activity {
            connected: Some(SECONDS(60)),
            packet: moment,
            frame: moment,
            decoded: moment,
            frames: 1500,
            interval: Duration::from_millis(40),
            ..Activity::default()
        }
    }

    #[test]
    fn a_camera_without_frames_has_stalled() {
        assert_eq!(patience().judge(&live()), Verdict::Well);
        let silent = Activity { frame: Some(SECONDS(6)), decoded: Some(SECONDS(6)), ..live() };
        assert_eq!(patience().judge(&silent), Verdict::Stalled(SECONDS(5)));
        // The camera connects and then sends nothing.
        let silent = Activity { connected: Some(SECONDS(16)), ..Activity::default() };
        assert_eq!(patience().judge(&silent), Verdict::Stalled(SECONDS(15)));
        let silent = Activity { packet: Some(SECONDS(14)), ..silent };
        assert_eq!(patience().judge(&silent), Verdict::Stalled(SECONDS(15)));
    }

    #[test]
    fn waiting_for_a_key_frame_is_not_a_stall() {
        let waits = |connected| Activity {
            connected: Some(SECONDS(connected)),
            packet: Some(Duration::from_millis(40)),
            ..Activity::default()
        };
        assert_eq!(patience().judge(&waits(1)), Verdict::Well);
        assert_eq!(patience().judge(&waits(10)), Verdict::WaitsForKeyFrame);
        assert_eq!(patience().judge(&waits(300)), Verdict::WaitsForKeyFrame);
        // A key frame came, but the decoder returned no frame.
        let swallowed = Activity { owed: 1, owed_since: Some(SECONDS(16)), ..waits(300) };
        assert_eq!(patience().judge(&swallowed), Verdict::Stalled(SECONDS(15)));
    }

    /// Received key frames are the sign of life if only key frames are decoded.
    #[test]
    fn a_decoder_that_swallows_key_frames_has_stalled() {
        let decoded = Some(SECONDS(9));
        let keeps_back = Activity { decoded, owed: 2, owed_since: Some(SECONDS(8)), ..live() };
        assert_eq!(patience().judge(&keeps_back), Verdict::Well);
        let swallows = Activity { owed: 4, ..keeps_back };
        assert_eq!(patience().judge(&swallows), Verdict::Stalled(SECONDS(5)));
    }

    #[test]
    fn a_slow_camera_has_not_stalled() {
        let mut patience = patience();
        let one = |silent| Activity {
            frame: Some(SECONDS(silent)),
            decoded: Some(SECONDS(silent)),
            frames: 1,
            interval: Duration::ZERO,
            ..live()
        };
        // The camera sends one frame every 16 s: the third attempt receives the second frame.
        assert_eq!(patience.judge(&one(6)), Verdict::Stalled(SECONDS(5)));
        patience.learn(&one(6), true);
        assert_eq!(patience.judge(&one(9)), Verdict::Well);
        assert_eq!(patience.judge(&one(11)), Verdict::Stalled(SECONDS(10)));
        patience.learn(&one(11), true);
        assert_eq!(patience.judge(&one(16)), Verdict::Well);
        let two = Activity { frames: 2, interval: SECONDS(16), ..one(40) };
        assert_eq!(patience.judge(&two), Verdict::Well);
        let three = Activity { frames: 3, ..two };
        assert_eq!(patience.judge(&three), Verdict::Well);
        assert_eq!(
            patience.judge(&Activity { frame: Some(SECONDS(49)), ..three }),
            Verdict::Stalled(SECONDS(48))
        );
        // The interval applies from the first frame of the next connection on.
        patience.learn(&three, true);
        assert_eq!(patience.judge(&one(40)), Verdict::Well);
        // The interval is forgotten when the camera becomes faster.
        assert_eq!(
            patience.judge(&Activity { frame: Some(SECONDS(6)), ..live() }),
            Verdict::Stalled(SECONDS(5))
        );
    }

    #[test]
    fn every_wait_ends() {
        let mut patience = patience();
        let dies = Activity { frames: 1, interval: Duration::ZERO, ..live() };
        for _ in 0..100 {
            patience.learn(&dies, true);
        }
        let dead = Activity { frame: Some(SECONDS(121)), ..dies };
        assert_eq!(patience.judge(&dead), Verdict::Stalled(SECONDS(120)));
    }
}
