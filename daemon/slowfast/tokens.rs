//! Pools frames one by one as they arrive, and assembles clips from the pooled frames.

use half::f16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfFloatVecExt;

use super::{Grid, Plan, PoolError, sampling};

/// A frame's tokens as they are stored, in f16: slow rows and fast rows. There are none without a
/// vision model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameTokens {
    /// `[slow_tokens, D]`
    pub slow: Box<[f16]>,
    /// `[fast_tokens, D]`
    pub fast: Box<[f16]>,
}

impl FrameTokens {
    pub fn bytes(&self) -> usize {
        (self.slow.len() + self.fast.len()) * size_of::<f16>()
    }

    /// Returns true if all values are finite. Values beyond 65504 are infinite in f16.
    pub fn is_finite(&self) -> bool {
        self.slow.iter().chain(&self.fast).all(|number| number.is_finite())
    }
}

/// The number of rows that each frame has under a plan, and their width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenShape {
    pub slow_tokens: usize,
    pub fast_tokens: usize,
    pub dim: usize,
}

impl TokenShape {
    pub fn of(plan: &Plan, grid_tokens: usize, dim: usize) -> Result<TokenShape, PoolError> {
        Ok(TokenShape {
            slow_tokens: plan.slow.tokens_out(grid_tokens)?,
            fast_tokens: plan.fast.tokens_out(grid_tokens)?,
            dim,
        })
    }

    pub fn frame_bytes(&self) -> usize {
        (self.slow_tokens + self.fast_tokens) * self.dim * size_of::<f16>()
    }
}

/// Pools one frame's grid for both pathways of the plan.
pub fn pool_frame(grid: Grid<'_>, plan: &Plan) -> Result<FrameTokens, PoolError> {
    let pooled = |pool: super::Pool| {
        let mut rows = Vec::new();
        pool.apply(grid, &mut rows)?;
        Ok(Vec::from_f32_slice(&rows).into_boxed_slice())
    };
    Ok(FrameTokens { slow: pooled(plan.slow)?, fast: pooled(plan.fast)? })
}

/// The rows that represent a clip in the prompt, `[rows, D]`: slow frames first, then all fast.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoTokens {
    pub rows: Vec<f32>,
    pub dim: usize,
}

impl VideoTokens {
    pub fn len(&self) -> usize {
        self.rows.len() / self.dim
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Joins the tokens of the sampled frames, given in time order, to the clip's rows.
pub fn assemble(frames: &[&FrameTokens], plan: &Plan, dim: usize) -> VideoTokens {
    let slow = sampling::slow(frames.len(), plan.slow_frames);
    let slow = slow.into_iter().map(|i| &frames[i].slow);
    let fast = frames.iter().map(|frame| &frame.fast);
    let joined: Vec<&[f16]> = slow.chain(fast).map(|rows| &**rows).collect();
    VideoTokens { rows: joined.concat().to_f32_vec(), dim }
}

#[cfg(test)]
mod tests {
    use super::super::aggregate;
    use super::*;

    #[test]
    fn values_beyond_f16_are_detected() {
        let plan: Plan = "1:slowfast-slow_1frms_concat-fast_1x1".parse().expect("plan");
        let finite = |rows: &[f32]| {
            pool_frame(Grid { rows, tokens: 1, dim: 2 }, &plan).expect("square").is_finite()
        };
        assert!(finite(&[1.0, -65504.0]));
        for wrong in [65520.0, -1e9, f32::INFINITY, f32::NAN] {
            assert!(!finite(&[1.0, wrong]), "{wrong}");
        }
    }

    #[test]
    fn frame_by_frame_equals_the_clip_at_once() {
        let plan: Plan =
            "6:slowfast-slow_3frms_spatial_1d_max_pool-fast_2x2".parse().expect("plan");
        let (frames, tokens, dim) = (6, 16, 3);
        // Values are small integers and means are quarters: f16 holds all of them exactly.
        let features: Vec<f32> =
            (0..frames * tokens * dim).map(|i| ((i * 37 + i / 7) % 64) as f32).collect();
        let pooled: Vec<FrameTokens> = features
            .chunks_exact(tokens * dim)
            .map(|rows| pool_frame(Grid { rows, tokens, dim }, &plan).expect("square"))
            .collect();
        let video = assemble(&pooled.iter().collect::<Vec<_>>(), &plan, dim);
        let whole = aggregate(&features, tokens, dim, plan.aggregation()).expect("fits");
        assert_eq!(video.rows, whole);
        assert_eq!(Ok(video.len()), plan.video_tokens(frames, tokens));
        let shape = TokenShape::of(&plan, tokens, dim).expect("square");
        assert!(pooled.iter().all(|frame| frame.bytes() == shape.frame_bytes()));
    }
}
