//! The values that go into a language back end and come out of it: requests, outputs and errors.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::schema::{Schema, SchemaError};
use super::template::Turn;
use super::tokenizer::TokenizerError;
use crate::config::Sampling;
use crate::event::{FinishReason, Usage};
use crate::model::TensorError;
use crate::slowfast::VideoTokens;

/// A task about a video.
#[derive(Clone)]
pub struct Request<'a> {
    pub video: &'a VideoTokens,
    /// The source of the video's rows. Requests with equal frames share the prefix of their prompts.
    /// `None` if no other request may use the same video.
    pub prefix_frames: Option<PrefixFrames>,
    /// The video's frames as JPEGs, in order. `None` if one of them is not available.
    pub jpegs: Option<&'a [TimedJpeg]>,
    pub task: Task<'a>,
    pub urgency: Urgency,
}

/// The task of a request.
#[derive(Clone, Copy)]
pub enum Task<'a> {
    /// Generate a text. The sequence ends with [`Output::Finished`].
    Text {
        /// Earlier questions and answers about the same video, the oldest first.
        turns: &'a [Turn],
        prompt: &'a str,
        limits: Limits,
        /// The schema that the text must follow.
        schema: Option<&'a Schema>,
    },
    /// Score yes/no questions, independently of each other. The sequence ends with
    /// [`Output::Scored`].
    Scores { questions: &'a [Arc<str>] },
}

/// The frames that a video's rows were computed from, in order. Equal frames have equal rows.
pub type PrefixFrames = Arc<[PrefixFrame]>;

/// The JPEG of a frame.
#[derive(Clone, Debug)]
pub struct TimedJpeg {
    pub captured_at: SystemTime,
    pub jpeg: Arc<[u8]>,
}

/// A frame's role in a video.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrefixFrame {
    pub camera: Arc<str>,
    pub run: u64,
    pub number: u64,
    pub slow: bool,
    /// Set when the frame was encoded again from its JPEG, which gives different tokens.
    pub reencoded: bool,
}

/// The priority of a prompt: which one is read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A client waits for the result.
    Now,
    Later,
    /// Nobody is delayed if the result comes late. Read only while no other sequence has work.
    Background,
}

/// Limits on one answer, and the way in which its tokens are picked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
}

/// The identifier of a sequence, valid from its submission to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub(super) u64);

#[cfg(test)]
impl SequenceId {
    /// Makes an identifier for a back end of a test.
    pub fn of(number: u64) -> SequenceId {
        SequenceId(number)
    }
}

/// A request that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub id: SequenceId,
    /// Number of the latest earlier turns that the model sees. The others did not fit.
    pub turns: usize,
}

/// An output of a sequence.
#[derive(Debug)]
pub enum Output<'a> {
    /// New text, which follows the text before it. It may be empty.
    Text(&'a str),
    /// The last output: the reply.
    Finished(Reply),
    /// The last output: the scores.
    Scored(Scored),
    /// The last output: the sequence has no reply.
    Failed(Failure),
}

/// Receives the outputs of the sequences.
pub type OnOutput<'a> = dyn FnMut(SequenceId, Output<'_>) + 'a;

/// The generated text of a request.
#[derive(Clone, Debug)]
pub struct Reply {
    pub text: String,
    /// The new tokens, without the end token.
    pub ids: Vec<u32>,
    pub finish: FinishReason,
    pub usage: Usage,
    /// The time at which reading of the prompt began.
    pub started: Instant,
    /// Time from `started` until the whole prompt was read. It includes the steps of other
    /// sequences in between.
    pub prefill: Duration,
    /// Time from there to the last token, also with the steps of others.
    pub decode: Duration,
}

/// The scores of yes/no questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// P(yes) / (P(yes) + P(no)) of each question, in their order, between 0 and 1.
    pub scores: Vec<f64>,
    pub usage: Usage,
    /// The time at which reading of the first prompt began.
    pub started: Instant,
    /// Time from `started` until all prompts were read. It includes the steps of other sequences in
    /// between.
    pub prefill: Duration,
}

/// Error of a sequence, or of the model itself.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The prompt is unusable, and the client must fix it.
    #[error("{0}")]
    BadPrompt(String),
    /// This sequence gets no reply. Others may get one, and so may the same one later.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The model cannot be used any more.
    #[error("{0}")]
    Broken(String),
}

/// Reason for which a sequence ended without a reply.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A run of a graph ended with an error; for example, the GPU was out of memory.
    #[error("{0}")]
    Run(String),
    /// A logit of the model is NaN, or the largest is infinite.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// No server of the model gave a reply. A later request may get one.
    #[error("{0}")]
    Server(String),
    /// The text cannot be continued by its schema. The model works.
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl Failure {
    /// Returns true if the model of this process failed, which a restart may mend.
    pub fn is_of_model(&self) -> bool {
        !matches!(self, Failure::Schema(_) | Failure::Server(_))
    }
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Failure {
        Failure::Run(error.to_string())
    }
}

impl From<TokenizerError> for Failure {
    fn from(error: TokenizerError) -> Failure {
        Failure::Run(error.to_string())
    }
}
