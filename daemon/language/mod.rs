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

pub use batch::{Output, SequenceId};
pub use cache::{KvCache, Prefix};
pub use decoder::Decoder;
pub use embedder::Embedder;
pub use model::{
    Budget, Consumer, Failure, LanguageError, LanguageModel, Limits, PrefixFrame, PrefixFrames,
    Reply, Request, Urgency,
};
pub use sampler::Sampler;
use stopwatch::Stopwatch;
pub use template::Turn;
