//! Writes access units as fragments of an MP4 file while they arrive, one for each picture
//! (ISO/IEC 14496-12, section 8.8). Pure.
//!
//! Guarantees: the times of decoding rise strictly, each picture lasts exactly until the next one is
//! decoded, and no picture is presented before it is decoded. The first fragment is at time zero.
//!
//! A picture is written when the next one has come, because its length is known only then. With
//! B-frames it waits for as many pictures as overtake each other: RTP has no time of decoding, so
//! that it is computed from the times of presentation, in their order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::access_unit::AccessUnit;
use crate::camera::TIMESCALE;

/// Smallest distance of two pictures.
const SHORTEST: Duration = Duration::from_millis(1);

/// Maximum number of pictures that overtake one (H.264, H.265: the size of the decoder's buffer).
const DEPTH: usize = 16;

/// Sample flags (section 8.8.3.1) of a picture that depends on no other, and of one that does.
const KEY: u32 = 0x0200_0000;
const DEPENDENT: u32 = 0x0101_0000;

pub struct Fragments {
    /// Time of presentation of the first picture.
    zero: Duration,
    /// Number of pictures that overtake one.
    depth: usize,
    /// Time by which pictures are presented later, so that none is presented before its decoding.
    delay: Duration,
    /// Pictures without a time of decoding, with their times of presentation from zero.
    untimed: VecDeque<(AccessUnit, Duration)>,
    /// Times of presentation that are not yet the time of decoding of a picture.
    times: BinaryHeap<Reverse<Duration>>,
    /// The picture whose length is not known yet.
    last: Option<Timed>,
    /// Times of presentation before this one belong to pictures that cannot be decoded.
    begin: Duration,
    /// Number of fragments.
    written: u32,
}

struct Timed {
    unit: AccessUnit,
    decoded_at: Duration,
    presented_at: Duration,
}

impl Fragments {
    /// Creates the writer of a stream that begins with this key frame. `history` has earlier and
    /// later pictures of the same connection, from which the order of its pictures is learnt.
    pub fn new(first: &AccessUnit, history: &[AccessUnit]) -> Fragments {
        let mut fragments = Fragments {
            zero: first.pts,
            depth: depth(history),
            delay: Duration::ZERO,
            untimed: VecDeque::new(),
            times: BinaryHeap::new(),
            last: None,
            begin: first.pts,
            written: 0,
        };
        fragments.delay = delay(history, fragments.depth);
        fragments
    }

    /// Takes the next picture. Returns the fragment of an earlier one.
    pub fn push(&mut self, unit: AccessUnit) -> Option<Bytes> {
        // Pictures that follow a key frame and are presented before it need pictures before it.
        if unit.pts < self.begin {
            return None;
        }
        let shown = unit.pts - self.zero;
        self.untimed.push_back((unit, shown));
        self.times.push(Reverse(shown));
        if self.times.len() <= self.depth {
            return None;
        }
        let Reverse(time) = self.times.pop()?;
        let (unit, shown) = self.untimed.pop_front()?;
        let after_last = self.last.as_ref().map(|last| last.decoded_at + SHORTEST);
        if after_last.is_some_and(|after| time < after) && self.depth < DEPTH {
            // More pictures overtake one than before.
            self.depth += 1;
        }
        let decoded_at = after_last.map_or(time, |after| time.max(after));
        self.delay = self.delay.max(decoded_at.saturating_sub(shown));
        let timed = Timed { unit, decoded_at, presented_at: shown + self.delay };
        let last = self.last.replace(timed)?;
        self.written += 1;
        Some(fragment(self.written, &last, decoded_at - last.decoded_at))
    }

    /// Leaves out the pictures up to this key frame, which is pushed next.
    pub fn skip_to(&mut self, key: &AccessUnit) {
        self.untimed.clear();
        self.times.clear();
        self.begin = key.pts;
    }
}

/// Returns the number of pictures that overtake one.
fn depth(units: &[AccessUnit]) -> usize {
    let overtaken_by = |at: usize| {
        let before = &units[at.saturating_sub(DEPTH)..at];
        before.iter().filter(|before| before.pts > units[at].pts).count()
    };
    (0..units.len()).map(overtaken_by).max().unwrap_or(0)
}

/// Returns the time by which pictures must be presented later if each is decoded at the smallest
/// time of presentation among it and the next `depth` pictures, of those that are not taken yet.
fn delay(units: &[AccessUnit], depth: usize) -> Duration {
    let mut times = BinaryHeap::new();
    let mut decoded = Vec::new();
    for unit in units {
        times.push(Reverse(unit.pts));
        if times.len() > depth {
            decoded.extend(times.pop().map(|Reverse(time)| time));
        }
    }
    let late = decoded.iter().zip(units).map(|(decoded, unit)| decoded.saturating_sub(unit.pts));
    late.max().unwrap_or_default()
}

