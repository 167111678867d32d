//! Keys and values of the sequences that a decoder works on, a row each.
//!
//! Graphs that write in place share one memory, `[part][row][head][capacity][head_dim]` with
//! a key part and a value part of every layer, so that rows side by side are one batch. In other
//! graphs each row holds what its last run gave.

use std::collections::HashMap;
use std::sync::Arc;

use ort::session::IoBinding;
use ort::value::DynValue;

use crate::model::Memory;

/// The keys and values of up to `capacity` tokens in each row.
///
/// Belongs to the decoder that made it. Of a row written in place, tokens past its length are
/// rubbish.
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
    /// By the first row and the number of rows; each is bound to `memory`, and so comes before it.
    pub bindings: HashMap<(usize, usize), IoBinding>,
    pub memory: Memory,
    pub shape: Shape,
    /// Room for one head, to exchange rows by.
    pub spare: Memory,
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Keys and values of every layer.
    pub parts: usize,
    pub rows: usize,
    pub heads: usize,
    pub capacity: usize,
    pub head_dim: usize,
}

pub(super) struct Growing {
    pub binding: IoBinding,
    /// What the binding takes as past, in the order of the parts; never written to.
    pub values: Arc<Vec<DynValue>>,
}

/// Keys and values of the first tokens of a row, and of nothing else.
pub struct Prefix {
    pub(super) len: usize,
    pub(super) kept: Kept,
}

pub(super) enum Kept {
    /// `[part][head][len][head_dim]`
    Compact(Memory),
    Shared(Arc<Vec<DynValue>>),
}

impl Prefix {
    /// Tokens.
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

    /// Tokens in a row.
    pub fn len(&self, row: usize) -> usize {
        self.lengths[row]
    }

    pub fn is_empty(&self, row: usize) -> bool {
        self.len(row) == 0
    }

    /// Tokens that a row has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Exchanges two rows.
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

    /// Where a part's row begins.
    pub fn at(self, part: usize, row: usize) -> usize {
        part * self.part() + row * self.heads * self.head()
    }

    /// Numbers of a head.
    pub fn head(self) -> usize {
        self.capacity * self.head_dim
    }

    /// Where a row's heads begin, part by part.
    pub fn heads_of(self, row: usize) -> impl Iterator<Item = usize> {
        (0..self.parts).flat_map(move |part| {
            (0..self.heads).map(move |head| self.at(part, row) + head * self.head())
        })
    }

    fn part(self) -> usize {
        self.rows * self.heads * self.head()
    }
}
