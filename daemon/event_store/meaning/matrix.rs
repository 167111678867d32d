//! The vectors of events in memory, with the columns that filters need. A search compares all of
//! them; the most similar vector of an event counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};

use super::passages::MOST;
use super::vector::{Vector, products};

/// Rows of a block. Blocks are allocated as they are needed, and never moved.
const BLOCK: usize = 4_096;

/// Bytes of a row in addition to its vector: the columns, and its place in the map.
const ROW_BYTES: usize = 64;

/// Columns of an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The event's row in the database. A later event has a greater one.
    pub id: i64,
    pub published_ms: i64,
    pub camera: String,
    pub kind: i32,
}

/// Conditions on rows.
#[derive(Debug, Default)]
pub struct RowFilter {
    /// Names of cameras; empty means all.
    pub cameras: Vec<String>,
    /// Kinds of events; empty means all.
    pub kinds: Vec<i32>,
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
}

/// An event that was found, with the greatest cosine of its vectors and the one that was searched
/// for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub id: i64,
    pub similarity: f32,
}

/// A table of vectors with a maximum number of rows. If it is full, the oldest events are left out.
pub struct Matrix {
    dimensions: usize,
    capacity: usize,
    /// Vectors, in blocks of [`BLOCK`] rows.
    blocks: Vec<Vec<i8>>,
    columns: Vec<Columns>,
    /// Row numbers by event and number of its vector.
    rows: BTreeMap<(i64, u8), u32>,
    /// Number of events.
    events: usize,
    cameras: Vec<String>,
    /// Publication time of the newest event that was left out.
    left_out_ms: Option<i64>,
}

struct Columns {
    id: i64,
    /// Number of the vector among those of the event.
    number: u8,
    published_ms: i64,
    scale: f32,
    /// Index in the list of cameras.
    camera: u32,
    kind: i32,
}

impl Matrix {
    /// Creates a matrix that takes at most `bytes`, and has at least one row.
    pub fn new(dimensions: usize, bytes: usize) -> Matrix {
        let capacity = (bytes / (dimensions + ROW_BYTES)).clamp(1, u32::MAX as usize);
        Matrix {
            dimensions,
            capacity,
            blocks: Vec::new(),
            columns: Vec::new(),
            rows: BTreeMap::new(),
            events: 0,
            cameras: Vec::new(),
            left_out_ms: None,
        }
    }

    /// Returns the number of events.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Returns the publication time of the newest event that was left out for lack of room.
    pub fn left_out_ms(&self) -> Option<i64> {
        self.left_out_ms
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.columns.clear();
        self.rows.clear();
        self.events = 0;
        self.left_out_ms = None;
    }

    /// Adds an event's vectors, at most [`MOST`]. They replace those that it has.
    pub fn insert(&mut self, row: Row, vectors: &[Vector]) {
        let vectors = &vectors[..vectors.len().min(MOST)];
        self.remove(row.id);
        if vectors.is_empty() || vectors.iter().any(|v| v.values.len() != self.dimensions) {
            return;
        }
        while self.columns.len() + vectors.len() > self.capacity {
            let oldest = self.rows.first_key_value().filter(|((oldest, _), _)| *oldest < row.id);
            let Some((&(oldest, _), &at)) = oldest else {
                self.left_out_ms = self.left_out_ms.max(Some(row.published_ms));
                return;
            };
            self.left_out_ms = self.left_out_ms.max(Some(self.columns[at as usize].published_ms));
            self.remove(oldest);
        }
        let Row { id, published_ms, camera, kind } = row;
        let camera = self.camera(camera);
        for (number, Vector { scale, values }) in (0..).zip(vectors) {
            let at = self.columns.len();
            if at == self.blocks.len() * BLOCK {
                self.blocks.push(Vec::with_capacity(BLOCK * self.dimensions));
            }
            self.blocks[at / BLOCK].extend_from_slice(values);
            self.columns.push(Columns { id, number, published_ms, scale: *scale, camera, kind });
            self.rows.insert((id, number), at as u32);
        }
        self.events += 1;
    }

    /// Removes an event's vectors, if it has any.
    pub fn remove(&mut self, id: i64) {
        let numbers = 0..MOST as u8;
        let rows = numbers.map_while(|number| self.remove_row((id, number))).count();
        self.events -= usize::from(rows > 0);
    }

