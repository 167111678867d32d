//! A mask from a polygon. Pure.
//!
//! Guarantees: every pixel that the polygon covers or touches is black. A polygon that intersects
//! itself covers everything that its outline encloses.

use std::ops::Range;

/// Maximum number of corners.
const CORNERS: usize = 256;

/// A polygon. Its corners are fractions of a frame's width and height, from the top left.
#[derive(Clone, Debug, PartialEq)]
pub struct Polygon(Vec<[f64; 2]>);

/// A line between two corners, in pixels, from its upper end to its lower one.
#[derive(Clone, Copy)]
struct Edge {
    top: [f64; 2],
    bottom: [f64; 2],
    /// 1 if the outline goes down here, -1 if it goes up.
    direction: i32,
}

impl Polygon {
    /// Makes a polygon. Returns the reason as text if the corners are not those of one.
    pub fn new(corners: Vec<[f64; 2]>) -> Result<Polygon, String> {
        if !(3..=CORNERS).contains(&corners.len()) {
            return Err(format!("{} corners: wanted 3 to {CORNERS}", corners.len()));
        }
        let is_outside = |corner: &&[f64; 2]| !corner.iter().all(|at| (0.0..=1.0).contains(at));
        match corners.iter().find(is_outside) {
            Some([x, y]) => Err(format!(
                "a corner is [{x}, {y}]: wanted fractions of the width and of the height, 0 to 1"
            )),
            None => Ok(Polygon(corners)),
        }
    }

    /// Returns the pixels of a frame of this size that are black, row by row.
    pub fn pixels(&self, width: usize, height: usize) -> Vec<Range<usize>> {
        let edges = self.edges(width as f64, height as f64);
        let row = |y: usize| {
            let within = move |Range { start, end }| {
                y * width + width.min(start)..y * width + width.min(end)
            };
            columns(&edges, y as f64).into_iter().map(within)
        };
        (0..height).flat_map(row).collect()
    }

    fn edges(&self, width: f64, height: f64) -> Vec<Edge> {
        let corner = |[x, y]: [f64; 2]| [x * width, y * height];
        let corners = || self.0.iter().copied().map(corner);
        let pairs = corners().zip(corners().cycle().skip(1));
        pairs
            .map(|(from, to)| match from[1] <= to[1] {
                true => Edge { top: from, bottom: to, direction: 1 },
                false => Edge { top: to, bottom: from, direction: -1 },
            })
            .collect()
    }
}

impl Edge {
    /// Returns the position of the edge at a height between its ends.
    fn x_at(&self, y: f64) -> f64 {
        let [x, top] = self.top;
        let part = (y - top) / (self.bottom[1] - top);
        x + (self.bottom[0] - x) * part.clamp(0.0, 1.0)
    }
}

/// Returns the columns of the pixels that the polygon covers or touches in the row from `top` to
/// `top` + 1.
fn columns(edges: &[Edge], top: f64) -> Vec<Range<usize>> {
    // Between two of these heights no edge begins or ends.
    let inside = |y: &f64| top < *y && *y < top + 1.0;
    let ends = edges.iter().flat_map(|edge| [edge.top[1], edge.bottom[1]]).filter(inside);
    let mut heights: Vec<f64> = ends.chain([top, top + 1.0]).collect();
    heights.sort_by(f64::total_cmp);
    let mut columns = Vec::new();
    for band in heights.windows(2) {
        let (from, to) = (band[0], band[1]);
        if from < to {
            covered(edges, from, to, &mut columns);
        }
    }
    // A horizontal edge is touched, also if the polygon has no height.
    for edge in edges.iter().filter(|edge| edge.top[1] == edge.bottom[1]) {
        let (left, right) = (edge.top[0].min(edge.bottom[0]), edge.top[0].max(edge.bottom[0]));
        if (top..top + 1.0).contains(&edge.top[1]) {
            columns.push(pixels(left, right));
        }
    }
    columns
}

/// Adds the columns that the polygon covers between two heights, between which each edge passes
/// through or is absent.
fn covered(edges: &[Edge], from: f64, to: f64, columns: &mut Vec<Range<usize>>) {
    let middle = f64::midpoint(from, to);
    let passes = |edge: &&Edge| edge.top[1] <= from && to <= edge.bottom[1];
    let mut passing: Vec<&Edge> = edges.iter().filter(passes).collect();
    passing.sort_by(|a, b| a.x_at(middle).total_cmp(&b.x_at(middle)));
    let (mut winding, mut left, mut right) = (0, f64::INFINITY, f64::NEG_INFINITY);
    for edge in passing {
        let (upper, lower) = (edge.x_at(from), edge.x_at(to));
        left = left.min(upper).min(lower);
        right = right.max(upper).max(lower);
        winding += edge.direction;
        if winding == 0 {
            columns.push(pixels(left, right));
            (left, right) = (f64::INFINITY, f64::NEG_INFINITY);
        }
    }
}

