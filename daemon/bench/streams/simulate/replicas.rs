//! The devices that run the language model in a simulation: the one of the machine itself, or
//! servers elsewhere that can fail.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::profile::Language;
use crate::language::Urgency;
use crate::language::slots::{Prompt, Slots, Step};

/// A caption (`since`: its window closed) or an answer (`since`: it was asked) in progress.
#[derive(Clone, Copy)]
pub struct Sequence {
    /// The number by which a server is chosen.
    pub number: u64,
    pub camera: Option<usize>,
    pub since: f64,
    pub begun: f64,
    /// Tokens of the prompt, and those of them that are read.
    pub prompt: u32,
    pub read: u32,
    /// Tokens of the text, and those of them that are written.
    pub text: u32,
    pub written: u32,
}

impl Sequence {
    fn chunk(&self, language: &Language) -> u32 {
        (self.prompt - self.read).min(language.prefill_chunk)
    }
}

impl Prompt for Sequence {
    fn urgency(&self) -> Urgency {
        if self.camera.is_some() { Urgency::Later } else { Urgency::Now }
    }

    fn is_started(&self) -> bool {
        self.read > 0
    }

    /// Every sequence is about a window of its own.
    fn shares_prefix_read_by(&self, _: &Sequence) -> bool {
        false
    }
}

/// A device with the whole language model.
pub struct Replica {
    slots: Slots<Sequence>,
    /// The step in progress, how long it takes and when it ends.
    running: Option<(Step, f64, f64)>,
    is_up: bool,
    /// True from the moment at which the daemon notices that it fails.
    is_avoided: bool,
    /// Sequences that wait until the daemon notices.
    lost: Vec<Sequence>,
}

impl Replica {
    pub fn new(slots: usize) -> Replica {
        let lost = Vec::new();
        Replica { slots: Slots::new(slots), running: None, is_up: true, is_avoided: false, lost }
    }

    /// Takes a sequence. Returns it if the daemon knows that this replica fails.
    pub fn take(&mut self, sequence: Sequence) -> Option<Sequence> {
        if self.is_avoided {
            return Some(sequence);
        }
        match self.slots.free_slot() {
            Some(slot) if self.is_up => {
                slot.admit(sequence);
            }
            _ => self.lost.push(sequence),
        }
        None
    }

    /// Ends its work without a word.
    pub fn fail(&mut self) {
        self.is_up = false;
        self.running = None;
        while !self.slots.is_empty() {
            self.lost.push(self.slots.remove(0).0);
        }
    }

    /// Returns the sequences that must be sent again, now that the daemon notices.
    pub fn avoid(&mut self) -> Vec<Sequence> {
        // It may have returned before anybody noticed.
        self.is_avoided = !self.is_up;
        std::mem::take(&mut self.lost)
    }

    pub fn recover(&mut self) {
        self.is_up = true;
        self.is_avoided = false;
    }

    pub fn is_avoided(&self) -> bool {
        self.is_avoided
    }

    pub fn slots(&self) -> &Slots<Sequence> {
        &self.slots
    }

    /// Begins the next step, if there is one and none is in progress. Returns how long it takes.
    pub fn begin(&mut self, now: f64, language: &Language, slower: f64) -> Option<f64> {
        if self.running.is_some() {
            return None;
        }
        let step = self.slots.next()?;
        let takes = match step {
            Step::Prefill(slot) => {
                f64::from(self.slots[slot].chunk(language)) / language.prefill_per_second
            }
            Step::Generate => language.step + language.row * (self.slots.generating() - 1) as f64,
        };
        self.running = Some((step, takes * slower, now + takes * slower));
        Some(takes * slower)
    }

    /// Returns the moment at which the step in progress ends.
    pub fn ends(&self) -> Option<f64> {
        self.running.map(|(.., end)| end)
    }

    /// Completes the step in progress if it has ended. Returns the sequences that end with it.
    pub fn complete(&mut self, now: f64, language: &Language) -> Vec<Sequence> {
        let Some((step, took, _)) = self.running.take_if(|(.., end)| *end <= now) else {
            return Vec::new();
        };
        match step {
            Step::Prefill(slot) => {
                let sequence = &mut self.slots[slot];
                sequence.read += sequence.chunk(language);
                if sequence.read == sequence.prompt {
                    // The logits of the last chunk yield the first token.
                    sequence.written = 1;
                    self.slots.prefilled(slot);
                }
            }
            Step::Generate => {
                let generating = self.slots.generating();
                for sequence in self.slots.iter_mut().take(generating) {
                    sequence.written += 1;
                }
            }
        }
        let mut ended = Vec::new();
        for slot in (0..self.slots.generating()).rev() {
            if self.slots[slot].written == self.slots[slot].text {
                ended.push(self.slots.remove(slot).0);
            }
        }
        self.slots.ran(step, super::duration(took));
        ended
    }
}

/// Chooses the replica of a sequence by rendezvous hashing: if one fails, only its own sequences
/// move. Returns `None` if all are avoided.
pub fn choose(replicas: &[Replica], number: u64) -> Option<usize> {
    let weight = |index: &usize| {
        let mut hasher = DefaultHasher::new();
        (number, index).hash(&mut hasher);
        hasher.finish()
    };
    (0..replicas.len()).filter(|index| !replicas[*index].is_avoided()).max_by_key(weight)
}
