//! Samples frames: `T` frames of a range, and the `S` slow frames among them.

/// Returns the middle of each of `min(total, requested)` equal segments of `total` frames,
/// ascending.
///
/// Segment borders are rounded half to even, as numpy's `round` does in the authors' loader.
/// If `total` equals or barely exceeds `requested`, a frame is repeated and another left out.
/// [`pick`] avoids this for windows that fit the plan.
pub fn uniform(total: usize, requested: usize) -> Vec<usize> {
    let count = total.min(requested);
    if count == 0 {
        return Vec::new();
    }
    let segment = (total - 1) as f64 / count as f64;
    let border = |i: usize| (segment * i as f64).round_ties_even() as usize;
    (0..count).map(|i| (border(i) + border(i + 1)) / 2).collect()
}

/// Returns the frames of a window that are used: all of them if there are at most `requested`,
/// otherwise those of [`uniform`].
pub fn pick(total: usize, requested: usize) -> Vec<usize> {
    if total <= requested { (0..total).collect() } else { uniform(total, requested) }
}

/// Returns the positions of `slow` frames among `frames`: `torch.linspace(0, frames, slow + 1)`
/// without its end, truncated. If `frames < slow`, frames are repeated.
///
/// Like torch, this counts from the nearer end, in f32, with one rounding.
pub fn slow(frames: usize, slow: usize) -> Vec<usize> {
    let (end, step) = (frames as f32, frames as f32 / slow as f32);
    let position = |i: usize| {
        if i < slow.div_ceil(2) { step * i as f32 } else { (-step).mul_add((slow - i) as f32, end) }
    };
    (0..slow).map(|i| position(i) as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_plan() {
        assert_eq!(slow(50, 10), [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]);
        assert_eq!(slow(16, 4), [0, 4, 8, 12]);
        assert_eq!(slow(2, 4), [0, 0, 1, 1]);
        assert_eq!(pick(16, 16), (0..16).collect::<Vec<_>>());
        assert_eq!(uniform(4, 4), [0, 1, 2, 2]);
        assert_eq!(pick(3, 10), [0, 1, 2]);
        assert_eq!(uniform(0, 10), [0; 0]);
    }

    proptest::proptest! {
        #[test]
        fn uniform_samples_are_ascending_and_in_range(total in 0usize..5000, requested in 0usize..200) {
            let picked = uniform(total, requested);
            proptest::prop_assert_eq!(picked.len(), total.min(requested));
            proptest::prop_assert!(picked.windows(2).all(|w| w[0] <= w[1]));
            proptest::prop_assert!(picked.iter().all(|i| *i < total));
        }

        #[test]
        fn slow_frames_are_in_range(frames in 1usize..300, count in 1usize..64) {
            let picked = slow(frames, count);
            proptest::prop_assert_eq!(picked.len(), count);
            proptest::prop_assert!(picked.windows(2).all(|w| w[0] <= w[1]));
            proptest::prop_assert!(picked.iter().all(|i| *i < frames));
        }
    }
}
