//! Loads the language model and builds its prompts.
//!
//! Not here: running the prompts, which [`super::batch`] does.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::template::{ChatTemplate, Turn};
use super::tokenizer::{Prompt, Tokenizer};
use super::{Decoder, Embedder, KvCache};
use crate::config::{self, Generate, Sampling, Wording};
use crate::event::{FinishReason, Usage};
use crate::model::{ModelError, Package, Placement, Runtime, TensorError};
use crate::slowfast::{Plan, VideoTokens};

/// Tokens reserved for the template, earlier turns and a question, in addition to video and answer.
const TEXT_ROOM: usize = 512;
/// Minimum number of tokens for text. A plan that leaves fewer is refused.
const LEAST_TEXT_ROOM: usize = 32;

pub struct LanguageModel {
    pub(super) tokenizer: Tokenizer,
    pub(super) embedder: Embedder,
    pub(super) decoder: Decoder,
    pub(super) batch: Batch,
    template: ChatTemplate,
    pub(super) end_tokens: Vec<u32>,
    pub(super) prefill_chunk: usize,
    /// True if the graph accepts several tokens on a cache that already holds some.
    pub(super) chunks: bool,
    pub(super) dim: usize,
    pub(super) vocabulary: usize,
}

/// Limits on the work and the cache of the language model.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub max_new_tokens: usize,
    /// Maximum number of sequences that run together.
    pub rows: usize,
    /// Maximum size of the cache for prefixes that prompts of a window share. 0 disables it.
    pub prefix_bytes: usize,
}

pub struct Request<'a> {
    pub video: &'a VideoTokens,
    /// The source of the video's rows, if other prompts may use the same video.
    pub prefix_frames: Option<PrefixFrames>,
    /// Earlier questions and answers about the same video, the oldest first.
    pub turns: &'a [Turn],
    pub prompt: &'a str,
    pub limits: Limits,
    pub urgency: Urgency,
}

/// The frames that a video's rows were computed from, in order. Equal frames have equal rows.
pub type PrefixFrames = std::sync::Arc<[PrefixFrame]>;

/// A frame's role in a video.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PrefixFrame {
    pub camera: std::sync::Arc<str>,
    pub run: u64,
    pub number: u64,
    pub slow: bool,
    /// Set when the frame was encoded again from its JPEG, which gives different tokens.
    pub again: bool,
}

/// The priority of a prompt: which one is read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A client waits for the result.
    Now,
    Later,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub text: String,
    /// The new tokens, without the end token.
    pub ids: Vec<u32>,
    pub finish: FinishReason,
    pub usage: Usage,
    /// The time at which reading of the prompt began.
    pub begun: Instant,
    /// Time from `begun` until the whole prompt was read; `decode` is the time from there to the
    /// last token. Both include the turns of other sequences in between.
    pub prefill: Duration,
    pub decode: Duration,
}

/// Error of a sequence, or of the model itself.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The prompt is unusable, and the asker must fix it.
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
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Failure {
        Failure::Run(error.to_string())
    }
}

/// Tells whether the consumer of a sequence still reads its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    Connected,
    Gone,
}

impl Budget {
    pub fn of(generate: &Generate) -> Budget {
        Budget {
            max_new_tokens: generate.max_new_tokens,
            rows: generate.max_concurrent_sequences,
            prefix_bytes: generate.prefix_cache_bytes.as_u64() as usize,
        }
    }

    /// Returns a budget for one sequence at a time, without a prefix cache.
    pub fn one_by_one(max_new_tokens: usize) -> Budget {
        Budget { max_new_tokens, rows: 1, prefix_bytes: 0 }
    }
}

