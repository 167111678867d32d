//! Defines what the vision worker needs of a vision model.

use super::{Encoded, Encoder};
use crate::model::ModelError;

/// Computes the features of frames. [`Encoder`] does it with onnxruntime.
pub trait VisionBackend {
    /// Returns the number of values in one frame's pixels, `[3, size, size]`.
    fn frame_len(&self) -> usize;

    /// Returns the number of features of a frame.
    fn grid_tokens(&self) -> usize;

    /// Returns the width of a feature, which is that of the language model's embeddings.
    fn dim(&self) -> usize;

    /// Encodes `pixels` `[B, 3, size, size]`, with B from 1 to [`BATCH`](super::encoder::BATCH).
    fn encode(&mut self, pixels: &[f32]) -> Result<Encoded, ModelError>;
}

impl VisionBackend for Encoder {
    fn frame_len(&self) -> usize {
        self.frame_len()
    }

    fn grid_tokens(&self) -> usize {
        self.grid_tokens()
    }

    fn dim(&self) -> usize {
        self.dim()
    }

    fn encode(&mut self, pixels: &[f32]) -> Result<Encoded, ModelError> {
        Ok(self.encode(pixels)?)
    }
}
