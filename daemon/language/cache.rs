//! Stores the keys and values of the sequences that a decoder runs, one slot per sequence.
//!
//! Graphs that write in place share one memory, `[plane][slot][head][capacity][head_dim]` with
//! a plane of keys and a plane of values for every layer, so that adjacent slots form one batch. With other
//! graphs each slot holds the outputs of its last run.

use std::collections::HashMap;
use std::sync::Arc;

use ort::session::IoBinding;
use ort::value::DynValue;

use crate::model::{Layout, Memory, Pieces};

/// The keys and values of at most `capacity` tokens in each slot.
///
/// The cache belongs to the decoder that created it. In a slot that is written in place, tokens
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
    /// Bindings by first slot and number of slots. Each is bound to `memory`, so this field comes
    /// first and is dropped first.
    pub bindings: HashMap<(usize, usize), IoBinding>,
    pub memory: Memory,
    pub shape: Shape,
    /// Space for the heads of a slot in one plane, used to swap slots.
    pub spare: Memory,
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Number of planes: keys and values of every layer.
    pub planes: usize,
    pub slots: usize,
    pub heads: usize,
    pub capacity: usize,
    pub head_dim: usize,
}

pub(super) struct Growing {
    pub binding: IoBinding,
    /// The values bound as the past, in the order of the planes. They are never written to.
    pub values: Arc<Vec<DynValue>>,
}

/// The keys and values of the first tokens of a slot.
pub struct Prefix {
    pub(super) len: usize,
    pub(super) storage: PrefixStorage,
}

pub(super) enum PrefixStorage {
    /// A copy, `[plane][head][len][head_dim]`.
    Compact(Memory),
    Shared(Arc<Vec<DynValue>>),
}

/// A length of a slot, to which the slot can be cut again.
pub struct Mark {
    pub(super) len: usize,
    /// The values of a slot that grows.
    pub(super) values: Option<Arc<Vec<DynValue>>>,
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
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Returns the number of tokens in a slot.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Returns the maximum number of tokens in a slot.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Swaps two slots.
    pub(super) fn swap(&mut self, a: usize, b: usize) -> ort::Result<()> {
        if a == b {
            return Ok(());
        }
        match &mut self.store {
            Store::Growing(slots) => slots.swap(a, b),
            Store::InPlace(InPlace { memory, spare, shape, .. }) => {
                let (in_a, in_b) = (self.lengths[a], self.lengths[b]);
                let pieces = shape.pieces(in_a.max(in_b));
                let (at_a, at_b) = (shape.layout(a), shape.layout(b));
                match (in_a, in_b) {
                    (0, _) => memory.copy_within(at_a, at_b, pieces)?,
                    (_, 0) => memory.copy_within(at_b, at_a, pieces)?,
                    _ => {
                        let pieces = Pieces { planes: 1, ..pieces };
                        for plane in 0..shape.planes {
                            let (at_a, at_b) = (at_a.plane(plane), at_b.plane(plane));
                            spare.copy(pieces.compact(), memory, at_a, pieces)?;
                            memory.copy_within(at_a, at_b, pieces)?;
                            memory.copy(at_b, spare, pieces.compact(), pieces)?;
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
        self.planes * self.plane()
    }

    /// Returns the position where a plane's slot begins.
    pub fn at(self, plane: usize, slot: usize) -> usize {
        plane * self.plane() + slot * self.heads * self.head()
    }

    /// Returns the number of values in a head.
    pub fn head(self) -> usize {
        self.capacity * self.head_dim
    }

    /// Returns where a slot's heads begin.
    pub fn layout(self, slot: usize) -> Layout {
        Layout { first: self.at(0, slot), plane_step: self.plane(), row_step: self.head() }
    }

    /// Returns the pieces that the first `len` tokens of a slot are: one for every head.
    pub fn pieces(self, len: usize) -> Pieces {
        Pieces { planes: self.planes, rows: self.heads, length: len * self.head_dim }
    }

    fn plane(self) -> usize {
        self.slots * self.heads * self.head()
    }
}
