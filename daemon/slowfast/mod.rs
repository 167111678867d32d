//! SlowFast-LLaVA (arXiv 2407.15841, section 3): represents a clip by a few *slow* frames with many
//! tokens each and all frames as *fast* frames with few tokens each. Slow rows come first.
//!
//! Guarantees: values and arithmetic only. `tests/golden.rs` compares the results with the authors'
//! own code.

mod aggregation;
mod plan;
mod pooling;
pub mod sampling;
mod tokens;

pub use aggregation::{Across, AggregateError, Aggregation, SlowFast, SlowPool, aggregate};
pub use plan::Plan;
pub use pooling::{Grid, Pool, PoolError};
pub use tokens::{FrameTokens, TokenShape, VideoTokens, assemble, pool_frame};
