//! Runs the language model: turns a prompt with video tokens into text, or into the score of a
//! yes/no question.
//!
//! ```text
//! model ─► batch ─► sequence ─► generation ─► sampler, schema, tokenizer
//!   │        │             └────► scoring ─► yes_no
//!   │        ├────► slots (what runs next)
//!   │        └────► decoder ─► cache
//!   └────► template, tokenizer, embedder
//! ```
//!
//! Two other back ends send requests to servers, and `servers` knows which of them work. `vllm` sends
//! the prompt's embeddings, and `openai` the frames' JPEGs.
//!
//! Not here: which question or window comes next, which `engine/` decides.

mod backend;
mod batch;
mod cache;
mod capacity;
mod decoder;
mod embedder;
mod generation;
mod model;
mod openai;
mod prompts;
mod request;
mod rotary;
mod sampler;
pub mod schema;
mod scoring;
mod sequence;
mod servers;
pub mod slots;
mod stopwatch;
pub mod template;
mod token_bytes;
pub mod tokenizer;
mod vllm;
mod yes_no;

pub use backend::{CheckPrompts, LanguageBackend};
pub use cache::{KvCache, Prefix};
pub use capacity::capacity;
pub use decoder::Decoder;
pub use embedder::Embedder;
pub use model::{Budget, LanguageModel};
pub use openai::OpenAiModel;
pub use prompts::Prompts;
pub use request::{
    Failure, LanguageError, Limits, OnOutput, Output, PrefixFrame, PrefixFrames, Reply, Request,
    Scored, SequenceId, Submitted, Task, TimedJpeg, Urgency,
};
pub use sampler::Sampler;
pub use schema::{Schema, SchemaCompiler, SchemaError};
pub use servers::{Http as ServerHttp, ServerHealth};
pub use slots::Room;
pub use stopwatch::{Lap, Laps};
pub use template::Turn;
pub use vllm::VllmModel;
