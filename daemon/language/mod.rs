//! From a prompt around video tokens to words.

mod decoder;
mod embedder;
mod model;
mod sampler;
pub mod template;
pub mod tokenizer;

pub use decoder::{Decoder, KvCache};
pub use embedder::Embedder;
pub use model::{LanguageError, LanguageModel, Limits, Listening, Reply, Request};
pub use sampler::Sampler;
