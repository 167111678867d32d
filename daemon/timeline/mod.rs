//! Keeps a rolling buffer of each camera's frames in three tiers: tokens (hot), JPEGs (warm) and
//! frames on disk only (disk).
//!
//! Guarantees: each tier is bounded. The oldest frames move to the next tier and finally leave,
//! counted. The writer never waits for a reader: frames are shared by reference, and a clip keeps
//! its own alive.

mod clip;
mod gaps;
mod lookup;
mod query;
mod ring;
mod time_range;

pub use clip::{Clip, ClipFrame, FrameData, Selection, select};
pub use query::{Period, RunPosition, Tiers};
pub use ring::{DiskAddress, DiskState, Entry, Limits, Residency, Ring, Tier, Usage};
pub use time_range::TimeRange;

#[cfg(test)]
mod tests;
