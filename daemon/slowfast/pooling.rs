//! Pools one frame's projected patch grid, `[N, D]`, row-major.

use std::fmt;

/// One frame's features: `tokens` rows of `dim` values.
#[derive(Clone, Copy)]
pub struct Grid<'a> {
    pub rows: &'a [f32],
    pub tokens: usize,
    pub dim: usize,
}

/// A pooling that uses a single frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Every token is kept unchanged.
    Concat,
    /// Flattened tokens 2i and 2i+1 are joined. The last token of an odd number is dropped.
    Max1d,
    Avg1d,
    /// Windows of 2×2 tokens are joined. An odd last row or column is dropped.
    Max2d,
    Avg2d,
    /// Adaptive average to `rows` × `columns`: bins from floor(i·n/o) to ceil((i+1)·n/o), which
    /// overlap when `o` does not divide `n` and repeat when `o > n`.
    Adaptive {
        rows: usize,
        columns: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    #[error("{pool} needs a square patch grid, found {tokens} tokens")]
    NotSquare { pool: Pool, tokens: usize },
    #[error("{pool} of {tokens} tokens leaves none")]
    NothingLeft { pool: Pool, tokens: usize },
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pool::Concat => f.write_str("concat"),
            Pool::Max1d => f.write_str("spatial_1d_max_pool"),
            Pool::Avg1d => f.write_str("spatial_1d_avg_pool"),
            Pool::Max2d => f.write_str("spatial_2d_max_pool"),
            Pool::Avg2d => f.write_str("spatial_2d_avg_pool"),
            Pool::Adaptive { rows, columns } => write!(f, "{rows}x{columns}"),
        }
    }
}

impl Pool {
    pub fn named(name: &str) -> Option<Pool> {
        [Pool::Concat, Pool::Max1d, Pool::Avg1d, Pool::Max2d, Pool::Avg2d]
            .into_iter()
            .find(|pool| pool.to_string() == name)
    }

    /// Returns the number of rows that `tokens` rows are pooled to.
    pub fn tokens_out(self, tokens: usize) -> Result<usize, PoolError> {
        let out = match self {
            Pool::Concat => tokens,
            Pool::Max1d | Pool::Avg1d => tokens / 2,
            Pool::Max2d | Pool::Avg2d => (self.side(tokens)? / 2).pow(2),
            Pool::Adaptive { rows, columns } => {
                self.side(tokens)?;
                // Zero rows are allowed here: `fast_0x0` disables the pathway.
                return Ok(rows * columns);
            }
        };
        if out == 0 {
            return Err(PoolError::NothingLeft { pool: self, tokens });
        }
        Ok(out)
    }

    fn side(self, tokens: usize) -> Result<usize, PoolError> {
        let side = tokens.isqrt();
        if side * side != tokens {
            return Err(PoolError::NotSquare { pool: self, tokens });
        }
        Ok(side)
    }

    /// Appends the pooled rows to `out`.
    pub fn apply(self, grid: Grid<'_>, out: &mut Vec<f32>) -> Result<(), PoolError> {
        let count = self.tokens_out(grid.tokens)?;
        match self {
            Pool::Concat => out.extend_from_slice(grid.rows),
            Pool::Max1d | Pool::Avg1d => {
                for i in 0..count {
                    self.join(grid, &[2 * i, 2 * i + 1], out);
                }
            }
            Pool::Max2d | Pool::Avg2d => {
                let side = self.side(grid.tokens)?;
                for row in 0..side / 2 {
                    for column in 0..side / 2 {
                        let first = 2 * row * side + 2 * column;
                        self.join(grid, &[first, first + 1, first + side, first + side + 1], out);
                    }
                }
            }
            Pool::Adaptive { rows, columns } => {
                let side = self.side(grid.tokens)?;
                let mut members = Vec::new();
                for row in 0..rows {
                    for column in 0..columns {
                        members.clear();
                        for y in adaptive_bin(row, rows, side) {
                            members
                                .extend(adaptive_bin(column, columns, side).map(|x| y * side + x));
                        }
                        self.join(grid, &members, out);
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends one row: the maximum or the mean of the `members`.
    fn join(self, grid: Grid<'_>, members: &[usize], out: &mut Vec<f32>) {
        let row = |token: usize| &grid.rows[token * grid.dim..(token + 1) * grid.dim];
        let start = out.len();
        out.extend_from_slice(row(members[0]));
        let joined = &mut out[start..];
        if matches!(self, Pool::Max1d | Pool::Max2d) {
            for &token in &members[1..] {
                joined.iter_mut().zip(row(token)).for_each(|(a, b)| *a = a.max(*b));
            }
            return;
        }
        for &token in &members[1..] {
            joined.iter_mut().zip(row(token)).for_each(|(a, b)| *a += b);
        }
        let count = members.len() as f32;
        joined.iter_mut().for_each(|a| *a /= count);
    }
}

/// Returns bin `i` of `outs` bins over `ins` positions, as torch's adaptive pooling does.
pub(super) fn adaptive_bin(i: usize, outs: usize, ins: usize) -> std::ops::Range<usize> {
    i * ins / outs..((i + 1) * ins).div_ceil(outs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pool: Pool, rows: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        pool.apply(Grid { rows, tokens: rows.len(), dim: 1 }, &mut out).expect("fits");
        out
    }

    #[test]
    fn each_pool_on_a_3x3_grid() {
        let rows = [0., 1., 2., 3., 4., 5., 6., 7., 8.];
        assert_eq!(pooled(Pool::Max1d, &rows), [1., 3., 5., 7.]);
        assert_eq!(pooled(Pool::Avg1d, &rows), [0.5, 2.5, 4.5, 6.5]);
        assert_eq!(pooled(Pool::Max2d, &rows), [4.]);
        assert_eq!(pooled(Pool::Avg2d, &rows), [2.]);
        let adaptive = Pool::Adaptive { rows: 2, columns: 1 };
        assert_eq!(pooled(adaptive, &rows), [2.5, 5.5]);
    }

    #[test]
    fn grids_that_cannot_be_pooled_are_rejected() {
        let pool = Pool::Avg2d;
        assert_eq!(pool.tokens_out(12), Err(PoolError::NotSquare { pool, tokens: 12 }));
        assert_eq!(pool.tokens_out(1), Err(PoolError::NothingLeft { pool, tokens: 1 }));
    }
}
