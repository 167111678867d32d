//! A camera's rolling buffer, a plain value: its frames in order, each with the tiers that hold it.
//!
//! ```text
//!   oldest                                             newest
//!   ├── disk ──────────┼── warm ───────┼── hot ────────────┤
//!   │ on disk only     │ JPEG          │ tokens and JPEG   │     in memory
//!   └── a frame of any tier may be on disk, too ───────────┘
//! ```
//!
//! A frame ages in one direction: its tokens leave first, then its JPEG. A frame that is then not
//! on disk has left the buffer, and the next frame records that one was evicted.
//!
//! Frames are in the order of capture, by run and number. Their UTC rises in this order, except
//! where a clock was set back: there a new *stretch* begins. A span of UTC is looked up in every
//! stretch, so no clock hides a frame.

mod deletion;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::event::GapCause;
use crate::frame::{CLOCK_STEP, Clock, FrameId, Span, difference};
use crate::slowfast::FrameTokens;

/// A frame that was encoded once, and what remains of it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: FrameId,
    /// Time of capture by the clock of its run. It rises strictly.
    pub monotonic: Duration,
    pub captured_at: SystemTime,
    pub clock: Clock,
    pub residency: Residency,
    pub disk_state: DiskState,
    /// The reason why frames between the previous entry and this one are no longer in the buffer:
    /// evicted or deleted. `None` if there were none.
    pub left_before: Option<GapCause>,
}

/// The contents of a frame in memory.
#[derive(Clone, Debug)]
pub enum Residency {
    Hot { tokens: Arc<FrameTokens>, jpeg: Arc<[u8]> },
    Warm { jpeg: Arc<[u8]> },
    Disk,
}

/// The state of a frame on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskState {
    /// The frame is not on disk.
    Absent,
    /// The frame is waiting to be written.
    Pending,
    At(DiskAddress),
}

/// The position of a frame's record on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskAddress {
    pub segment: u64,
    pub offset: u64,
    /// Length of the whole record in bytes.
    pub length: u32,
}

impl Entry {
    /// Returns the bytes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Entry>()
            + match &self.residency {
                Residency::Hot { tokens, jpeg } => tokens.bytes() + jpeg.len(),
                Residency::Warm { jpeg } => jpeg.len(),
                Residency::Disk => 0,
            }
    }

    pub fn tokens(&self) -> Option<&Arc<FrameTokens>> {
        match &self.residency {
            Residency::Hot { tokens, .. } => Some(tokens),
            Residency::Warm { .. } | Residency::Disk => None,
        }
    }

    fn token_bytes(&self) -> u64 {
        self.tokens().map_or(0, |tokens| tokens.bytes() as u64)
    }

    pub fn jpeg(&self) -> Option<&Arc<[u8]>> {
        match &self.residency {
            Residency::Hot { jpeg, .. } | Residency::Warm { jpeg } => Some(jpeg),
            Residency::Disk => None,
        }
    }

    fn on_disk(&self) -> u64 {
        match self.disk_state {
            DiskState::At(address) => u64::from(address.length),
            DiskState::Absent | DiskState::Pending => 0,
        }
    }
}

/// Limits of the two tiers in memory; the disk has its own. Ages are those of frames.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub hot_age: Duration,
    pub hot_bytes: usize,
    pub warm_age: Duration,
    pub warm_bytes: usize,
}

/// The contents of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tier {
    pub frames: usize,
    pub bytes: u64,
}

/// The contents of a ring, and the number of frames that have left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub hot: Tier,
    /// Bytes of tokens in the hot tier.
    pub token_bytes: u64,
    pub warm: Tier,
    /// All frames on disk, including those that are also in memory.
    pub disk: Tier,
    /// Number of frames that can be asked about.
    pub frames: usize,
    pub evicted: u64,
}

/// Maximum number of corrupt frames that are remembered: more than a window holds.
const CORRUPT_MOST: usize = 1024;

/// A camera's entries in the order of their ids: those on disk only first, then warm, then hot.
pub struct Ring {
    pub(super) entries: VecDeque<Entry>,
    /// The first frame of every stretch except the first one. Such a frame may have left.
    pub(super) stretches: VecDeque<FrameId>,
    /// The frames before which something may be missing, or a clock was set. Every other frame
    /// follows the one before it within `usual_step`. Such a frame may have left.
    pub(super) breaks: VecDeque<FrameId>,
    pub(super) usual_step: Duration,
    /// Frames that arrived and could not be used, the newest last.
    corrupt: VecDeque<FrameId>,
    hot: Tier,
    token_bytes: u64,
    warm: Tier,
    disk: Tier,
    evicted: u64,
    /// The spans that were deleted last. A frame of one of them that is still to come is dropped.
    deleted: VecDeque<Span>,
    /// True if frames after the newest entry were deleted.
    pub(super) newest_were_deleted: bool,
    limits: Limits,
}

impl Ring {
    pub fn new(limits: Limits) -> Ring {
        Ring::with_usual_step(limits, Duration::ZERO)
    }

