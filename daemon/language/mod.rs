//! Runs the language model: turns a prompt with video tokens into text.
//!
//! ```text
//! model ─► batch ─► sequence ─► sampler, tokenizer
//!   │        ├────► turns (what runs next)
//!   │        └────► decoder ─► cache
//!   └────► template, tokenizer, embedder
//! ```
//!
//! Not here: which question or window comes next, which `engine/` decides.

mod backend;
mod batch;
mod cache;
mod decoder;
mod embedder;
mod model;
mod request;
mod sampler;
mod sequence;
mod stopwatch;
pub mod template;
pub mod tokenizer;
pub mod turns;

pub use backend::LanguageBackend;
pub use cache::{KvCache, Prefix};
pub use decoder::Decoder;
pub use embedder::Embedder;
pub use model::{Budget, LanguageModel};
pub use request::{
    Failure, LanguageError, Limits, OnOutput, Output, PrefixFrame, PrefixFrames, Reply, Request,
    SequenceId, Submitted, Urgency,
};
pub use sampler::Sampler;
use stopwatch::Stopwatch;
pub use template::Turn;
pub use turns::Room;
