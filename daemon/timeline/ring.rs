//! One camera's rolling buffer, a plain value.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::frame::{Clock, Span};
use crate::slowfast::FrameTokens;

/// An encoded frame.
#[derive(Clone, Debug)]
pub struct Entry {
    pub number: u64,
    pub captured_at: SystemTime,
    pub clock: Clock,
    pub tokens: FrameTokens,
    pub jpeg: Arc<[u8]>,
}

impl Entry {
    pub fn bytes(&self) -> usize {
        self.tokens.bytes() + self.jpeg.len() + size_of::<Entry>()
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub age: Duration,
    pub bytes: usize,
}

/// What a ring holds, and what has left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub frames: usize,
    pub bytes: usize,
    pub evicted: u64,
}

/// A stretch of a ring, and the entries next to it.
pub struct Section {
    pub before: Option<Arc<Entry>>,
    pub inside: Vec<Arc<Entry>>,
    pub after: Option<Arc<Entry>>,
}

/// Entries in order of number and of time.
pub struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    evicted: u64,
    /// When the newest frame that has left was taken.
    evicted_until: Option<SystemTime>,
    limits: Limits,
}

impl Ring {
    pub fn new(limits: Limits) -> Ring {
        Ring { entries: VecDeque::new(), bytes: 0, evicted: 0, evicted_until: None, limits }
    }

    /// Takes the newest entry; what is too old or too much leaves. The newest itself stays.
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(self.entries.back().is_none_or(|last| {
            last.number < entry.number && last.captured_at < entry.captured_at
        }));
        let oldest_kept = entry.captured_at.checked_sub(self.limits.age);
        self.bytes += entry.bytes();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > 1 {
            let oldest = &self.entries[0];
            let too_old = oldest_kept.is_some_and(|kept| oldest.captured_at < kept);
            if !too_old && self.bytes <= self.limits.bytes {
                break;
            }
            self.bytes -= oldest.bytes();
            self.evicted += 1;
            self.evicted_until = Some(oldest.captured_at);
            self.entries.pop_front();
        }
    }

    pub fn get(&self, number: u64) -> Option<&Arc<Entry>> {
        let at = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        self.entries.get(at)
    }

    pub fn newest(&self) -> Option<&Arc<Entry>> {
        self.entries.back()
    }

    /// From the oldest entry to the newest; `None`: there is none.
    pub fn held(&self) -> Option<Span> {
        let (oldest, newest) = (self.entries.front()?, self.entries.back()?);
        Some(Span { from: oldest.captured_at, to: newest.captured_at })
    }

    /// The entries of a span, and its neighbours, from which gaps are told.
    pub fn span(&self, span: Span) -> Section {
        let from = self.entries.partition_point(|entry| entry.captured_at < span.from);
        let to = self.entries.partition_point(|entry| entry.captured_at < span.to).max(from);
        Section {
            before: from.checked_sub(1).map(|at| self.entries[at].clone()),
            inside: self.entries.range(from..to).cloned().collect(),
            after: self.entries.get(to).cloned(),
        }
    }

    pub fn evicted_until(&self) -> Option<SystemTime> {
        self.evicted_until
    }

    pub fn usage(&self) -> Usage {
        Usage { frames: self.entries.len(), bytes: self.bytes, evicted: self.evicted }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    pub fn entry(number: u64, milliseconds: u64, jpeg: usize) -> Entry {
        Entry {
            number,
            captured_at: at(milliseconds),
            clock: Clock::Host,
            tokens: FrameTokens { slow: Box::default(), fast: Box::default() },
            jpeg: vec![0; jpeg].into(),
        }
    }

    proptest! {
        #[test]
        fn bounds_hold_and_the_count_is_right(
            steps in prop::collection::vec((1u64..2000, 0usize..500), 1..200),
            age in 100u64..20_000,
            bytes in 1usize..20_000,
        ) {
            let mut ring = Ring::new(Limits { age: Duration::from_millis(age), bytes });
            let mut now = 0;
            for (number, (step, jpeg)) in steps.iter().enumerate() {
                now += step;
                ring.push(entry(number as u64, now, *jpeg));
                let usage = ring.usage();
                let sum: usize = ring.entries.iter().map(|entry| entry.bytes()).sum();
                prop_assert_eq!(usage.bytes, sum);
                prop_assert_eq!(usage.frames as u64 + usage.evicted, number as u64 + 1);
                prop_assert!(usage.frames == 1 || usage.bytes <= bytes);
                prop_assert!(ring.entries.iter().all(|e| e.captured_at >= at(now.saturating_sub(age))));
                // Never emptier than it must be: the newest frame that left had no room.
                prop_assert_eq!(ring.newest().map(|e| e.number), Some(number as u64));
                prop_assert!(ring.get(number as u64).is_some());
            }
        }
    }

    #[test]
    fn a_span_is_half_open() {
        let mut ring = Ring::new(Limits { age: Duration::from_secs(60), bytes: 1 << 20 });
        for number in 0..10 {
            ring.push(entry(number, number * 1000, 0));
        }
        let Section { before, inside, after } = ring.span(Span { from: at(3000), to: at(6000) });
        assert_eq!(before.map(|e| e.number), Some(2));
        assert_eq!(inside.iter().map(|e| e.number).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(after.map(|e| e.number), Some(6));
        assert_eq!(ring.held(), Some(Span { from: at(0), to: at(9000) }));
    }
}