/// Returns the boxes `moof` and `mdat` of one picture.
fn fragment(number: u32, timed: &Timed, duration: Duration) -> Bytes {
    let Timed { unit, decoded_at, presented_at } = timed;
    let sample = unit.sample();
    let flags = if unit.is_key { KEY } else { DEPENDENT };
    let offset = presented_at.saturating_sub(*decoded_at);
    let duration = ticks(*decoded_at + duration) - ticks(*decoded_at);
    let header = boxed(b"mfhd", &[&[0; 4], &number.to_be_bytes()]);
    // The data's position is counted from the beginning of `moof`.
    let track = boxed(b"tfhd", &[&0x0002_0000_u32.to_be_bytes(), &1_u32.to_be_bytes()]);
    let time = boxed(b"tfdt", &[&[1, 0, 0, 0], &ticks(*decoded_at).to_be_bytes()]);
    let run = |position: u32| {
        // With the data's position, and of each picture its duration, size, flags and the distance
        // of its two times.
        let values = [
            0x0100_0f01,
            1,
            position,
            duration as u32,
            sample.len() as u32,
            flags,
            ticks(offset) as u32,
        ];
        boxed(b"trun", &[&values.map(u32::to_be_bytes).concat()])
    };
    let movie_fragment = |position: u32| {
        let fragment = boxed(b"traf", &[&track, &time, &run(position)]);
        boxed(b"moof", &[&header, &fragment])
    };
    let position = movie_fragment(0).len() + 8;
    let mut bytes = movie_fragment(position as u32);
    bytes.extend(boxed(b"mdat", &[&sample]));
    bytes.into()
}

fn ticks(time: Duration) -> u64 {
    (time.as_nanos() * u128::from(TIMESCALE) / 1_000_000_000) as u64
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = (content.len() + 8) as u32;
    [&length.to_be_bytes()[..], kind, &content].concat()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::access_unit::VideoCodec;

    fn unit(milliseconds: u64, is_key: bool) -> AccessUnit {
        AccessUnit {
            codec: VideoCodec::H264,
            data: Bytes::from_static(&[0, 0, 0, 1, 9, 16, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 2, 3]),
            is_key,
            pts: Duration::from_millis(milliseconds),
            connection: 1,
            captured_at: SystemTime::UNIX_EPOCH,
            arrived_at: Duration::ZERO,
        }
    }

    fn number(bytes: &[u8], after: &[u8; 4], at: usize) -> u32 {
        let found = bytes.windows(4).position(|window| window == after).expect("a box");
        u32::from_be_bytes(bytes[found + 4 + at..][..4].try_into().expect("4 bytes"))
    }

    /// Returns the times of decoding and of presentation, and the length of a fragment, in
    /// milliseconds.
    fn times(fragment: &Bytes) -> (u32, u32, u32) {
        let decoded = number(fragment, b"tfdt", 8);
        let (length, offset) = (number(fragment, b"trun", 12), number(fragment, b"trun", 24));
        (decoded / 90, (decoded + offset) / 90, length / 90)
    }

    fn written(shown: &[u64], history: usize) -> Vec<(u32, u32, u32)> {
        let units: Vec<_> = shown.iter().map(|at| unit(*at, *at == shown[0])).collect();
        let mut fragments = Fragments::new(&units[0], &units[..history]);
        units.into_iter().filter_map(|unit| fragments.push(unit)).map(|f| times(&f)).collect()
    }

    #[test]
    fn a_plain_stream_is_written_one_picture_late() {
        let expected = [(0, 0, 40), (40, 40, 40), (80, 80, 120)];
        assert_eq!(written(&[5000, 5040, 5080, 5200], 1), expected);
    }

    #[test]
    fn b_frames_are_decoded_before_they_are_presented() {
        let shown = [0, 300, 100, 200, 600, 400, 500, 900];
        let expected = [
            (0, 100, 100),
            (100, 400, 100),
            (200, 200, 100),
            (300, 300, 100),
            (400, 700, 100),
            (500, 500, 100),
        ];
        assert_eq!(written(&shown, 8), expected);
    }

    #[test]
    fn pictures_that_cannot_be_decoded_are_left_out() {
        let mut fragments = Fragments::new(&unit(1000, true), &[]);
        assert_eq!(fragments.push(unit(1000, true)), None);
        assert_eq!(fragments.push(unit(900, false)), None);
        let first = fragments.push(unit(1040, false)).expect("a fragment");
        assert_eq!(times(&first), (0, 0, 40));
        // A viewer that is too slow: its last picture stands still until the key frame.
        let key = unit(9000, true);
        fragments.skip_to(&key);
        assert_eq!(times(&fragments.push(key).expect("a fragment")), (40, 40, 7960));
        assert_eq!(fragments.push(unit(8900, false)), None);
        assert!(fragments.push(unit(9040, false)).is_some());
    }

    #[test]
    fn a_fragment_holds_the_picture_without_its_parameter_sets() {
        let mut fragments = Fragments::new(&unit(0, true), &[]);
        fragments.push(unit(0, true));
        let fragment = fragments.push(unit(40, false)).expect("a fragment");
        let moof = u32::from_be_bytes(fragment[..4].try_into().expect("4 bytes")) as usize;
        assert_eq!(fragment[moof..], [0, 0, 0, 15, b'm', b'd', b'a', b't', 0, 0, 0, 3, 0x65, 2, 3]);
        assert_eq!(number(&fragment, b"trun", 8), moof as u32 + 8);
        assert_eq!((number(&fragment, b"trun", 16), number(&fragment, b"trun", 20)), (7, KEY));
    }

    proptest! {
        #[test]
        fn times_of_decoding_rise_and_join(
            shown in prop::collection::vec(0u64..4000, 1..60),
            history in 0usize..60,
        ) {
            let written = written(&shown, history.min(shown.len()));
            for pair in written.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0);
                prop_assert!((pair[0].0 + pair[0].2).abs_diff(pair[1].0) <= 1);
            }
            for (decoded, presented, _) in written {
                prop_assert!(decoded <= presented);
            }
        }
    }
}
