//! Cuts the access units of a clip to those that one MP4 file can hold, and gives each its times in
//! the file. Pure.
//!
//! Guarantees: a cut begins with a key frame. The times of decoding rise strictly, and no picture is
//! presented before it is decoded, also with B-frames, whose order of decoding is not that of
//! presentation. The file's time is that of the cameras' frames: where the connection was lost, the
//! last picture before it stands still.
//!
//! An MP4 file describes its stream once. If the stream changes (size, profile), the cut holds the
//! part around `around`, and a [`Flaw`] says so.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::access_unit::{AccessUnit, TimedUnit, VideoCodec};
use crate::frame::{Span, shift};

/// Difference between the times of two units, by the stream's clock and by the time of capture, at
/// which the stream's clock was set.
const JUMP: Duration = Duration::from_secs(2);

/// Time without pictures from which it is a flaw.
const PAUSE: Duration = Duration::from_secs(2);

/// Smallest distance of two pictures, and the length of a single one.
const SHORTEST: Duration = Duration::from_millis(1);
const USUAL: Duration = Duration::from_millis(40);

/// The pictures of an MP4 file.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    pub codec: VideoCodec,
    /// The pictures in the order of decoding, at least one.
    pub units: Vec<TimedUnit>,
    /// Times of capture, from the first picture to the end of the last.
    pub span: Span,
    pub flaws: Vec<Flaw>,
}

/// A difference between a cut and the span that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Flaw {
    #[error("begins {:.1} s late: the stream before is not held", .0.as_secs_f64())]
    BeginsLate(Duration),
    #[error("ends {:.1} s early: the stream after is not held", .0.as_secs_f64())]
    EndsEarly(Duration),
    #[error("has no pictures for {:.1} s: none came, or they were deleted", .0.as_secs_f64())]
    Paused(Duration),
    #[error("the camera's stream changed its format, and the clip holds one format")]
    FormatChanged,
}

/// A run of units with one clock and one description of the stream.
struct Piece {
    units: Vec<AccessUnit>,
    codec: VideoCodec,
    parameter_sets: Vec<Bytes>,
}

impl Piece {
    /// Returns the time of capture of the first picture, according to most of them. The first
    /// pictures of a connection are dated by their arrival, which is later.
    fn begin(&self) -> SystemTime {
        let zero = self.units[0].pts.as_nanos() as i128;
        let begin = |unit: &AccessUnit| shift(unit.captured_at, zero - unit.pts.as_nanos() as i128);
        let mut begins: Vec<SystemTime> = self.units.iter().map(begin).collect();
        begins.sort_unstable();
        begins[begins.len() / 2]
    }
}

impl Cut {
    /// Cuts the units of a span. Returns `None` if none can be decoded. Of a stream that changes its
    /// format, the part that contains `around`, or else the first part after it, remains.
    pub fn of(units: Vec<AccessUnit>, span: Span, around: SystemTime) -> Option<Cut> {
        let (pieces, is_changed) = one_format(pieces(units), around);
        let first = pieces.first()?;
        let (codec, begin) = (first.codec, first.begin());
        let units = timed(pieces);
        let last = units.last()?;
        let end = units.iter().map(|unit| unit.unit.captured_at).max()? + last.duration;
        let mut flaws = Vec::new();
        let late = begin.duration_since(span.from).unwrap_or_default();
        if late >= PAUSE {
            flaws.push(Flaw::BeginsLate(late));
        }
        let longest = units.iter().map(|unit| unit.duration).max().unwrap_or_default();
        if longest >= PAUSE {
            flaws.push(Flaw::Paused(longest));
        }
        let early = span.to.duration_since(end).unwrap_or_default();
        if early >= PAUSE {
            flaws.push(Flaw::EndsEarly(early));
        }
        flaws.extend(is_changed.then_some(Flaw::FormatChanged));
        Some(Cut { codec, units, span: Span { from: begin, to: end }, flaws })
    }
}

