//! The newest access units of a camera, in memory. Pure.
//!
//! Guarantees: the ring never holds more than its limit of bytes. It begins with a key frame, and
//! so does each connection in it. Units leave it together up to the next key frame. No unit refers
//! to one that is missing.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::access_unit::AccessUnit;
use crate::frame::Span;

/// Number of deleted spans that are remembered for units which are still to come.
const REMEMBERED: usize = 16;

/// Bytes that a unit takes in addition to its data.
const OVERHEAD: u64 = size_of::<AccessUnit>() as u64;

/// Limits of a ring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Age up to which units are held.
    pub age: Duration,
    /// Maximum bytes of all units, also of those that are needed longer.
    pub bytes: u64,
}

pub struct Ring {
    limits: Limits,
    units: VecDeque<AccessUnit>,
    /// Number of the oldest unit. Numbers rise by one with each unit.
    first: u64,
    bytes: u64,
    /// True until the next key frame: the units before it cannot be decoded.
    waits_for_key: bool,
    /// Time of the newest key frame, if units before it are missing. Units that are shown before it
    /// refer to them.
    begins_at: Option<Duration>,
    /// The spans that were deleted last. A unit of one of them that is still to come is dropped.
    deleted: VecDeque<Span>,
}

impl Ring {
    /// Changes the age up to which units are held. Older ones are dropped with the next unit.
    pub fn set_age(&mut self, age: Duration) {
        self.limits.age = age;
    }

    pub fn new(limits: Limits) -> Ring {
        Ring {
            limits,
            units: VecDeque::new(),
            first: 0,
            bytes: 0,
            waits_for_key: true,
            begins_at: None,
            deleted: VecDeque::new(),
        }
    }

    /// Adds the newest unit. Units captured from `needed_from` on are held for any age.
    pub fn push(&mut self, unit: AccessUnit, needed_from: Option<SystemTime>) {
        let newest = self.units.back();
        let is_connected = newest.is_some_and(|newest| newest.connection == unit.connection);
        let is_deleted = self.deleted.iter().any(|span| span.contains(unit.captured_at));
        self.waits_for_key |= !is_connected || is_deleted;
        if is_deleted || self.waits_for_key && !unit.is_key {
            return;
        }
        if unit.is_key {
            self.begins_at = self.waits_for_key.then_some(unit.pts);
        }
        self.waits_for_key = false;
        if self.begins_at.is_some_and(|begins_at| unit.pts < begins_at) {
            return;
        }
        let now = unit.arrived_at;
        self.bytes += size(&unit);
        self.units.push_back(unit);
        while self.bytes > self.limits.bytes {
            self.drop_oldest();
        }
        while self.first_is_too_old(now, needed_from) {
            self.drop_oldest();
        }
        // A group of pictures that is larger than the ring has been dropped while it arrived.
        self.waits_for_key = self.units.is_empty();
    }

    /// Returns the units of a span, in the order of decoding: from the last key frame before it, or
    /// the first one in it.
    pub fn of(&self, span: Span) -> Vec<AccessUnit> {
        let is_before = |unit: &AccessUnit| unit.is_key && unit.captured_at <= span.from;
        let first = self.units.iter().rposition(is_before).unwrap_or(0);
        let units = self.units.iter().skip(first);
        let last = units.clone().rposition(|unit| unit.captured_at < span.to);
        units.take(last.map_or(0, |last| last + 1)).cloned().collect()
    }

    /// Deletes the groups of pictures that have a unit captured in a span, because the units of a
    /// group refer to each other. The units that are left get new numbers. Units of the span that
    /// are still to come are dropped.
    pub fn delete(&mut self, span: Span) {
        self.deleted.push_back(span);
        if self.deleted.len() > REMEMBERED {
            self.deleted.pop_front();
        }
        let held = self.units.len();
        let mut units = std::mem::take(&mut self.units).into_iter().peekable();
        let mut is_behind_deleted = false;
        while let Some(key) = units.next() {
            let begins_at = key.pts;
            let mut group = vec![key];
            while let Some(unit) = units.next_if(|unit| !unit.is_key) {
                group.push(unit);
            }
            if group.iter().any(|unit| span.contains(unit.captured_at)) {
                is_behind_deleted = true;
                continue;
            }
            if std::mem::take(&mut is_behind_deleted) {
                group.retain(|unit| unit.pts >= begins_at);
            }
            self.units.extend(group);
        }
        self.waits_for_key |= is_behind_deleted;
        self.bytes = self.units.iter().map(size).sum();
        if self.units.len() < held {
            // No unit has the number of one that was deleted.
            self.first += held as u64;
        }
    }

