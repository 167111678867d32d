//! SlowFast-LLaVA (arXiv 2407.15841, section 3): a clip seen as a few *slow* frames with many
//! tokens and all *fast* frames with few, slow rows first.
//!
//! Values and arithmetic only; `tests/golden.rs` holds it against the authors' own code.

mod aggregation;
mod plan;
mod pooling;
pub mod sampling;
mod tokens;

pub use aggregation::{Across, AggregateError, Aggregation, SlowFast, SlowPool, aggregate};
pub use plan::Plan;
pub use pooling::{Grid, Pool, PoolError};
pub use tokens::{FrameTokens, TokenShape, VideoTokens, assemble, pool_frame};
