//! Describes many equal pieces of a memory and their places in it: the keys and values of a slot are
//! one piece for every head of every layer.

/// Pieces of equal length, in planes of some rows: one piece for every row of every plane.
#[derive(Clone, Copy, Debug)]
pub struct Pieces {
    pub planes: usize,
    pub rows: usize,
    /// Numbers in each piece.
    pub length: usize,
}

/// The places of [`Pieces`] in a memory: where the first begins, and the steps from one plane and
/// from one row to the next.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub first: usize,
    pub plane_step: usize,
    pub row_step: usize,
}

impl Pieces {
    pub fn numbers(self) -> usize {
        self.planes * self.rows * self.length
    }

    /// Returns the layout in which they follow one another from the beginning of a memory.
    pub fn compact(self) -> Layout {
        Layout { first: 0, plane_step: self.rows * self.length, row_step: self.length }
    }

    /// Returns where each piece begins.
    pub fn starts(self, layout: Layout) -> impl Iterator<Item = usize> {
        let Layout { first, plane_step, row_step } = layout;
        (0..self.planes).flat_map(move |plane| {
            (0..self.rows).map(move |row| first + plane * plane_step + row * row_step)
        })
    }
}

impl Layout {
    /// Returns the layout that begins at a plane.
    pub fn plane(self, plane: usize) -> Layout {
        Layout { first: self.first + plane * self.plane_step, ..self }
    }
}
