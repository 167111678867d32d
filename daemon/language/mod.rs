//! Runs the language model: turns a prompt with video tokens into text.

mod batch;
mod cache;
mod decoder;
mod embedder;
mod model;
mod sampler;
mod stopwatch;
pub mod template;
pub mod tokenizer;

pub use batch::{Said, Ticket};
pub use cache::{KvCache, Prefix};
pub use decoder::Decoder;
pub use embedder::Embedder;
pub use model::{
    Budget, Failure, Footage, LanguageError, LanguageModel, Limits, Listening, Reply, Request,
    Seen, Urgency,
};
pub use sampler::Sampler;
use stopwatch::Stopwatch;
pub use template::Turn;
