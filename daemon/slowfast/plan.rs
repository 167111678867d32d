//! Defines the plan: the number of frames sampled from a window, and how they are pooled.

use std::fmt;
use std::str::FromStr;

use super::aggregation::SlowPool;
use super::{Aggregation, Pool, PoolError, SlowFast};

/// A sampling and pooling plan: `frames` sampled frames, of which `slow_frames` contribute the
/// tokens of `slow`, and all contribute those of `fast`. Written as `FRAMES:AGGREGATION`, or as
/// the name of a published configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub frames: usize,
    pub slow_frames: usize,
    pub slow: Pool,
    pub fast: Pool,
}

/// The published code's configuration: 10 slow frames of 24 × 12 tokens, 50 fast frames of 4 × 4.
const PAPER: &str = "50:slowfast-slow_10frms_spatial_1d_max_pool-fast_4x4";
/// The configuration of the paper's first version: 8 unpooled slow frames.
const PAPER_V1: &str = "50:slowfast-slow_8frms_concat-fast_4x4";

impl Plan {
    /// Returns the number of rows of a clip with `frames` frames (at most the plan's) and a patch
    /// grid of `tokens` tokens.
    pub fn video_tokens(&self, frames: usize, tokens: usize) -> Result<usize, PoolError> {
        let (slow, fast) = (self.slow.tokens_out(tokens)?, self.fast.tokens_out(tokens)?);
        Ok(self.slow_frames * slow + frames.min(self.frames) * fast)
    }

    /// Returns the plan for a model that sees each of at most `frames` frames whole. All of them are
    /// slow frames.
    pub fn whole_frames(frames: usize) -> Plan {
        let fast = Pool::Adaptive { rows: 1, columns: 1 };
        Plan { frames, slow_frames: frames, slow: Pool::Concat, fast }
    }

    /// Returns a plan with `times` times fewer frames, slow frames included, at least one of each.
    pub fn sparser(&self, times: usize) -> Plan {
        let fewer = |frames: usize| (frames / times.max(1)).max(1);
        Plan { frames: fewer(self.frames), slow_frames: fewer(self.slow_frames), ..*self }
    }

    pub fn aggregation(&self) -> Aggregation {
        let Plan { slow_frames, slow, fast, .. } = *self;
        Aggregation::SlowFast(SlowFast { slow_frames, slow: SlowPool::EachFrame(slow), fast })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.frames, self.aggregation())
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Plan, String> {
        let text = match text {
            "paper" => PAPER,
            "paper-v1" => PAPER_V1,
            other => other,
        };
        let bad = |why: &str| {
            format!("{text:?}: {why}; wanted \"paper\", \"paper-v1\" or one like {PAPER:?}")
        };
        let (frames, aggregation) = text.split_once(':').ok_or_else(|| bad("no FRAMES: before"))?;
        let frames = frames.parse().map_err(|_| bad("FRAMES is not a number"))?;
        let aggregation: Aggregation =
            aggregation.parse().map_err(|_| bad("unknown aggregation"))?;
        let Aggregation::SlowFast(SlowFast { slow_frames, slow, fast }) = aggregation else {
            return Err(bad("not a slowfast aggregation"));
        };
        let SlowPool::EachFrame(slow) = slow else {
            return Err(bad("a pool that mixes frames cannot be shared by sliding windows"));
        };
        if frames == 0 || slow_frames == 0 || slow_frames > frames {
            return Err(bad("wanted 1 ≤ slow frames ≤ FRAMES"));
        }
        if fast.tokens_out(1) == Ok(0) {
            return Err(bad("the fast grid is empty"));
        }
        Ok(Plan { frames, slow_frames, slow, fast })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_budgets_of_the_paper() {
        let tokens = |plan: &str| plan.parse::<Plan>().map(|p| p.video_tokens(50, 576));
        assert_eq!(tokens("paper"), Ok(Ok(3680)));
        assert_eq!(tokens("paper-v1"), Ok(Ok(5408)));
    }

    #[test]
    fn a_sparser_plan_has_fewer_frames_of_both_kinds() {
        let plan: Plan = "paper".parse().expect("a plan");
        assert_eq!(plan.sparser(1), plan);
        let numbers = |times| (plan.sparser(times).frames, plan.sparser(times).slow_frames);
        assert_eq!([2, 8, 100].map(numbers), [(25, 5), (6, 1), (1, 1)]);
        assert_eq!(plan.sparser(2).video_tokens(25, 576), Ok(1840));
    }

    #[test]
    fn invalid_plans_are_rejected() {
        for text in [
            "fast",
            "slowfast-slow_10frms_concat-fast_4x4",
            "x:slowfast-slow_10frms_concat-fast_4x4",
            "4:slowfast-slow_5frms_concat-fast_4x4",
            "4:slowfast-slow_0frms_concat-fast_4x4",
            "4:slowfast-slow_2frms_concat-fast_0x4",
            "4:slowfast-slow_2frms_temporal_global_pool-fast_4x4",
            "4:concat",
        ] {
            assert!(text.parse::<Plan>().is_err(), "{text}");
        }
    }
}