impl LanguageModel {
    /// Loads the graphs and allocates the KV cache. Each row has room for the plan's whole window,
    /// a question and an answer. Refuses a plan that exceeds the model's context.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        wording: &Wording,
        budget: Budget,
    ) -> Result<LanguageModel, ModelError> {
        let video = model
            .plan
            .video_tokens(model.plan.frames, package.vision.grid_tokens)
            .map_err(|e| ModelError(format!("model.plan {}: {e}", model.plan)))?;
        let capacity = capacity(&model.plan, video, budget.max_new_tokens, package.text.context)
            .map_err(ModelError)?;
        LanguageModel::with_capacity(runtime, package, model, wording, budget, capacity)
    }

    /// Loads the model for sequences of at most `capacity` tokens: video, text and answer.
    pub fn with_capacity(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        wording: &Wording,
        budget: Budget,
        capacity: usize,
    ) -> Result<LanguageModel, ModelError> {
        let tokenizer = Tokenizer::load(&package.folder).map_err(|e| ModelError(e.to_string()))?;
        if tokenizer.vocab_size() > package.text.vocab_size {
            return Err(ModelError(format!(
                "{}: {} tokens, but config.json's vocab_size is {}: of another model?",
                package.folder.join("tokenizer.json").display(),
                tokenizer.vocab_size(),
                package.text.vocab_size
            )));
        }
        let (family, text) = (package.family, package.text.kind);
        let template = ChatTemplate::of(&package.folder, family, text, &tokenizer, wording)?;
        let mut embedder = Embedder::load(runtime, package, model.language_threads)?;
        let mut decoder = Decoder::load(runtime, package, model.language_threads, capacity)?;
        let (cache, chunks) = rows(&mut decoder, &mut embedder, budget.rows)?;
        let prefix_bytes = if chunks { budget.prefix_bytes } else { 0 };
        Ok(LanguageModel {
            tokenizer,
            embedder,
            decoder,
            batch: Batch::new(cache, prefix_bytes),
            template,
            end_tokens: package.end_tokens.clone(),
            prefill_chunk: if chunks { model.prefill_chunk } else { capacity },
            chunks,
            dim: package.text.hidden_size,
            vocabulary: package.text.vocab_size,
        })
    }

    /// Returns the maximum number of tokens in a row of the KV cache: video, text and answer.
    pub fn capacity(&self) -> usize {
        self.batch.cache.capacity()
    }

    /// Returns the bytes of one full row of the KV cache.
    pub fn row_bytes(&self) -> usize {
        self.decoder.token_bytes() * self.capacity()
    }

    /// Returns the bytes that a window of `video_tokens` tokens takes in the prefix cache, without
    /// the few tokens of the template's head.
    pub fn prefix_bytes(&self, video_tokens: usize) -> usize {
        self.decoder.token_bytes() * video_tokens
    }

    /// Starts to measure the time of onnxruntime's own calls by `clock`.
    pub fn time_calls(&mut self, clock: fn() -> Duration) {
        self.decoder.stopwatch.start(clock);
        self.embedder.stopwatch.start(clock);
    }

    /// Returns the time of these calls since the measurement started.
    pub fn calls_took(&self) -> Duration {
        self.decoder.stopwatch.spent + self.embedder.stopwatch.spent
    }

    /// Returns the device that the decoder runs on.
    pub fn placement(&self) -> &Placement {
        self.decoder.placement()
    }

    /// Returns the chat template, the text around a question.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Checks that a prompt is usable. It is meant for the config's prompts, before anything runs.
    pub fn check(
        &self,
        prompt: &str,
        video_tokens: usize,
        limits: Limits,
    ) -> Result<(), LanguageError> {
        self.check_after(&[], prompt, video_tokens, limits)
    }

    /// Returns the latest of the earlier turns, as many as fit before a prompt.
    pub fn fitting<'a>(
        &self,
        turns: &'a [Turn],
        prompt: &str,
        video_tokens: usize,
        limits: Limits,
    ) -> &'a [Turn] {
        let mut latest = (0..turns.len()).map(|from| &turns[from..]);
        let fits = |turns: &&[Turn]| self.check_after(turns, prompt, video_tokens, limits).is_ok();
        latest.find(fits).unwrap_or_default()
    }

    fn check_after(
        &self,
        turns: &[Turn],
        prompt: &str,
        video_tokens: usize,
        limits: Limits,
    ) -> Result<(), LanguageError> {
        let tokens = self.prompt(turns, prompt)?.text_tokens() + video_tokens;
        self.room(tokens, limits)
    }

    /// Renders and tokenizes a question and the earlier turns with the template. Refuses text that
    /// contains a special token.
    pub fn prompt(&self, turns: &[Turn], words: &str) -> Result<Prompt, LanguageError> {
        let said = turns.iter().flat_map(|turn| {
            [("an earlier question", &*turn.question), ("an earlier answer", &*turn.answer)]
        });
        for (what, words) in said.chain([("a question", words)]) {
            if let Some(token) = self.tokenizer.special_token_in(words) {
                return Err(LanguageError::BadPrompt(format!("{what} cannot hold {token:?}")));
            }
        }
        let text = self
            .template
            .render(turns, words)
            .map_err(|e| LanguageError::BadPrompt(e.to_string()))?;
        // The text comes from the asker, so any tokenizer error is an error of the prompt.
        self.tokenizer
            .encode_around_image(&text)
            .map_err(|e| LanguageError::BadPrompt(e.to_string()))
    }

    pub(super) fn room(&self, tokens: usize, limits: Limits) -> Result<(), LanguageError> {
        let (new, room) = (limits.max_new_tokens, self.capacity());
        if tokens + new <= room {
            return Ok(());
        }
        Err(LanguageError::BadPrompt(format!(
            "video and question, with what was said before, take {tokens} tokens and the answer \
             may take {new}; there is room for {room}"
        )))
    }

    /// Returns the prompt's embeddings `[n, D]`, with the video's rows in their place.
    pub fn embeddings(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
    ) -> Result<Vec<f32>, TensorError> {
        let mut embeddings = Vec::new();
        for (at, piece) in prompt.pieces.iter().enumerate() {
            if at > 0 {
                embeddings.extend_from_slice(&video.rows);
            }
            embeddings.extend(self.embedder.embed(piece)?);
        }
        Ok(embeddings)
    }
}

