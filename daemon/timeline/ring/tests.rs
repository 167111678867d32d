//! Tests of the ring: its order, its tiers and their limits, and records on disk that appear or go.

use proptest::prelude::*;

use super::super::lookup::tests::found;
use super::*;

pub const RUN: u64 = 500;

pub fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

pub fn id(number: u64) -> FrameId {
    FrameId { run: RUN, number }
}

pub fn entry(number: u64, milliseconds: u64, jpeg: usize) -> Entry {
    Entry {
        id: id(number),
        monotonic: Duration::from_millis(milliseconds),
        captured_at: at(milliseconds),
        clock: Clock::Host,
        residency: Residency::Hot {
            tokens: Arc::new(FrameTokens {
                slow: vec![half::f16::ZERO; 40].into(),
                fast: vec![half::f16::ZERO; 8].into(),
            }),
            jpeg: vec![0; jpeg].into(),
        },
        disk_state: DiskState::Absent,
        left_before: None,
    }
}

pub fn limits(age: u64, hot_bytes: usize, warm_bytes: usize) -> Limits {
    let age = Duration::from_millis(age);
    Limits { hot_age: age, hot_bytes, warm_age: age, warm_bytes }
}

pub fn address(segment: u64) -> DiskAddress {
    DiskAddress { segment, offset: 0, length: 100 }
}