    /// Removes a row, if it exists. The last row takes its place.
    fn remove_row(&mut self, key: (i64, u8)) -> Option<()> {
        let at = self.rows.remove(&key)? as usize;
        let block = self.blocks.last_mut()?;
        let last: Vec<i8> = block.split_off(block.len() - self.dimensions);
        self.columns.swap_remove(at);
        if let Some(moved) = self.columns.get(at) {
            let start = at % BLOCK * self.dimensions;
            self.blocks[at / BLOCK][start..][..self.dimensions].copy_from_slice(&last);
            self.rows.insert((moved.id, moved.number), at as u32);
        }
        if self.blocks.last().is_some_and(Vec::is_empty) {
            self.blocks.pop();
        }
        Some(())
    }

    /// Returns the events most similar to a vector, at most `limit`, the most similar first and the
    /// newer one first of two equals.
    pub fn search(&self, vector: &Vector, filter: &RowFilter, limit: usize) -> Vec<Found> {
        if vector.values.len() != self.dimensions || limit == 0 {
            return Vec::new();
        }
        let is_wanted = self.filter(filter);
        // Enough for `limit` events, also if all vectors of each are among the best.
        let rows = limit.saturating_mul(MOST).min(self.columns.len());
        let mut best: BinaryHeap<Reverse<Candidate>> = BinaryHeap::with_capacity(rows + 1);
        let mut dots = Vec::with_capacity(BLOCK);
        for (block, columns) in std::iter::zip(&self.blocks, self.columns.chunks(BLOCK)) {
            products(&vector.values, block, &mut dots);
            for (dot, columns) in std::iter::zip(&dots, columns) {
                let candidate = Candidate { score: *dot as f32 * columns.scale, id: columns.id };
                if best.len() == rows && best.peek().is_some_and(|least| candidate <= least.0) {
                    continue;
                }
                if is_wanted(columns) {
                    best.push(Reverse(candidate));
                    if best.len() > rows {
                        best.pop();
                    }
                }
            }
        }
        // The order is reversed, so that the smallest is the best.
        let found = best.into_sorted_vec().into_iter();
        let mut seen = HashSet::with_capacity(limit.min(rows));
        found
            .map(|Reverse(Candidate { score, id })| Found { id, similarity: score * vector.scale })
            .filter(|found| seen.insert(found.id))
            .take(limit)
            .collect()
    }

    fn filter<'a>(&'a self, filter: &'a RowFilter) -> impl Fn(&Columns) -> bool + 'a {
        let is_of_camera: Vec<bool> = self
            .cameras
            .iter()
            .map(|camera| filter.cameras.is_empty() || filter.cameras.contains(camera))
            .collect();
        move |columns| {
            let kind = filter.kinds.is_empty() || filter.kinds.contains(&columns.kind);
            let since = filter.since_ms.is_none_or(|since| columns.published_ms >= since);
            let until = filter.until_ms.is_none_or(|until| columns.published_ms < until);
            kind && since && until && is_of_camera[columns.camera as usize]
        }
    }

    fn camera(&mut self, name: String) -> u32 {
        let known = self.cameras.iter().position(|camera| *camera == name);
        let index = known.unwrap_or_else(|| {
            self.cameras.push(name);
            self.cameras.len() - 1
        });
        index as u32
    }
}

