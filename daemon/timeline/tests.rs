//! Compares a ring that indexes its breaks with one in which every frame is a break.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::ring::tests::{RUN, address, at, entry, limits};
use super::*;
use crate::frame::{FrameId, Span};
use crate::run_clock::Moment;
use crate::slowfast::Plan;

const PERIOD: Period = Period(Duration::from_millis(500));

#[derive(Clone, Debug)]
enum Step {
    /// A frame arrives after this time; this many numbers are left out, and the clock moves by this
    /// many milliseconds more.
    Frame { after: u64, missing: u64, clock: i64 },
    /// The frame of this index was not written to the disk.
    NotWritten(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let usual = (450u64..550).prop_map(|after| Step::Frame { after, missing: 0, clock: 0 });
    let late =
        (1u64..6000, 0u64..4).prop_map(|(after, missing)| Step::Frame { after, missing, clock: 0 });
    let clock =
        (-20_000i64..20_000).prop_map(|clock| Step::Frame { after: 500, missing: 0, clock });
    let lost = any::<prop::sample::Index>().prop_map(|index| Step::NotWritten(index.index(200)));
    prop::collection::vec(prop_oneof![20 => usual, 2 => late, 1 => clock, 2 => lost], 1..200)
}

/// Fills a ring. The first frames are of an earlier run.
fn fill(mut ring: Ring, earlier: &[Step], steps: &[Step]) -> (Ring, RunPosition) {
    let (mut monotonic, mut utc, mut number) = (0, 100_000i64, 0);
    let mut restored = Vec::new();
    for (run, steps) in [(RUN - 1, earlier), (RUN, steps)] {
        (monotonic, number) = if run == RUN { (0, 0) } else { (monotonic, number) };
        for step in steps {
            match step {
                Step::Frame { after, missing, clock } => {
                    monotonic += after;
                    number += 1 + missing;
                    utc = (utc + *after as i64 + clock).max(0);
                    let id = FrameId { run, number };
                    let frame = Entry {
                        id,
                        captured_at: at(utc as u64),
                        disk_state: DiskState::At(address(1)),
                        ..entry(number, monotonic, 9)
                    };
                    if run == RUN {
                        ring.push(frame);
                    } else {
                        restored.push(Entry { residency: Residency::Disk, ..frame });
                    }
                }
                Step::NotWritten(index) => {
                    let id = ring.entries.get(*index).map(|entry| entry.id);
                    if let Some(id) = id {
                        ring.stored(id, None);
                    }
                }
            }
        }
        if run != RUN {
            // The newest are restored first, as they are read from the disk.
            for part in restored.chunks(7).rev() {
                ring.restore(part.to_vec());
            }
        }
    }
    let now =
        Moment { monotonic: Duration::from_millis(monotonic + 250), utc: at(utc as u64 + 250) };
    (ring, RunPosition { next: FrameId { run: RUN, number: number + 1 }, now })
}

fn plan() -> Plan {
    "4:slowfast-slow_2frms_concat-fast_1x1".parse().expect("a plan")
}

/// Returns everything that a selection reports, as text.
fn reported(ring: &Ring, range: TimeRange, position: RunPosition, tiers: Tiers) -> Option<String> {
    let selection = select(ring, range, PERIOD, position, &plan(), tiers)?;
    let ids: Vec<FrameId> = selection.frames.iter().map(|entry| entry.id).collect();
    let gaps = selection.gaps();
    Some(format!("{ids:?} {} {:?} {gaps:?}", selection.available, selection.available_span))
}

proptest! {
    /// Holds whatever was lost, evicted or restored, and whatever the clocks did.
    #[test]
    fn an_index_of_breaks_finds_the_gaps_that_a_look_at_every_frame_finds(
        earlier in steps(),
        steps in steps(),
        (from, length) in (0u64..400_000, 1u64..300_000),
        hot in 1usize..100,
        all in any::<bool>(),
    ) {
        let size = entry(0, 0, 9).bytes();
        let limits = limits(1 << 40, hot * size, 40 * size);
        let (every, position) = fill(Ring::new(limits), &earlier, &steps);
        let (indexed, _) =
            fill(Ring::with_usual_step(limits, PERIOD.gap()), &earlier, &steps);
        let tiers = if all { Tiers::All } else { Tiers::Hot };
        let span = Span { from: at(from), to: at(from + length) };
        let last = Span { from: position.now.utc - Duration::from_millis(length), ..span };
        let last = Span { to: position.now.utc, ..last };
        for range in [span.into(), TimeRange::ending(position.now, last)] {
            prop_assert_eq!(
                reported(&indexed, range, position, tiers),
                reported(&every, range, position, tiers)
            );
        }
    }
}

/// Selects from a long range in a small part of the time that a look at every frame takes.
#[test]
fn the_time_to_select_does_not_grow_with_the_range() {
    let frames: u64 = 200_000;
    let limits = limits(1 << 40, 1, 1 << 60);
    let took = |mut ring: Ring| {
        for number in 0..frames {
            let frame = entry(number, number * 500, 0);
            ring.push(Entry { disk_state: DiskState::At(address(1)), ..frame });
        }
        let end = frames * 500;
        let now = Moment { monotonic: Duration::from_millis(end), utc: at(end) };
        let position = RunPosition { next: FrameId { run: RUN, number: frames }, now };
        let range = Span { from: at(0), to: at(end) }.into();
        let started = Instant::now();
        let found = reported(&ring, range, position, Tiers::All);
        (started.elapsed(), found)
    };
    // An index of longer steps than those looked for is of no use, so every frame is looked at.
    let (every, found) = took(Ring::with_usual_step(limits, PERIOD.gap() * 2));
    let (indexed, also) = took(Ring::with_usual_step(limits, PERIOD.gap()));
    assert_eq!(found, also);
    let ratio = every.as_secs_f64() / indexed.as_secs_f64();
    assert!(ratio > 20.0, "every frame {every:?}, by the index {indexed:?}");
}
