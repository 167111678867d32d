//! The language model made ready, and the prompts that it is given; [`super::batch`] runs them.

use std::time::{Duration, Instant};

use super::batch::Batch;
use super::template::{ChatTemplate, Turn};
use super::tokenizer::{Prompt, Tokenizer};
use super::{Decoder, Embedder, KvCache};
use crate::config::{self, Generate, Sampling};
use crate::event::{Finish, Usage};
use crate::model::{ModelError, Package, Placement, Runtime, TensorError};
use crate::slowfast::{Plan, VideoTokens};

/// Tokens kept free for the template, earlier turns and a question, beyond video and answer.
const TEXT_ROOM: usize = 512;
/// Less room than this for text is no use.
const LEAST_TEXT_ROOM: usize = 32;

pub struct LanguageModel {
    pub(super) tokenizer: Tokenizer,
    pub(super) embedder: Embedder,
    pub(super) decoder: Decoder,
    pub(super) batch: Batch,
    template: ChatTemplate,
    pub(super) end_tokens: Vec<u32>,
    pub(super) prefill_chunk: usize,
    /// Whether the graph takes several tokens on what is in the cache already.
    pub(super) chunks: bool,
    pub(super) dim: usize,
    pub(super) vocabulary: usize,
}

/// How much is worked on and kept at a time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub max_new_tokens: usize,
    /// Sequences that are written together.
    pub rows: usize,
    /// For what the prompts of a window have in common; 0 keeps nothing.
    pub prefix_bytes: usize,
}

pub struct Request<'a> {
    pub video: &'a VideoTokens,
    /// What the video's rows were made of, where others may ask about the same.
    pub footage: Option<Footage>,
    /// What was said before about the same video, the oldest first.
    pub turns: &'a [Turn],
    pub prompt: &'a str,
    pub limits: Limits,
    pub urgency: Urgency,
}

/// The frames that a video's rows were made of, in order: equal footage has equal rows.
pub type Footage = std::sync::Arc<[Seen]>;

/// A frame's part in a video.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    pub camera: std::sync::Arc<str>,
    pub run: u64,
    pub number: u64,
    pub slow: bool,
    /// Encoded from its JPEG, which gives other tokens.
    pub again: bool,
}

/// Whose prompt is read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Somebody waits for it.
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
    /// The new tokens, without the one that ended them.
    pub ids: Vec<u32>,
    pub finish: Finish,
    pub usage: Usage,
    /// When the reading of its prompt began.
    pub begun: Instant,
    /// From then until the whole prompt was read, and from there to the last token. Both hold the
    /// turns of other sequences that came between.
    pub prefill: Duration,
    pub decode: Duration,
}

/// Error of a sequence, or of the model itself.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The asker's to mend.
    #[error("{0}")]
    BadPrompt(String),
    /// This sequence gets no reply; others may, and so may the same one later.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The model cannot be used any more.
    #[error("{0}")]
    Broken(String),
}

/// Reason for which a sequence ended without a reply.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A run of a graph ended with an error: the GPU was out of memory, say.
    #[error("{0}")]
    Run(String),
    /// A logit of the model is no number, or the largest is infinite.
    #[error("the model's logits are not finite")]
    NotFinite,
}

impl From<TensorError> for Failure {
    fn from(error: TensorError) -> Failure {
        Failure::Run(error.to_string())
    }
}

/// Whether somebody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    Yes,
    No,
}

impl Budget {
    pub fn of(generate: &Generate) -> Budget {
        Budget {
            max_new_tokens: generate.max_new_tokens,
            rows: generate.batch,
            prefix_bytes: generate.prefix_cache.as_u64() as usize,
        }
    }

    /// One sequence after the other, and nothing kept.
    pub fn one_by_one(max_new_tokens: usize) -> Budget {
        Budget { max_new_tokens, rows: 1, prefix_bytes: 0 }
    }
}

impl LanguageModel {
    /// Loads the graphs and allocates the KV cache, each row for the plan's whole window, a
    /// question and an answer; refuses a plan that the model's context cannot hold.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        budget: Budget,
    ) -> Result<LanguageModel, ModelError> {
        let video = model
            .plan
            .video_tokens(model.plan.frames, package.vision.grid_tokens)
            .map_err(|e| ModelError(format!("model.plan {}: {e}", model.plan)))?;
        let capacity = capacity(&model.plan, video, budget.max_new_tokens, package.text.context)
            .map_err(ModelError)?;
        LanguageModel::with_capacity(runtime, package, model, budget, capacity)
    }

    /// For sequences of up to `capacity` tokens: video, words and answer.
    pub fn with_capacity(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
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
        let template = ChatTemplate::of(&package.folder, family, text, &tokenizer, &model.wording)?;
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

    /// Tokens that a row of the KV cache has room for: video, words and answer.
    pub fn capacity(&self) -> usize {
        self.batch.cache.capacity()
    }

    /// Bytes of one row of the KV cache when it is full.
    pub fn row_bytes(&self) -> usize {
        self.decoder.token_bytes() * self.capacity()
    }

    /// Bytes that the prefix of a window of so many tokens takes in the prefix cache, without the
    /// few of the template's head.
    pub fn prefix_bytes(&self, video_tokens: usize) -> usize {
        self.decoder.token_bytes() * video_tokens
    }

    /// From now on, how long by `clock` onnxruntime's own calls take.
    pub fn time_calls(&mut self, clock: fn() -> Duration) {
        self.decoder.stopwatch.start(clock);
        self.embedder.stopwatch.start(clock);
    }

    /// What they have taken since then.
    pub fn calls_took(&self) -> Duration {
        self.decoder.stopwatch.spent + self.embedder.stopwatch.spent
    }

    /// Where the decoder runs.
    pub fn placement(&self) -> &Placement {
        self.decoder.placement()
    }

    /// What stands around a question.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Whether a prompt can be used at all: for those of the config, before anything runs.
    pub fn check(
        &self,
        prompt: &str,
        video_tokens: usize,
        limits: Limits,
    ) -> Result<(), LanguageError> {
        self.check_after(&[], prompt, video_tokens, limits)
    }

    /// Finds the latest of what was said before, as much of it as there is room for before a prompt.
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

    /// The template around people's words, and around what was said before.
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
        // Whatever the tokenizer thinks of a text, it is the text of whoever asks.
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

    /// The prompt's embeddings `[n, D]`, the video's rows in their place.
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

/// A cache of so many rows, or of what there is memory for; and whether the graph takes several
/// tokens on a cache that holds some.
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
                tracing::warn!("generate.batch = {rows} is more than there is memory for: {error}");
                rows -= 1;
            }
            Err(error) => return Err(error.into()),
        }
    };
    // Some shapes in the graph are symbolic: only a run shows whether they fit.
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

/// Tokens the KV cache holds.
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
