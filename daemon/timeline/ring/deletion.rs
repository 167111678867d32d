//! Deletes the frames of a span of time from a ring, in all tiers. Frames of that time that are
//! still being encoded are dropped when they come.

use std::time::SystemTime;

use super::{Entry, Ring};
use crate::event::GapCause;
use crate::frame::Span;

/// Number of deleted spans that are remembered for frames which are still to come.
const REMEMBERED: usize = 16;

impl Ring {
    /// Returns true if this time was deleted. Only the newest deletions are remembered.
    pub fn was_deleted(&self, captured_at: SystemTime) -> bool {
        self.deleted.iter().any(|span| span.contains(captured_at))
    }

    /// Deletes the frames that were taken in a span. Returns them.
    pub fn delete(&mut self, span: Span) -> Vec<Entry> {
        self.deleted.push_back(span);
        if self.deleted.len() > REMEMBERED {
            self.deleted.pop_front();
        }
        let mut deleted = Vec::new();
        let mut is_first_after = false;
        let entries = std::mem::take(&mut self.entries);
        let kept = entries.into_iter().filter_map(|mut entry| {
            if span.contains(entry.captured_at) {
                self.uncount(&entry);
                deleted.push(entry);
                is_first_after = true;
                return None;
            }
            if std::mem::take(&mut is_first_after) {
                entry.left_before = Some(GapCause::Deleted);
                self.add_break(entry.id);
            }
            Some(entry)
        });
        self.entries = kept.collect();
        self.newest_were_deleted |= is_first_after;
        self.forget_older();
        deleted
    }
}
