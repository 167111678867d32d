//! Embeds texts: converts each to a vector, such that texts of similar meaning have vectors of
//! similar direction.
//!
//! [`SentenceModel`] runs a sentence-embedding model in ONNX on the CPU. Its folder is laid out like
//! an ONNX export of sentence-transformers.

mod colours;
mod dense;
mod folder;
mod model;
#[cfg(test)]
mod tests;

pub use model::SentenceModel;

/// Converts texts to vectors.
pub trait TextEmbedder: Send {
    /// Returns the model's identity: models with the same one give the same vectors.
    fn id(&self) -> &str;

    /// Returns the length of every vector.
    fn dimensions(&self) -> usize;

    /// Returns the vector of a text, of length 1.
    fn embed(&mut self, text: &str) -> Result<Vec<f32>, EmbeddingError>;
}

/// An error about one text.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct EmbeddingError(pub String);