/// Splits units where the connection, the stream's description or its clock changes. Pictures that
/// cannot be decoded are dropped: those before a key frame, and those after it that are presented
/// before it.
fn pieces(units: Vec<AccessUnit>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut waits_for_key = true;
    for unit in units {
        let piece = pieces.last_mut();
        let last = piece.as_ref().and_then(|piece| piece.units.last());
        let is_same = last.is_some_and(|last| {
            last.codec == unit.codec && last.connection == unit.connection && !jumps(last, &unit)
        });
        let parameter_sets = if unit.is_key { unit.parameter_sets() } else { Vec::new() };
        let is_described = piece.as_ref().is_some_and(|piece| {
            parameter_sets.is_empty() || parameter_sets == piece.parameter_sets
        });
        waits_for_key |= !is_same;
        match piece {
            Some(piece) if is_same && is_described && !waits_for_key => {
                let is_leading = piece.units.iter().filter(|unit| unit.is_key).count() == 1
                    && unit.pts < piece.units[0].pts;
                if !is_leading {
                    piece.units.push(unit);
                }
            }
            _ if unit.is_key => {
                waits_for_key = false;
                pieces.push(Piece { codec: unit.codec, units: vec![unit], parameter_sets });
            }
            _ => {}
        }
    }
    pieces
}

/// Returns true if the stream's clock was set between two units.
pub fn jumps(last: &AccessUnit, unit: &AccessUnit) -> bool {
    let by_stream = unit.pts.as_secs_f64() - last.pts.as_secs_f64();
    let by_arrival = unit.arrived_at.as_secs_f64() - last.arrived_at.as_secs_f64();
    (by_stream - by_arrival).abs() > JUMP.as_secs_f64()
}

/// Returns the pieces with the format of the piece that contains `around`, and whether others were
/// left out.
fn one_format(mut pieces: Vec<Piece>, around: SystemTime) -> (Vec<Piece>, bool) {
    let begins_before = |piece: &Piece| piece.units[0].captured_at <= around;
    let chosen = pieces.iter().rposition(begins_before).unwrap_or(0);
    let is_like_chosen = |piece: &Piece| {
        let Piece { codec, parameter_sets, .. } = &pieces[chosen];
        piece.codec == *codec && piece.parameter_sets == *parameter_sets
    };
    let before = pieces.iter().take(chosen).rev().take_while(|piece| is_like_chosen(piece)).count();
    let after = pieces.iter().skip(chosen).take_while(|piece| is_like_chosen(piece)).count();
    let kept = chosen - before..chosen + after;
    let is_changed = kept.len() < pieces.len();
    (pieces.drain(kept).collect(), is_changed)
}