/// A row in the order of its score, and of its ID among equals.
#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    score: f32,
    id: i64,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(self.id.cmp(&other.id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(id: i64, camera: &str) -> Row {
        Row { id, published_ms: id * 10, camera: camera.into(), kind: (id % 2) as i32 }
    }

    fn vector(angle: f32) -> Vector {
        Vector::new(&[angle.cos(), angle.sin()])
    }

    fn ids(found: &[Found]) -> Vec<i64> {
        found.iter().map(|found| found.id).collect()
    }

    #[test]
    fn the_most_similar_rows_are_found() {
        let mut matrix = Matrix::new(2, 1 << 20);
        for (id, angle) in [(1, 0.0), (2, 1.0), (3, 2.0), (4, 0.5), (5, 1.0)] {
            matrix.insert(row(id, if id < 3 { "gate" } else { "yard" }), &[vector(angle)]);
        }
        let all = RowFilter::default();
        let found = matrix.search(&vector(0.0), &all, 10);
        assert_eq!(ids(&found), [1, 4, 5, 2, 3]);
        assert!((found[0].similarity - 1.0).abs() < 0.01, "{found:?}");
        assert_eq!(ids(&matrix.search(&vector(0.0), &all, 3)), [1, 4, 5]);
        let yard = RowFilter { cameras: vec!["yard".into()], ..RowFilter::default() };
        assert_eq!(ids(&matrix.search(&vector(0.0), &yard, 10)), [4, 5, 3]);
        let odd = RowFilter { kinds: vec![1], ..RowFilter::default() };
        assert_eq!(ids(&matrix.search(&vector(0.0), &odd, 10)), [1, 5, 3]);
        let between = RowFilter { since_ms: Some(20), until_ms: Some(40), ..RowFilter::default() };
        assert_eq!(ids(&matrix.search(&vector(0.0), &between, 10)), [2, 3]);
        let nobody = RowFilter { cameras: vec!["attic".into()], ..RowFilter::default() };
        assert!(matrix.search(&vector(0.0), &nobody, 10).is_empty());
    }

    #[test]
    fn the_oldest_rows_are_left_out_if_there_is_no_room() {
        let mut matrix = Matrix::new(2, 3 * (2 + ROW_BYTES));
        for id in [5, 3, 4, 2, 6] {
            matrix.insert(row(id, "gate"), &[vector(0.0)]);
        }
        assert_eq!(ids(&matrix.search(&vector(0.0), &RowFilter::default(), 10)), [6, 5, 4]);
        assert_eq!(matrix.left_out_ms(), Some(30));
        matrix.clear();
        assert_eq!((matrix.events(), matrix.left_out_ms()), (0, None));
    }

    #[test]
    fn the_most_similar_vector_of_an_event_counts() {
        let mut matrix = Matrix::new(2, 1 << 20);
        let all = RowFilter::default();
        matrix.insert(row(1, "gate"), &[vector(0.8), vector(0.0), vector(0.1)]);
        matrix.insert(row(2, "gate"), &[vector(0.3)]);
        matrix.insert(row(3, "gate"), &[vector(1.0), vector(0.9)]);
        let found = matrix.search(&vector(0.0), &all, 2);
        assert_eq!(ids(&found), [1, 2]);
        assert!((found[0].similarity - 1.0).abs() < 0.01, "{found:?}");
        assert_eq!(ids(&matrix.search(&vector(1.0), &all, 10)), [3, 1, 2]);
        // An event that has no room among older ones takes that of the oldest.
        let mut matrix = Matrix::new(2, 4 * (2 + ROW_BYTES));
        matrix.insert(row(1, "gate"), &[vector(0.0), vector(1.0)]);
        matrix.insert(row(2, "gate"), &[vector(0.0)]);
        matrix.insert(row(3, "gate"), &[vector(0.0), vector(1.0), vector(2.0)]);
        assert_eq!(ids(&matrix.search(&vector(0.0), &all, 10)), [3, 2]);
        assert_eq!((matrix.events(), matrix.left_out_ms()), (2, Some(10)));
    }

    proptest! {
        #[test]
        fn rows_stay_with_their_vectors(steps in prop::collection::vec((0_i64..40, 0..4_usize), 0..200)) {
            let mut matrix = Matrix::new(2, 1 << 20);
            let angle = |id: i64, number: usize| (id as f32 * 4.0 + number as f32) * 0.0375;
            let mut expected = BTreeMap::new();
            for (id, vectors) in steps {
                let of_event: Vec<_> = (0..vectors).map(|number| vector(angle(id, number))).collect();
                if vectors == 0 {
                    matrix.remove(id);
                    expected.remove(&id);
                } else {
                    matrix.insert(row(id, "gate"), &of_event);
                    expected.insert(id, vectors);
                }
            }
            prop_assert_eq!(matrix.events(), expected.len());
            prop_assert_eq!(matrix.columns.len(), expected.values().sum::<usize>());
            for (id, vectors) in expected {
                for number in 0..vectors {
                    let found = matrix.search(&vector(angle(id, number)), &RowFilter::default(), 1);
                    prop_assert_eq!(found[0].id, id);
                }
            }
        }
    }
}
