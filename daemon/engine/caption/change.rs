//! Detects whether a window differs from the camera's last captioned window.
//!
//! A window's change is measured against the first frame of the captioned window. For every frame
//! and every cell of the fast pathway, it is the squared distance between the two tokens, divided
//! by the mean squared norm of the first frame's tokens. The largest of these values counts, so one
//! small actor in one cell is enough. A window is unchanged if neither its change nor the captioned
//! window's own exceeds the camera's limit: nobody came, went or moved in either. Slow changes add
//! up, because the first frame stays the same.
//!
//! The scale depends on the model: a limit is valid for the model it was measured with. Frames
//! without tokens are not compared.

use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use crate::event::Unchanged;
use crate::slowfast::FrameTokens;
use crate::timeline::ClipFrame;

/// The last captioned window of a camera.
#[derive(Default)]
pub struct ChangeDetector {
    captioned: Option<Captioned>,
}

struct Captioned {
    first: Arc<FrameTokens>,
    /// The window's change against its own first frame.
    change: f32,
    window: Unchanged,
}

impl ChangeDetector {
    /// Compares a window with the last captioned one. Returns its change, and the captioned window
    /// if nothing has happened. Returns `None` if no window was captioned. `dim` is the width of a
    /// token.
    pub fn compare(
        &self,
        frames: &[ClipFrame],
        dim: usize,
        limit: f32,
    ) -> Option<(f32, Option<Unchanged>)> {
        let captioned = self.captioned.as_ref()?;
        let change = change(&captioned.first, frames, dim);
        let is_unchanged = captioned.change.max(change) <= limit;
        Some((change, is_unchanged.then(|| captioned.window.clone())))
    }

    /// Records a captioned window.
    pub fn captioned(&mut self, frames: &[ClipFrame], dim: usize, window: Unchanged) {
        let first = frames.first().map(|frame| frame.tokens.clone());
        let Some(first) = first.filter(|tokens| !tokens.fast.is_empty()) else { return };
        let change = change(&first, frames, dim);
        self.captioned = Some(Captioned { first, change, window });
    }
}

/// Returns the change of frames against the first, on the scale above. It is infinite for a frame
/// that cannot be compared: one of another plan, or with tokens that are not finite.
fn change(first: &FrameTokens, frames: &[ClipFrame], dim: usize) -> f32 {
    let first = first.fast.to_f32_vec();
    let cells = first.len() / dim;
    let square = first.iter().map(|v| v.powi(2)).sum::<f32>();
    let usual = (square / cells as f32).max(f32::MIN_POSITIVE);
    let of_frame = |look: &ClipFrame| {
        if look.tokens.fast.len() != first.len() {
            return f32::INFINITY;
        }
        let fast = look.tokens.fast.to_f32_vec();
        let cells = fast.chunks_exact(dim).zip(first.chunks_exact(dim));
        let apart =
            |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        cells.map(apart).fold(0.0, larger) / usual
    };
    frames.iter().map(of_frame).fold(0.0, larger)
}

/// Returns the larger change. NaN counts as infinite.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::INFINITY } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use half::f16;
    use proptest::prelude::*;

    use super::*;
    use crate::event::EventId;

    /// Creates a frame of four cells, each of two values.
    fn frame(cells: [f32; 4]) -> ClipFrame {
        let fast = cells.iter().flat_map(|v| [f16::from_f32(*v), f16::from_f32(1.0)]).collect();
        let tokens = Arc::new(FrameTokens { slow: Box::default(), fast });
        ClipFrame { tokens, jpeg: None, reencoded: false }
    }

    fn compare(detector: &ChangeDetector, frames: &[ClipFrame]) -> Option<(f32, bool)> {
        let (change, unchanged) = detector.compare(frames, 2, 0.5)?;
        Some((change, unchanged.is_some()))
    }

    fn captioned(frames: &[ClipFrame]) -> ChangeDetector {
        let mut detector = ChangeDetector::default();
        let event = EventId { run: 1, sequence: 7 };
        let window = Unchanged { since: SystemTime::UNIX_EPOCH, event };
        detector.captioned(frames, 2, window);
        detector
    }

    #[test]
    fn one_changed_cell_of_one_frame_is_a_change() {
        let empty = frame([1.0; 4]);
        let somebody = frame([1.0, 1.0, 3.0, 1.0]);
        let detector = captioned(&[empty.clone(), empty.clone()]);
        assert_eq!(compare(&detector, &[empty.clone(), frame([1.1; 4])]).map(|c| c.1), Some(true));
        // 2² divided by a mean squared norm of 2.
        assert_eq!(compare(&detector, &[empty.clone(), somebody, empty]), Some((2.0, false)));
    }

    #[test]
    fn a_window_with_movement_does_not_count_as_unchanged_afterwards() {
        let (empty, somebody) = (frame([1.0; 4]), frame([3.0, 1.0, 1.0, 1.0]));
        let detector = captioned(&[empty.clone(), somebody]);
        assert_eq!(compare(&detector, &[empty.clone(), empty.clone()]), Some((0.0, false)));
        let detector = captioned(&[empty.clone(), empty.clone()]);
        assert_eq!(compare(&detector, &[empty]), Some((0.0, true)));
    }

    #[test]
    fn slow_changes_add_up() {
        let detector = captioned(&[frame([1.0; 4])]);
        let steps = [1.2, 1.4, 1.6, 1.8, 2.1].map(|light| frame([light; 4]));
        let unchanged = steps.map(|step| compare(&detector, &[step]).is_some_and(|c| c.1));
        assert_eq!(unchanged, [true, true, true, true, false]);
    }

    proptest! {
        /// A token that is not finite is a change, in any window, frame and cell.
        #[test]
        fn tokens_that_are_not_finite_are_a_change(
            at in 0usize..6, cell in 0usize..4, wrong in prop::sample::select(vec![
                f32::NAN, f32::INFINITY, f32::NEG_INFINITY,
            ]),
        ) {
            let mut frames = vec![[1.0; 4]; 6];
            frames[at][cell] = wrong;
            let frames: Vec<ClipFrame> = frames.into_iter().map(frame).collect();
            let (before, now) = frames.split_at(3);
            let compared = captioned(before).compare(now, 2, 1e6).expect("a captioned window");
            prop_assert_eq!(compared.1, None);
        }
    }

    #[test]
    fn frames_without_tokens_have_no_change() {
        let empty = ClipFrame { tokens: Arc::default(), ..frame([1.0; 4]) };
        assert_eq!(compare(&captioned(std::slice::from_ref(&empty)), &[empty]), None);
    }

    #[test]
    fn no_change_is_reported_before_the_first_caption() {
        assert_eq!(compare(&ChangeDetector::default(), &[frame([1.0; 4])]), None);
    }
}