/// Puts pieces on one time line.
fn timed(pieces: Vec<Piece>) -> Vec<TimedUnit> {
    let Some(begin) = pieces.first().map(Piece::begin) else { return Vec::new() };
    let mut units = Vec::new();
    // Times of presentation from the first picture's on.
    let mut presented: Vec<Duration> = Vec::new();
    let mut end = Duration::ZERO;
    for piece in pieces {
        let first = &piece.units[0];
        let since_begin = piece.begin().duration_since(begin).unwrap_or_default();
        let (at, zero) = (since_begin.max(end), first.pts);
        for unit in piece.units {
            let time = at + unit.pts.saturating_sub(zero);
            end = end.max(time + USUAL);
            presented.push(time);
            units.push(unit);
        }
    }
    // Pictures are decoded at the times of presentation, in order.
    let mut decoded = presented.clone();
    decoded.sort();
    for at in 1..decoded.len() {
        decoded[at] = decoded[at].max(decoded[at - 1] + SHORTEST);
    }
    let late = decoded.iter().zip(&presented).map(|(decode, show)| decode.saturating_sub(*show));
    let delay = late.max().unwrap_or_default();
    let usual = decoded.windows(2).last().map_or(USUAL, |pair| pair[1] - pair[0]);
    let duration = |at: usize| decoded.get(at + 1).map_or(usual, |next| *next - decoded[at]);
    let timed = units.into_iter().zip(presented).enumerate().map(|(at, (unit, show))| TimedUnit {
        unit,
        decoded_at: decoded[at],
        presented_at: show + delay,
        duration: duration(at),
    });
    timed.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + ms(milliseconds)
    }

    fn span(from: u64, to: u64) -> Span {
        Span { from: at(from), to: at(to) }
    }

    /// Returns a unit of a stream whose clock is `clock` ms ahead, with a description by number.
    fn unit(shown: u64, clock: u64, is_key: bool, connection: u64, format: u8) -> AccessUnit {
        let data = if is_key { vec![0, 0, 1, 0x67, format + 1] } else { vec![0, 0, 1, 0x41, 7] };
        AccessUnit {
            codec: VideoCodec::H264,
            data: Bytes::from(data),
            is_key,
            pts: ms(shown + clock),
            connection,
            captured_at: at(shown),
            arrived_at: ms(shown),
        }
    }

    /// Returns `count` units, 100 ms apart, with a key frame at every tenth.
    fn stream(from: u64, count: u64, clock: u64, connection: u64, format: u8) -> Vec<AccessUnit> {
        let unit = |n| unit(from + n * 100, clock, n % 10 == 0, connection, format);
        (0..count).map(unit).collect()
    }

    fn presented(cut: &Cut) -> Vec<u64> {
        cut.units.iter().map(|unit| unit.presented_at.as_millis() as u64).collect()
    }

    #[test]
    fn a_plain_stream_keeps_its_times() {
        let cut = Cut::of(stream(5_000, 30, 77, 1, 0), span(5_000, 8_000), at(6_000)).unwrap();
        assert_eq!(presented(&cut), (0..30).map(|n| n * 100).collect::<Vec<_>>());
        assert!(cut.units.iter().all(|unit| unit.decoded_at == unit.presented_at));
        assert!(cut.units.iter().all(|unit| unit.duration == ms(100)));
        assert_eq!((cut.span, cut.flaws), (span(5_000, 8_000), vec![]));
    }

    #[test]
    fn b_frames_are_decoded_before_they_are_presented() {
        // I P B B P B B in the order of decoding.
        let shown = [0, 300, 100, 200, 600, 400, 500];
        let units: Vec<_> = shown.iter().zip(0..).map(|(t, n)| unit(*t, 0, n == 0, 1, 0)).collect();
        let cut = Cut::of(units, span(0, 700), at(0)).unwrap();
        let decoded: Vec<_> = cut.units.iter().map(|unit| unit.decoded_at.as_millis()).collect();
        assert_eq!(decoded, [0, 100, 200, 300, 400, 500, 600]);
        assert_eq!(presented(&cut), [100, 400, 200, 300, 700, 500, 600]);
    }

    #[test]
    fn pictures_that_need_an_earlier_group_are_dropped_at_the_beginning_only() {
        // Each key frame is followed by two pictures that are presented before it.
        let shown = [1000, 800, 900, 1100, 1600, 1400, 1500, 1700];
        let key = [true, false, false, false, true, false, false, false];
        let units = shown.iter().zip(key).map(|(t, key)| unit(*t, 0, key, 1, 0)).collect();
        let cut = Cut::of(units, span(1000, 1800), at(1000)).unwrap();
        let kept: Vec<_> = cut.units.iter().map(|unit| unit.unit.pts.as_millis()).collect();
        assert_eq!(kept, [1000, 1100, 1600, 1400, 1500, 1700]);
    }

    #[test]
    fn a_reconnect_leaves_a_still_picture_of_its_length() {
        let mut units = stream(0, 20, 0, 1, 0);
        units.extend(stream(7_000, 20, 900_000, 2, 0));
        let cut = Cut::of(units, span(0, 9_000), at(1_000)).unwrap();
        assert_eq!(cut.units[20].presented_at, ms(7_000));
        assert_eq!(cut.units[19].duration, ms(5_100));
        assert_eq!(cut.flaws, [Flaw::Paused(ms(5_100))]);
    }

    #[test]
    fn the_first_pictures_of_a_connection_have_the_time_that_later_ones_say() {
        let mut units = stream(0, 20, 0, 1, 0);
        units.extend(stream(4_000, 20, 0, 2, 0));
        for unit in units[..3].iter_mut() {
            unit.captured_at = at(700);
        }
        for unit in units[20..23].iter_mut() {
            unit.captured_at = at(4_700);
        }
        let cut = Cut::of(units, span(0, 6_000), at(1_000)).unwrap();
        assert_eq!((cut.span.from, cut.units[20].presented_at), (at(0), ms(4_000)));
    }

    #[test]
    fn a_stream_clock_that_is_set_makes_no_pause() {
        let mut units = stream(0, 20, 0, 1, 0);
        units.extend(stream(2_000, 20, 3_600_000, 1, 0));
        let cut = Cut::of(units, span(0, 4_000), at(1_000)).unwrap();
        assert_eq!(presented(&cut), (0..40).map(|n| n * 100).collect::<Vec<_>>());
        assert!(cut.flaws.is_empty(), "{:?}", cut.flaws);
    }

    #[test]
    fn a_new_format_leaves_the_part_around_the_alert() {
        let mut units = stream(0, 20, 0, 1, 0);
        units.extend(stream(2_000, 20, 0, 1, 1));
        units.extend(stream(4_000, 20, 0, 1, 0));
        for (around, from, to) in [(500, 0, 2_000), (3_000, 2_000, 4_000), (9_000, 4_000, 6_000)] {
            let cut = Cut::of(units.clone(), span(0, 6_000), at(around)).unwrap();
            assert_eq!(cut.span, span(from, to));
            assert!(cut.flaws.contains(&Flaw::FormatChanged), "{:?}", cut.flaws);
        }
    }

    #[test]
    fn a_late_begin_and_an_early_end_are_reported() {
        let cut = Cut::of(stream(5_000, 10, 0, 1, 0), span(1_000, 9_000), at(2_000)).unwrap();
        assert_eq!(cut.flaws, [Flaw::BeginsLate(ms(4_000)), Flaw::EndsEarly(ms(3_000))]);
        assert_eq!(cut.flaws[0].to_string(), "begins 4.0 s late: the stream before is not held");
        let no_key = (0..10).map(|n| unit(n * 100, 0, false, 1, 0)).collect();
        assert_eq!(Cut::of(no_key, span(0, 1_000), at(0)), None);
        assert_eq!(Cut::of(Vec::new(), span(0, 1_000), at(0)), None);
    }

    proptest! {
        #[test]
        fn every_cut_begins_with_a_key_frame_and_has_valid_times(
            units in prop::collection::vec(
                (0u64..20_000, 0u64..4_000_000, prop::bool::weighted(0.3), 0u64..3, 0u8..2), 0..60,
            ),
            around in 0u64..20_000,
        ) {
            let count = units.len();
            let units = units
                .into_iter()
                .map(|(shown, clock, key, connection, format)| {
                    unit(shown, clock % 9_000, key, connection, format)
                })
                .collect();
            let Some(cut) = Cut::of(units, span(0, 20_000), at(around)) else { return Ok(()) };
            prop_assert!(cut.units[0].unit.is_key && cut.units.len() <= count);
            let mut last = None;
            for unit in &cut.units {
                prop_assert!(last.is_none_or(|last| last < unit.decoded_at));
                prop_assert!(unit.decoded_at <= unit.presented_at);
                last = Some(unit.decoded_at);
            }
            for pair in cut.units.windows(2) {
                prop_assert_eq!(pair[0].decoded_at + pair[0].duration, pair[1].decoded_at);
            }
        }
    }
}
