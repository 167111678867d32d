//! From a frame's pixels to its tokens and its evidence.

mod encoder;
pub mod evidence;
pub mod preprocess;

pub use encoder::{BATCH, Encoded, Encoder};