    /// Returns the newest key frame and its number.
    pub fn newest_key(&self) -> Option<(u64, &AccessUnit)> {
        let at = self.units.iter().rposition(|unit| unit.is_key)?;
        Some((self.first + at as u64, self.units.get(at)?))
    }

    /// Returns the unit of a number, or `None` if it has left the ring or has not come yet.
    pub fn get(&self, number: u64) -> Option<&AccessUnit> {
        self.units.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Returns the number of the oldest unit.
    pub fn oldest(&self) -> u64 {
        self.first
    }

    /// Returns all units, the oldest first.
    pub fn units(&self) -> impl Iterator<Item = &AccessUnit> {
        self.units.iter()
    }

    /// Drops all units.
    pub fn clear(&mut self) {
        self.first += self.units.len() as u64;
        self.units.clear();
        (self.bytes, self.waits_for_key) = (0, true);
    }

    /// Returns the time of capture of the newest unit.
    pub fn newest(&self) -> Option<SystemTime> {
        self.units.back().map(|unit| unit.captured_at)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns true if the units after the first group reach back far enough.
    fn first_is_too_old(&self, now: Duration, needed_from: Option<SystemTime>) -> bool {
        let second = self.units.iter().skip(1).find(|unit| unit.is_key);
        second.is_some_and(|second| {
            now.saturating_sub(second.arrived_at) >= self.limits.age
                && needed_from.is_none_or(|needed| second.captured_at <= needed)
        })
    }

    /// Drops the units before the second key frame.
    fn drop_oldest(&mut self) {
        while let Some(unit) = self.units.pop_front() {
            self.bytes -= size(&unit);
            self.first += 1;
            if self.units.front().is_some_and(|next| next.is_key) {
                break;
            }
        }
    }
}

fn size(unit: &AccessUnit) -> u64 {
    unit.data.len() as u64 + OVERHEAD
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::access_unit::VideoCodec;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    fn unit(milliseconds: u64, is_key: bool, bytes: usize, connection: u64) -> AccessUnit {
        AccessUnit {
            codec: VideoCodec::H264,
            data: vec![0; bytes].into(),
            is_key,
            pts: Duration::from_millis(milliseconds),
            connection,
            captured_at: at(milliseconds),
            arrived_at: Duration::from_millis(milliseconds),
        }
    }

    fn ring(age: u64, bytes: u64) -> Ring {
        Ring::new(Limits { age: Duration::from_secs(age), bytes })
    }

    /// Pushes a key frame per second and ten units in between, for some seconds.
    fn fill(ring: &mut Ring, seconds: u64, needed_from: Option<SystemTime>) {
        for n in 0..seconds * 10 {
            ring.push(unit(n * 100, n % 10 == 0, 1000, 1), needed_from);
        }
    }

    fn times(units: &[AccessUnit]) -> Option<(SystemTime, SystemTime)> {
        Some((units.first()?.captured_at, units.last()?.captured_at))
    }

    #[test]
    fn a_span_begins_at_the_key_frame_before_it() {
        let mut ring = ring(60, 1 << 30);
        fill(&mut ring, 20, None);
        let span = |from, to| Span { from: at(from), to: at(to) };
        assert_eq!(times(&ring.of(span(4_500, 7_000))), Some((at(4_000), at(6_900))));
        assert_eq!(times(&ring.of(span(4_000, 4_001))), Some((at(4_000), at(4_000))));
        assert_eq!(times(&ring.of(span(18_200, 90_000))), Some((at(18_000), at(19_900))));
        assert!(ring.of(Span { from: SystemTime::UNIX_EPOCH, to: at(0) }).is_empty());
    }

    #[test]
    fn units_leave_for_their_age_unless_they_are_needed() {
        let mut free = ring(5, 1 << 30);
        fill(&mut free, 20, None);
        let all = Span { from: at(0), to: at(90_000) };
        assert_eq!(times(&free.of(all)), Some((at(14_000), at(19_900))));
        let mut needed = ring(5, 1 << 30);
        fill(&mut needed, 20, Some(at(7_300)));
        assert_eq!(times(&needed.of(all)), Some((at(7_000), at(19_900))));
    }

    #[test]
    fn the_bytes_are_bounded_although_units_are_needed() {
        let mut ring = ring(5, 30_000);
        fill(&mut ring, 20, Some(at(0)));
        let all = Span { from: at(0), to: at(90_000) };
        assert_eq!(times(&ring.of(all)), Some((at(18_000), at(19_900))));
        // A group of pictures that is too large for the ring.
        ring.push(unit(20_000, true, 1_000_000, 1), None);
        ring.push(unit(20_100, false, 1_000, 1), None);
        assert_eq!((ring.of(all).len(), ring.bytes()), (0, 0));
        ring.push(unit(21_000, true, 1_000, 1), None);
        assert_eq!(ring.of(all).len(), 1);
    }

    #[test]
    fn a_deletion_takes_whole_groups_and_what_refers_to_them() {
        let all = Span { from: at(0), to: at(90_000) };
        let seconds = |ring: &Ring| {
            let keys = ring.of(all).into_iter().filter(|unit| unit.is_key);
            keys.map(|unit| unit.pts.as_secs()).collect::<Vec<_>>()
        };
        let mut ring = ring(60, 1 << 30);
        fill(&mut ring, 10, None);
        // Shown before the key frame at 10 s, and refers to the group at 9 s.
        ring.push(unit(10_000, true, 1_000, 1), None);
        ring.push(unit(9_950, false, 1_000, 1), None);
        ring.push(unit(10_050, false, 1_000, 1), None);
        ring.delete(Span { from: at(2_500), to: at(4_001) });
        assert_eq!(seconds(&ring), [0, 1, 5, 6, 7, 8, 9, 10]);
        assert_eq!((ring.of(all).len(), ring.bytes()), (73, 73 * (1_000 + OVERHEAD)));
        ring.delete(Span { from: at(9_000), to: at(9_100) });
        let units = ring.of(Span { from: at(10_000), to: at(90_000) });
        assert_eq!(times(&units), Some((at(10_000), at(10_050))));
        assert_eq!(units.len(), 2);

        // Up to the newest unit, with units that are still to come.
        ring.delete(Span { from: at(10_040), to: at(10_200) });
        ring.push(unit(10_100, true, 1_000, 1), None);
        ring.push(unit(10_300, false, 1_000, 1), None);
        assert_eq!(seconds(&ring), [0, 1, 5, 6, 7, 8]);
        ring.push(unit(11_000, true, 1_000, 1), None);
        ring.push(unit(10_950, false, 1_000, 1), None);
        ring.push(unit(11_100, false, 1_000, 1), None);
        assert_eq!(seconds(&ring), [0, 1, 5, 6, 7, 8, 11]);
        assert_eq!(ring.of(all).len(), 62);
    }

    #[test]
    fn units_keep_their_numbers() {
        let mut ring = ring(5, 1 << 30);
        fill(&mut ring, 20, None);
        assert_eq!(
            ring.newest_key().map(|(number, key)| (number, key.captured_at)),
            Some((190, at(19_000)))
        );
        assert_eq!(ring.get(195).map(|unit| unit.captured_at), Some(at(19_500)));
        assert_eq!((ring.oldest(), ring.get(139), ring.get(200)), (140, None, None));
        ring.clear();
        ring.push(unit(20_000, false, 1_000, 1), None);
        assert_eq!((ring.oldest(), ring.bytes(), ring.newest_key()), (200, 0, None));
        ring.push(unit(20_100, true, 1_000, 1), None);
        assert_eq!(ring.newest_key().map(|(number, _)| number), Some(200));
    }

    proptest! {
        #[test]
        fn the_ring_is_bounded_and_every_connection_in_it_begins_with_a_key_frame(
            units in prop::collection::vec(
                (any::<bool>(), 0usize..3_000, 0u64..2_000, prop::bool::weighted(0.1)), 0..200,
            ),
            age in 0u64..30,
            bytes in 0u64..40_000,
            needed_from in prop::option::of(0u64..200_000),
            from in 0u64..300_000,
            length in 0u64..100_000,
        ) {
            let mut ring = ring(age, bytes);
            let (mut now, mut connection) = (0, 1);
            for (is_key, size, passed, is_new) in units {
                now += passed;
                connection += u64::from(is_new);
                ring.push(unit(now, is_key, size, connection), needed_from.map(at));
                prop_assert!(ring.bytes() <= bytes);
                let held: u64 = ring.units.iter().map(size_of_unit).sum();
                prop_assert_eq!(held, ring.bytes());
            }
            let span = Span { from: at(from), to: at(from + length) };
            for units in [ring.of(span), ring.units.iter().cloned().collect()] {
                let mut last = None;
                for unit in &units {
                    prop_assert!(unit.is_key || last == Some(unit.connection));
                    last = Some(unit.connection);
                }
                prop_assert!(units.windows(2).all(|pair| pair[0].arrived_at <= pair[1].arrived_at));
            }
        }
    }

    fn size_of_unit(unit: &AccessUnit) -> u64 {
        Bytes::len(&unit.data) as u64 + OVERHEAD
    }
}
