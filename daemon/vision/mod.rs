//! Turns a frame's pixels into features for its tokens, and into the JPEG that is kept.

mod backend;
mod encoder;
pub mod jpeg;
pub mod preprocess;

pub use backend::VisionBackend;
pub use encoder::{BATCH, Encoded, Encoder};
