//! Stores the keys and values of the sequences that a decoder runs, one row per sequence.
//!
//! Graphs that write in place share one memory, `[part][row][head][capacity][head_dim]` with
//! a key part and a value part for every layer, so that adjacent rows form one batch. With other
//! graphs each row holds the outputs of its last run.

use std::collections::HashMap;
use std::sync::Arc;

use ort::session::IoBinding;
use ort::value::DynValue;

use crate::model::Memory;

/// The keys and values of at most `capacity` tokens in each row.
///
/// The cache belongs to the decoder that created it. In a row that is written in place, tokens
/// past its length are undefined.
pub struct KvCache {
    pub(super) store: Store,
    pub(super) lengths: Vec<usize>,
    pub(super) capacity: usize,
}

pub(super) enum Store {
    InPlace(InPlace),
    Growing(Vec<Growing>),
}

pub(super) struct InPlace {
    /// Bindings by first row and number of rows. Each is bound to `memory`, so this field comes
    /// first and is dropped first.
    pub bindings: HashMap<(usize, usize), IoBinding>,
    pub memory: Memory,
    pub shape: Shape,
    /// Space for one head, used to swap rows.
    pub spare: Memory,
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Number of parts: keys and values of every layer.
    pub parts: usize,
    pub rows: usize,
    pub heads: usize,
    pub capacity: usize,
    pub head_dim: usize,
}

pub(super) struct Growing {
    pub binding: IoBinding,
    /// The values bound as the past, in the order of the parts. They are never written to.
    pub values: Arc<Vec<DynValue>>,
}

/// The keys and values of the first tokens of a row.
pub struct Prefix {
    pub(super) len: usize,
    pub(super) kept: Kept,
}

pub(super) enum Kept {
    /// A copy, `[part][head][len][head_dim]`.
    Compact(Memory),
    Shared(Arc<Vec<DynValue>>),
}

impl Prefix {
    /// Returns the number of tokens.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl KvCache {
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Returns the number of tokens in a row.
    pub fn len(&self, row: usize) -> usize {
        self.lengths[row]
    }

    pub fn is_empty(&self, row: usize) -> bool {
        self.len(row) == 0
    }

    /// Returns the maximum number of tokens in a row.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Swaps two rows.
    pub(super) fn swap(&mut self, a: usize, b: usize) -> ort::Result<()> {
        if a == b {
            return Ok(());
        }
        match &mut self.store {
            Store::Growing(rows) => rows.swap(a, b),
            Store::InPlace(InPlace { memory, spare, shape, .. }) => {
                let (in_a, in_b) = (self.lengths[a], self.lengths[b]);
                let numbers = in_a.max(in_b) * shape.head_dim;
                for (a, b) in std::iter::zip(shape.heads_of(a), shape.heads_of(b)) {
                    match (in_a, in_b) {
                        (0, _) => memory.copy_within(a, b, numbers)?,
                        (_, 0) => memory.copy_within(b, a, numbers)?,
                        _ => {
                            spare.copy(0, memory, a, numbers)?;
                            memory.copy_within(a, b, numbers)?;
                            memory.copy(b, spare, 0, numbers)?;
                        }
                    }
                }
            }
        }
        self.lengths.swap(a, b);
        Ok(())
    }
}

impl Shape {
    pub fn numbers(self) -> usize {
        self.parts * self.part()
    }

    /// Returns the position where a part's row begins.
    pub fn at(self, part: usize, row: usize) -> usize {
        part * self.part() + row * self.heads * self.head()
    }

    /// Returns the number of values in a head.
    pub fn head(self) -> usize {
        self.capacity * self.head_dim
    }

    /// Returns the positions where a row's heads begin, part by part.
    pub fn heads_of(self, row: usize) -> impl Iterator<Item = usize> {
        (0..self.parts).flat_map(move |part| {
            (0..self.heads).map(move |head| self.at(part, row) + head * self.head())
        })
    }

    fn part(self) -> usize {
        self.rows * self.heads * self.head()
    }
}