    /// Creates a ring that indexes the frames which follow the one before them after more than
    /// `usual_step`. So gaps in a long range are found without a look at every frame.
    pub fn with_usual_step(limits: Limits, usual_step: Duration) -> Ring {
        let empty = Tier::default();
        Ring {
            entries: VecDeque::new(),
            stretches: VecDeque::new(),
            breaks: VecDeque::new(),
            usual_step,
            corrupt: VecDeque::new(),
            hot: empty,
            token_bytes: 0,
            warm: empty,
            disk: empty,
            evicted: 0,
            deleted: VecDeque::new(),
            newest_were_deleted: false,
            limits,
        }
    }

    /// Changes the limits. Entries beyond them move or leave with the next entry.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Adds the newest entry, which is hot. Entries beyond the limits move to the next tier or
    /// leave. The newest itself stays. Returns false if its time was deleted; it is then not added.
    pub fn push(&mut self, mut entry: Entry) -> bool {
        if self.was_deleted(entry.captured_at) {
            self.newest_were_deleted = true;
            return false;
        }
        if std::mem::take(&mut self.newest_were_deleted) {
            entry.left_before = Some(GapCause::Deleted);
        }
        debug_assert!(entry.tokens().is_some(), "a new frame is hot");
        debug_assert!(self.entries.back().is_none_or(|last| last.id < entry.id));
        if self.entries.back().is_some_and(|last| last.captured_at >= entry.captured_at) {
            self.stretches.push_back(entry.id);
        }
        if self.entries.back().is_some_and(|last| self.is_break(last, &entry)) {
            self.breaks.push_back(entry.id);
        }
        let now = (entry.id.run, entry.monotonic);
        self.hot.frames += 1;
        self.hot.bytes += entry.bytes() as u64;
        self.token_bytes += entry.token_bytes();
        self.disk.frames += usize::from(entry.on_disk() > 0);
        self.disk.bytes += entry.on_disk();
        self.entries.push_back(entry);
        self.move_down(now);
        true
    }

    /// Records that the frame with this id arrived and was corrupt.
    pub fn corrupt(&mut self, id: FrameId) {
        self.corrupt.push_back(id);
        while self.corrupt.len() > CORRUPT_MOST {
            self.corrupt.pop_front();
        }
    }

    /// Returns the number of unusable frames from one id up to another, which is excluded.
    pub fn corrupt_between(&self, from: FrameId, to: FrameId) -> u64 {
        self.corrupt.iter().filter(|id| (from..to).contains(*id)).count() as u64
    }

    /// Adds entries that earlier runs left on disk, in order. They must precede all present
    /// entries; others are left out.
    pub fn restore(&mut self, mut entries: Vec<Entry>) {
        while let Some(entry) = entries.pop() {
            // The disk was read before it overwrote the frame.
            if self.was_deleted(entry.captured_at) {
                if let Some(next) = self.entries.front_mut() {
                    next.left_before = Some(GapCause::Deleted);
                }
                continue;
            }
            let next = self.entries.front().map(|next| (next.id, next.captured_at));
            let fits = next.is_none_or(|(id, _)| entry.id < id);
            if matches!(entry.residency, Residency::Disk) && entry.on_disk() > 0 && fits {
                if let Some((id, _)) = next.filter(|(_, at)| entry.captured_at >= *at) {
                    self.stretches.push_front(id);
                }
                if let Some(next) = self.entries.front().filter(|next| self.is_break(&entry, next))
                {
                    self.breaks.push_front(next.id);
                }
                self.disk.frames += 1;
                self.disk.bytes += entry.on_disk();
                self.entries.push_front(entry);
            }
        }
    }

    /// Records that a frame was stored at `address`, or `None` if it was not stored.
    pub fn stored(&mut self, id: FrameId, address: Option<DiskAddress>) {
        let Some(at) = self.position(id) else { return };
        match address {
            Some(address) => {
                self.forget_record(at);
                self.entries[at].disk_state = DiskState::At(address);
                self.disk.frames += 1;
                self.disk.bytes += u64::from(address.length);
            }
            None => self.lose_record(at),
        }
    }