/// Allocates a cache of `wanted` rows, or of fewer if memory or the graph does not allow more. The
/// boolean is true if the graph accepts several tokens on a cache that already holds some.
fn rows(
    decoder: &mut Decoder,
    embedder: &mut Embedder,
    wanted: usize,
) -> Result<(KvCache, bool), ModelError> {
    let mut rows = wanted;
    let mut cache = loop {
        match decoder.cache(rows) {
            Ok(cache) => break cache,
            Err(error) if rows > 1 => {
                tracing::warn!(
                    "generate.max_concurrent_sequences = {rows} \
                     is more than there is memory for: {error}"
                );
                rows -= 1;
            }
            Err(error) => return Err(error.into()),
        }
    };
    // Some shapes in the graph are symbolic, so only a run shows if they fit.
    decoder.read(&mut cache, 0, &embedder.embed(&[0])?)?;
    let several = decoder.read(&mut cache, 0, &embedder.embed(&[0, 0])?);
    if let Err(error) = &several {
        tracing::warn!("prompts are read in one piece, which takes more memory: {error}");
    }
    decoder.clear(&mut cache, 0)?;
    if rows > 1 {
        let together = embedder.embed(&vec![0; rows])?;
        if let Err(error) = decoder.step(&mut cache, rows, &together) {
            tracing::warn!("one answer is written at a time: {error}");
            cache = decoder.cache(1)?;
        }
        for row in 0..cache.rows() {
            decoder.clear(&mut cache, row)?;
        }
    }
    Ok((cache, several.is_ok()))
}

/// Returns the number of tokens in a row of the KV cache.
fn capacity(plan: &Plan, video: usize, new: usize, context: usize) -> Result<usize, String> {
    let wanted = video + TEXT_ROOM + new;
    if video + LEAST_TEXT_ROOM + new > context {
        return Err(format!(
            "model.plan {plan}: {video} video tokens and generate.max_new_tokens = {new} leave no \
             room for a question in the model's context of {context} tokens"
        ));
    }
    Ok(wanted.min(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_beyond_the_context_is_refused_with_the_numbers() {
        let plan: Plan = "paper".parse().expect("plan");
        assert_eq!(capacity(&plan, 3680, 128, 8192), Ok(4320));
        assert_eq!(capacity(&plan, 3680, 128, 4096), Ok(4096));
        let refused = capacity(&plan, 3680, 128, 2048).expect_err("too small");
        assert!(refused.contains("3680") && refused.contains("2048"), "{refused}");
    }
}
