//! Decides which sequences run: who is admitted, and what the next step of the decoder does.
//!
//! These are pure rules: no model, no clock and no lock. The batch of the language model and the
//! simulator of `lookout bench streams` both follow them.
//!
//! ```text
//! admitted ─► prompt is read, a chunk per step ─► generates, a token per step ─► removed
//! ```
//!
//! Guarantees:
//! - The last free slot is reserved for a question, and a caption is admitted only if no prompt is
//!   waiting or being read. So a question waits at most one step while slots are free.
//! - If prompts wait and answers are being generated, each kind gets half of the time: after a
//!   chunk, tokens are generated for as long as the chunk took.
//! - The most urgent prompt is read first, or the oldest one among equals. But if another prompt is
//!   already reading the prefix that this prompt needs, that one is finished first.
//! - A prompt in the background is read only while there is nothing else to do. It takes no slot
//!   from the others, because it can be cancelled.
//! - The sequences that generate have the first slots, without a gap, as a batch must.

use std::ops::{Index, IndexMut};
use std::time::Duration;

use super::{SequenceId, Urgency};

/// A sequence, as far as the rules depend on it.
pub trait Prompt {
    fn urgency(&self) -> Urgency;

    /// Returns true if a part of the prompt has been read.
    fn is_started(&self) -> bool;

    /// Returns true if `other` is reading a prefix that this prompt will find in the cache.
    fn shares_prefix_read_by(&self, other: &Self) -> bool;
}

/// The requests that can be admitted in addition to those in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// A caption or a question.
    Any,
    /// A request that a client waits for.
    Question,
    Nothing,
}

/// The next call of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Reads a chunk of the prompt in this slot.
    Prefill(usize),
    /// Generates a token of every sequence whose prompt has been read.
    Generate,
}

/// The sequences in progress, one per slot in use, in the order of the slots.
pub struct Slots<S> {
    count: usize,
    sequences: Vec<(SequenceId, S)>,
    /// Number of sequences that generate. They have the first slots.
    generating: usize,
    /// Time that generation still gets before the next chunk is read.
    owed: Duration,
    /// Number of sequences admitted so far.
    admitted: u64,
}

/// A slot that is free. Only its owner can admit a sequence.
pub struct FreeSlot<'a, S>(&'a mut Slots<S>);

/// Two slots whose contents change places.
pub type Swap = (usize, usize);

impl<S: Prompt> Slots<S> {
    pub fn new(count: usize) -> Slots<S> {
        let sequences = Vec::new();
        Slots { count, sequences, generating: 0, owed: Duration::ZERO, admitted: 0 }
    }

    /// Returns the maximum number of sequences.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the number of sequences.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Returns the number of sequences that generate.
    pub fn generating(&self) -> usize {
        self.generating
    }

    /// Returns the number of sequences whose prompt is not completely read.
    pub fn unread(&self) -> usize {
        self.len() - self.generating
    }

    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.sequences.iter().map(|(_, sequence)| sequence)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.sequences.iter_mut().map(|(_, sequence)| sequence)
    }

    pub fn id(&self, slot: usize) -> SequenceId {
        self.sequences[slot].0
    }

    /// Returns the slot of a sequence, if it has not ended.
    pub fn slot(&self, id: SequenceId) -> Option<usize> {
        self.sequences.iter().position(|(other, _)| *other == id)
    }

    /// Returns which requests can be admitted.
    pub fn room(&self) -> Room {
        // A sequence in the background only reads, and is cancelled if its slot is needed.
        let background = self.iter().filter(|s| s.urgency() == Urgency::Background).count();
        match self.count - (self.len() - background) {
            0 => Room::Nothing,
            _ if self.len() == background => Room::Any,
            1 => Room::Question,
            _ if self.unread() > background => Room::Question,
            _ => Room::Any,
        }
    }

    pub fn free_slot(&mut self) -> Option<FreeSlot<'_, S>> {
        (self.len() < self.count).then_some(FreeSlot(self))
    }

    /// Returns the next step, or `None` if there are no sequences.
    pub fn next(&self) -> Option<Step> {
        match self.next_prompt() {
            Some(slot) if self.generating == 0 => Some(Step::Prefill(slot)),
            Some(slot) if self.owed.is_zero() && self[slot].urgency() != Urgency::Background => {
                Some(Step::Prefill(slot))
            }
            _ if self.generating > 0 => Some(Step::Generate),
            _ => None,
        }
    }

    fn next_prompt(&self) -> Option<usize> {
        let unread = || self.sequences.iter().enumerate().skip(self.generating);
        let (slot, (_, next)) = unread().min_by_key(|(_, (id, s))| (s.urgency(), *id))?;
        if next.is_started() {
            return Some(slot);
        }
        let reads_it = |(_, (_, other)): &(usize, &(SequenceId, S))| {
            other.is_started() && next.shares_prefix_read_by(other)
        };
        Some(unread().find(reads_it).map_or(slot, |(slot, _)| slot))
    }

    /// Records that the prompt in a slot is completely read. The sequence moves to the slot behind
    /// those that generate: to the second one of the returned pair.
    pub fn prefilled(&mut self, slot: usize) -> Swap {
        let swap = (slot, self.generating);
        self.sequences.swap(swap.0, swap.1);
        self.generating += 1;
        swap
    }

    /// Removes a sequence. Returns the swaps, in order, by which the others close the gap.
    pub fn remove(&mut self, slot: usize) -> (S, [Swap; 2]) {
        let mut gap = slot;
        if slot < self.generating {
            self.generating -= 1;
            gap = self.generating;
        }
        let last = self.len() - 1;
        let swaps = [(slot, gap), (gap, last)];
        for (a, b) in swaps {
            self.sequences.swap(a, b);
        }
        (self.sequences.remove(last).1, swaps)
    }

    /// Records how long a step took, after its sequences have moved.
    pub fn ran(&mut self, step: Step, took: Duration) {
        self.owed = match step {
            Step::Prefill(_) if self.generating > 0 => took,
            Step::Prefill(_) => Duration::ZERO,
            Step::Generate => self.owed.saturating_sub(took),
        };
    }
}

impl<S> FreeSlot<'_, S> {
    pub fn admit(self, sequence: S) -> SequenceId {
        let FreeSlot(slots) = self;
        slots.admitted += 1;
        let id = SequenceId(slots.admitted);
        slots.sequences.push((id, sequence));
        id
    }
}

impl<S> Index<usize> for Slots<S> {
    type Output = S;

    fn index(&self, slot: usize) -> &S {
        &self.sequences[slot].1
    }
}

impl<S> IndexMut<usize> for Slots<S> {
    fn index_mut(&mut self, slot: usize) -> &mut S {
        &mut self.sequences[slot].1
    }
}

#[cfg(test)]
mod tests;