    /// Records that a segment is gone from the disk. Entries in older segments come before its own.
    pub fn segment_gone(&mut self, segment: u64) {
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            match entry.disk_state {
                DiskState::At(address) if address.segment > segment => break,
                DiskState::At(address) if address.segment < segment => at += 1,
                DiskState::At(_) if matches!(entry.residency, Residency::Disk) => self.remove(at),
                DiskState::At(_) => {
                    self.lose_record(at);
                    at += 1;
                }
                DiskState::Absent | DiskState::Pending => at += 1,
            }
        }
    }

    pub fn get(&self, id: FrameId) -> Option<&Entry> {
        self.entries.get(self.position(id)?)
    }

    pub fn newest(&self) -> Option<&Entry> {
        self.entries.back()
    }

    pub fn usage(&self) -> Usage {
        let Ring { hot, token_bytes, warm, disk, evicted, .. } = *self;
        Usage { hot, token_bytes, warm, disk, frames: self.entries.len(), evicted }
    }

    /// Moves old entries to the next tier. `now` is the run and time of the newest entry; all
    /// entries in memory are of the same run.
    fn move_down(&mut self, now: (u64, Duration)) {
        let older = |entry: &Entry, age: Duration| {
            entry.id.run == now.0 && now.1.saturating_sub(entry.monotonic) > age
        };
        let Limits { hot_age, hot_bytes, warm_age, warm_bytes } = self.limits;
        while self.hot.frames > 1 {
            let at = self.entries.len() - self.hot.frames;
            let entry = &mut self.entries[at];
            if !older(entry, hot_age) && self.hot.bytes <= hot_bytes as u64 {
                break;
            }
            self.hot.frames -= 1;
            self.hot.bytes -= entry.bytes() as u64;
            self.token_bytes -= entry.token_bytes();
            if let Residency::Hot { jpeg, .. } = &entry.residency {
                entry.residency = Residency::Warm { jpeg: jpeg.clone() };
            }
            self.warm.frames += 1;
            self.warm.bytes += entry.bytes() as u64;
        }
        while self.warm.frames > 0 {
            let at = self.entries.len() - self.hot.frames - self.warm.frames;
            let entry = &mut self.entries[at];
            if !older(entry, warm_age) && self.warm.bytes <= warm_bytes as u64 {
                break;
            }
            if entry.disk_state == DiskState::Absent {
                self.remove(at);
                continue;
            }
            self.warm.frames -= 1;
            self.warm.bytes -= entry.bytes() as u64;
            entry.residency = Residency::Disk;
        }
    }

    /// Handles a record that is gone or was never written. The entry leaves if nothing else holds
    /// it.
    fn lose_record(&mut self, at: usize) {
        match self.entries[at].residency {
            Residency::Disk => self.remove(at),
            Residency::Hot { .. } | Residency::Warm { .. } => {
                self.forget_record(at);
                self.entries[at].disk_state = DiskState::Absent;
            }
        }
    }

    fn forget_record(&mut self, at: usize) {
        let bytes = self.entries[at].on_disk();
        self.disk.frames -= usize::from(bytes > 0);
        self.disk.bytes -= bytes;
    }

    fn remove(&mut self, at: usize) {
        let Some(entry) = self.entries.remove(at) else { return };
        self.uncount(&entry);
        self.evicted += 1;
        if let Some(next) = self.entries.get_mut(at) {
            next.left_before = Some(GapCause::Evicted);
            let id = next.id;
            self.add_break(id);
        }
        self.forget_older();
    }

    /// Subtracts an entry that has left from the counts, and forgets its break.
    fn uncount(&mut self, entry: &Entry) {
        let (bytes, on_disk) = (entry.bytes() as u64, entry.on_disk());
        self.disk.frames -= usize::from(on_disk > 0);
        self.disk.bytes -= on_disk;
        self.token_bytes -= entry.token_bytes();
        let tier = match entry.residency {
            Residency::Hot { .. } => Some(&mut self.hot),
            Residency::Warm { .. } => Some(&mut self.warm),
            Residency::Disk => None,
        };
        if let Some(tier) = tier {
            tier.frames -= 1;
            tier.bytes -= bytes;
        }
        if let Ok(at) = self.breaks.binary_search(&entry.id) {
            self.breaks.remove(at);
        }
    }

    fn add_break(&mut self, id: FrameId) {
        if let Err(at) = self.breaks.binary_search(&id) {
            self.breaks.insert(at, id);
        }
    }

    /// Forgets what is known of frames before the oldest entry.
    fn forget_older(&mut self) {
        let oldest = self.entries.front().map(|entry| entry.id);
        while self.stretches.front().is_some_and(|id| oldest.is_none_or(|oldest| *id <= oldest)) {
            self.stretches.pop_front();
        }
        while self.corrupt.front().is_some_and(|id| oldest.is_some_and(|oldest| *id < oldest)) {
            self.corrupt.pop_front();
        }
    }

    /// Returns true if something may be missing between two frames that follow each other, or a
    /// clock was set.
    fn is_break(&self, before: &Entry, next: &Entry) -> bool {
        before.id.run != next.id.run
            || next.left_before.is_some()
            || before.captured_at >= next.captured_at
            || clock_was_set(before, next)
            || next.monotonic.saturating_sub(before.monotonic) > self.usual_step
    }

    /// Returns the position of the first frame in the hot tier.
    pub(super) fn first_hot(&self) -> usize {
        self.entries.len() - self.hot.frames
    }

    pub(super) fn position(&self, id: FrameId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.id).ok()
    }
}

/// Returns true if the clock of the entries' UTC was set between them, or replaced by another one.
pub(super) fn clock_was_set(before: &Entry, next: &Entry) -> bool {
    let utc = difference(before.captured_at, next.captured_at);
    (utc - between(before, next)).unsigned_abs() > CLOCK_STEP.as_nanos()
}

/// Returns the nanoseconds between two entries by the run's clock.
pub(super) fn between(before: &Entry, next: &Entry) -> i128 {
    next.monotonic.saturating_sub(before.monotonic).as_nanos() as i128
}

#[cfg(test)]
pub(super) mod tests;