fn pixels(left: f64, right: f64) -> Range<usize> {
    left.floor() as usize..right.ceil() as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the rows of a frame with the mask: `#` for black pixels.
    fn painted(corners: &[[f64; 2]], width: usize, height: usize) -> Vec<String> {
        let polygon = Polygon::new(corners.to_vec()).expect("a polygon");
        let mut frame = vec!['.'; width * height];
        polygon.pixels(width, height).into_iter().for_each(|pixels| frame[pixels].fill('#'));
        frame.chunks(width).map(|row| row.iter().collect()).collect()
    }

    #[test]
    fn a_polygon_covers_the_pixels_that_it_touches() {
        let rectangle = [[0.25, 0.5], [0.625, 0.5], [0.625, 1.0], [0.25, 1.0]];
        assert_eq!(painted(&rectangle, 8, 4), ["........", "........", "..###...", "..###..."]);
        let touches = [[0.3, 0.55], [0.6, 0.55], [0.6, 0.7], [0.3, 0.7]];
        assert_eq!(painted(&touches, 8, 4), ["........", "........", "..###...", "........"]);
        let triangle = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
        assert_eq!(painted(&triangle, 4, 4), ["####", "###.", "##..", "#..."]);
        let whole = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]];
        assert_eq!(painted(&whole, 3, 2), ["###", "###"]);
    }

    #[test]
    fn the_middle_of_a_star_is_covered() {
        let corner = |at: f64| {
            let angle = at * 0.8 * std::f64::consts::PI;
            [0.5 + 0.5 * angle.sin(), 0.5 - 0.5 * angle.cos()]
        };
        let star: Vec<[f64; 2]> = (0..5).map(|at| corner(f64::from(at))).collect();
        let rows = painted(&star, 40, 40);
        assert_eq!(&rows[20][15..25], "##########");
        assert_eq!((&rows[1][..5], &rows[1][35..]), (".....", "....."));
    }

    #[test]
    fn corners_outside_the_frame_are_refused() {
        let refused = |corners: Vec<[f64; 2]>| Polygon::new(corners).expect_err("no polygon");
        assert_eq!(refused(vec![[0.0, 0.0], [1.0, 1.0]]), "2 corners: wanted 3 to 256");
        for wrong in [[1.5, 0.0], [0.0, -0.1], [f64::NAN, 0.0]] {
            let error = refused(vec![[0.0, 0.0], wrong, [1.0, 1.0]]);
            assert!(error.contains("wanted fractions"), "{error}");
        }
    }

    /// Returns true if the outline winds around the point.
    fn encloses(corners: &[[f64; 2]], [x, y]: [f64; 2]) -> bool {
        let mut winding = 0;
        for (from, to) in corners.iter().zip(corners.iter().cycle().skip(1)) {
            let side = (to[0] - from[0]) * (y - from[1]) - (x - from[0]) * (to[1] - from[1]);
            if from[1] <= y && y < to[1] && side > 0.0 {
                winding += 1;
            } else if to[1] <= y && y < from[1] && side < 0.0 {
                winding -= 1;
            }
        }
        winding != 0
    }

    proptest! {
        #[test]
        fn no_point_of_a_polygon_is_visible_and_no_pixel_far_from_it_is_black(
            corners in prop::collection::vec([0.0..=1.0f64, 0.0..=1.0f64], 3..9),
            points in prop::collection::vec([0.0..1.0f64, 0.0..1.0f64], 50),
            width in 1usize..60,
            height in 1usize..60,
        ) {
            let rows = painted(&corners, width, height);
            for [x, y] in points {
                let (column, row) = ((x * width as f64) as usize, (y * height as f64) as usize);
                let is_black = rows[row].as_bytes()[column] == b'#';
                prop_assert!(is_black || !encloses(&corners, [x, y]), "{x}, {y}: {rows:#?}");
            }
            let bounds = |axis: usize, size: usize| {
                let at = || corners.iter().map(|corner| corner[axis] * size as f64);
                (at().fold(f64::MAX, f64::min) - 1.0, at().fold(0.0, f64::max) + 1.0)
            };
            let (left, right) = bounds(0, width);
            let (top, bottom) = bounds(1, height);
            for (y, row) in rows.iter().enumerate() {
                for (x, pixel) in row.bytes().enumerate() {
                    let is_far = !(left..=right).contains(&(x as f64))
                        || !(top..=bottom).contains(&(y as f64));
                    prop_assert!(pixel == b'.' || !is_far, "{x}, {y}: {rows:#?}");
                }
            }
        }
    }
}