/// Checks the counts, the order of the entries and the order of the tiers.
pub fn check(ring: &Ring) -> Result<(), TestCaseError> {
    let mut seen = Usage { frames: ring.entries.len(), ..ring.usage() };
    (seen.hot, seen.token_bytes, seen.warm, seen.disk) = Default::default();
    let mut coldest_allowed = 0;
    for entry in &ring.entries {
        let warmth = match &entry.residency {
            Residency::Disk => 0,
            Residency::Warm { .. } => 1,
            Residency::Hot { .. } => 2,
        };
        prop_assert!(warmth >= coldest_allowed, "{entry:?} is colder than an older one");
        coldest_allowed = warmth;
        seen.token_bytes += entry.tokens().map_or(0, |tokens| tokens.bytes() as u64);
        prop_assert!(warmth > 0 || entry.disk_state != DiskState::Absent, "{entry:?} is nowhere");
        for (tier, bytes) in [
            (&mut seen.hot, if warmth == 2 { entry.bytes() as u64 } else { 0 }),
            (&mut seen.warm, if warmth == 1 { entry.bytes() as u64 } else { 0 }),
            (&mut seen.disk, entry.on_disk()),
        ] {
            tier.frames += usize::from(bytes > 0);
            tier.bytes += bytes;
        }
    }
    prop_assert_eq!(seen, ring.usage());
    let ordered = ring.entries.iter().zip(ring.entries.iter().skip(1));
    for (a, b) in ordered {
        prop_assert!(a.id < b.id);
        let new_stretch = ring.stretches.iter().any(|id| a.id < *id && *id <= b.id);
        prop_assert!(a.captured_at < b.captured_at || new_stretch);
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Frame {
        after: u64,
        jpeg: usize,
        to_disk: bool,
    },
    /// The oldest frame that waits to be written was stored, or not.
    Written(bool),
    /// The oldest segment is deleted.
    SegmentGone,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let frame = (1u64..2000, 0usize..500, any::<bool>())
        .prop_map(|(after, jpeg, to_disk)| Step::Frame { after, jpeg, to_disk });
    let step = prop_oneof![
        4 => frame,
        2 => any::<bool>().prop_map(Step::Written),
        1 => Just(Step::SegmentGone),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn limits_hold_and_every_eviction_is_counted(
        steps in steps(),
        (hot_age, warm_age) in (100u64..20_000, 100u64..40_000),
        (hot_bytes, warm_bytes) in (1usize..20_000, 0usize..10_000),
    ) {
        let (hot, warm) = (Duration::from_millis(hot_age), Duration::from_millis(warm_age));
        let limits = Limits { hot_age: hot, hot_bytes, warm_age: warm, warm_bytes };
        let mut ring = Ring::new(limits);
        let (mut now, mut number, mut segment) = (0, 0, 1);
        let mut on_the_way = VecDeque::new();
        for step in steps {
            match step {
                Step::Frame { after, jpeg, to_disk } => {
                    now += after;
                    let mut entry = entry(number, now, jpeg);
                    if to_disk {
                        entry.disk_state = DiskState::Pending;
                        on_the_way.push_back(number);
                    }
                    ring.push(entry);
                    prop_assert_eq!(ring.newest().map(|e| e.id), Some(id(number)));
                    number += 1;
                }
                Step::Written(well) => {
                    if let Some(number) = on_the_way.pop_front() {
                        ring.stored(id(number), well.then_some(address(segment)));
                        segment += number % 2;
                    }
                }
                Step::SegmentGone => {
                    (0..=segment.saturating_sub(2)).for_each(|old| ring.segment_gone(old));
                }
            }
            check(&ring)?;
            let usage = ring.usage();
            prop_assert!(usage.hot.frames <= 1 || usage.hot.bytes <= hot_bytes as u64);
            prop_assert!(usage.warm.bytes <= warm_bytes as u64);
            prop_assert_eq!(usage.frames as u64 + usage.evicted, number);
            // Every frame missing between two entries is recorded.
            for (a, b) in ring.entries.iter().zip(ring.entries.iter().skip(1)) {
                prop_assert_eq!(b.id.number > a.id.number + 1, b.left_before.is_some());
            }
        }
    }
}

#[test]
fn a_frame_passes_through_the_tiers() {
    let size = entry(0, 0, 50).bytes();
    let jpeg = size_of::<Entry>() + 50;
    let mut ring = Ring::new(limits(1 << 40, 3 * size, 2 * jpeg));
    for number in 0..8 {
        let mut entry = entry(number, number * 1000, 50);
        entry.disk_state = DiskState::Pending;
        ring.push(entry);
        if number != 1 {
            ring.stored(id(number), Some(address(number / 2)));
        }
    }
    let held = |ring: &Ring| {
        let name = |entry: &Entry| match entry.residency {
            Residency::Hot { .. } => format!("{} hot", entry.id.number),
            Residency::Warm { .. } => format!("{} warm", entry.id.number),
            Residency::Disk => format!("{} disk", entry.id.number),
        };
        ring.entries.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(held(&ring), "0 disk, 1 disk, 2 disk, 3 warm, 4 warm, 5 hot, 6 hot, 7 hot");
    // A frame that was never stored leaves, and the next one records it.
    ring.stored(id(1), None);
    assert!(ring.get(id(2)).is_some_and(|entry| entry.left_before.is_some()));
    // Segment 1 holds 2 and 3. Frame 3 is warm and stays, but its record is gone.
    ring.segment_gone(1);
    assert_eq!(held(&ring), "0 disk, 3 warm, 4 warm, 5 hot, 6 hot, 7 hot");
    ring.segment_gone(0);
    assert_eq!(held(&ring), "3 warm, 4 warm, 5 hot, 6 hot, 7 hot");
    assert_eq!(ring.get(id(3)).map(|entry| entry.disk_state), Some(DiskState::Absent));
    assert_eq!(ring.usage().disk, Tier { frames: 4, bytes: 400 });
}

#[test]
fn an_earlier_run_comes_before_this_one() {
    let mut ring = Ring::new(limits(60_000, 1 << 20, 1 << 20));
    ring.push(entry(0, 5000, 0));
    let earlier = |run, number, milliseconds| Entry {
        id: FrameId { run, number },
        residency: Residency::Disk,
        disk_state: DiskState::At(address(1)),
        ..entry(number, milliseconds, 0)
    };
    // One entry is of a clock that was ahead, and one is not of an earlier run.
    ring.restore(vec![
        earlier(3, 7, 1000),
        earlier(3, 8, 9000),
        earlier(4, 0, 3000),
        earlier(RUN, 1, 4000),
    ]);
    let ids =
        |ring: &Ring| -> Vec<_> { ring.entries.iter().map(|e| (e.id.run, e.id.number)).collect() };
    assert_eq!(ids(&ring), [(3, 7), (3, 8), (4, 0), (RUN, 0)]);
    assert_eq!(ring.usage().disk.frames, 3);
    assert_eq!(ring.span(), Some(crate::frame::Span { from: at(1000), to: at(9000) }));
    // Entries from further back are restored later.
    ring.restore(vec![earlier(2, 0, 8000)]);
    assert_eq!(ids(&ring)[0], (2, 0));
    assert_eq!(found(&ring, 2000, 8500), [(2, 0), (4, 0), (RUN, 0)]);
    // The next frame of this run has an earlier time than those of a clock that was ahead.
    let mut ring = Ring::new(limits(60_000, 1 << 20, 1 << 20));
    ring.restore(vec![earlier(3, 7, 1000), earlier(3, 8, 4500)]);
    ring.push(entry(0, 2000, 0));
    assert_eq!(ids(&ring), [(3, 7), (3, 8), (RUN, 0)]);
    assert!(ring.newest().is_some_and(|entry| entry.left_before.is_none()));
    assert_eq!(found(&ring, 1500, 5000), [(3, 8), (RUN, 0)]);
}

#[test]
fn a_deleted_span_leaves_every_tier_and_its_frames_are_not_added_later() {
    let mut ring = Ring::new(limits(60_000, 1 << 20, 1 << 20));
    ring.restore((0..5).map(|number| on_disk(RUN - 1, number, number * 1000)).collect());
    for number in 0..10 {
        assert!(ring.push(entry(number, 10_000 + number * 1000, 10)));
    }
    let span = |from, to| Span { from: at(from), to: at(to) };
    let numbers =
        |entries: Vec<Entry>| -> Vec<u64> { entries.iter().map(|entry| entry.id.number).collect() };
    assert_eq!(numbers(ring.delete(span(2000, 4000))), [2, 3]);
    assert_eq!(numbers(ring.delete(span(12_000, 13_001))), [2, 3]);
    assert_eq!(numbers(ring.delete(span(2000, 4000))), [0; 0]);
    check(&ring).unwrap();
    assert_eq!(ring.usage().evicted, 0);
    let after = |ring: &Ring, id| ring.get(id).and_then(|entry| entry.left_before);
    assert_eq!(after(&ring, FrameId { run: RUN - 1, number: 4 }), Some(GapCause::Deleted));
    assert_eq!(after(&ring, id(4)), Some(GapCause::Deleted));
    assert_eq!(after(&ring, id(5)), None);
    // The newest frames, and one of that time that was still being encoded.
    assert_eq!(numbers(ring.delete(span(18_000, 21_000))), [8, 9]);
    assert!(!ring.push(entry(10, 20_000, 10)));
    assert!(ring.push(entry(11, 21_000, 10)));
    assert_eq!(after(&ring, id(11)), Some(GapCause::Deleted));
    check(&ring).unwrap();
    // A frame that the disk read before it was overwritten.
    let early = span(500, 900);
    assert_eq!(numbers(ring.delete(early)), [0; 0]);
    ring.restore(vec![on_disk(RUN - 2, 7, 400), on_disk(RUN - 2, 8, 600)]);
    assert!(ring.get(FrameId { run: RUN - 2, number: 8 }).is_none());
    assert!(ring.get(FrameId { run: RUN - 2, number: 7 }).is_some());
    assert_eq!(after(&ring, FrameId { run: RUN - 1, number: 0 }), Some(GapCause::Deleted));
    check(&ring).unwrap();
    assert_eq!(numbers(ring.delete(span(0, 30_000))).len(), 11);
    check(&ring).unwrap();
    assert_eq!(ring.usage(), Usage::default());
}

/// Returns a frame of an earlier run.
fn on_disk(run: u64, number: u64, milliseconds: u64) -> Entry {
    Entry {
        id: FrameId { run, number },
        residency: Residency::Disk,
        disk_state: DiskState::At(address(1)),
        ..entry(number, milliseconds, 0)
    }
}
