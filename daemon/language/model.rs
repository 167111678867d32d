//! Loads the language model, builds its prompts and answers requests.
//!
//! Not here: the steps of the decoder, which `batch.rs` runs, and their order, which `slots.rs`
//! decides.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::capacity::{allocate, capacity};
use super::generation::Generation;
use super::prompts::Prompts;
use super::schema::SchemaCompiler;
use super::scoring::{Following, Scoring, reading_order, shared_start};
use super::sequence::{PrefixKey, Prepared, Work};
use super::slots::{Room, Slots};
use super::template::{ChatTemplate, Turn};
use super::tokenizer::{Prompt, Tokenizer};
use super::{
    Decoder, Embedder, Failure, LanguageBackend, LanguageError, Laps, Limits, OnOutput, Output,
    PrefixFrames, Reply, Request, SequenceId, Submitted, Task, Urgency,
};
use crate::byte_lru::ByteLru;
use crate::config::{self, Generate, Wording};
use crate::model::{ModelError, Numbers, Package, Placement, Runtime, TensorError};
use crate::slowfast::VideoTokens;

/// The language model of a package, run in this process.
pub struct LanguageModel {
    tokenizer: Arc<Tokenizer>,
    prompts: Arc<Prompts>,
    schemas: Arc<SchemaCompiler>,
    pub(super) batch: Batch,
    /// True if the graph accepts several tokens on a cache that already holds some.
    chunks: bool,
}

/// Limits on the work and the cache of the language model.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub max_new_tokens: usize,
    /// Maximum number of sequences that run together.
    pub slots: usize,
    /// Maximum size of the cache for prefixes that prompts of a window share. 0 disables it.
    pub prefix_bytes: usize,
}

impl Budget {
    pub fn of(generate: &Generate) -> Budget {
        Budget {
            max_new_tokens: generate.max_new_tokens,
            slots: generate.max_concurrent_sequences,
            prefix_bytes: generate.prefix_cache_bytes.as_u64() as usize,
        }
    }

    /// Returns a budget for one sequence at a time, without a prefix cache.
    pub fn one_by_one(max_new_tokens: usize) -> Budget {
        Budget { max_new_tokens, slots: 1, prefix_bytes: 0 }
    }
}

impl LanguageModel {
    /// Loads the graphs and allocates the KV cache. Each slot has room for the plan's whole window,
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
        let prompts = Prompts::load(package, wording, capacity)?;
        let tokenizer = prompts.tokenizer().clone();
        let mut embedder = Embedder::load(runtime, package, model.language_threads)?;
        let mut decoder = Decoder::load(runtime, package, model.language_threads, capacity)?;
        let (cache, chunks) = allocate(&mut decoder, &mut embedder, budget.slots)?;
        let vocabulary = package.text.vocab_size;
        let schemas = SchemaCompiler::new(tokenizer.clone(), &package.end_tokens, vocabulary);
        let prefix_bytes = if chunks { budget.prefix_bytes } else { 0 };
        Ok(LanguageModel {
            prompts: Arc::new(prompts),
            schemas: Arc::new(schemas),
            tokenizer,
            batch: Batch {
                decoder,
                embedder,
                slots: Slots::new(cache.slots()),
                cache,
                prefixes: ByteLru::new(prefix_bytes),
                prefill_chunk: if chunks { model.prefill_chunk } else { capacity },
                end_tokens: package.end_tokens.clone(),
                dim: package.text.hidden_size,
                vocabulary,
            },
            chunks,
        })
    }

    /// Returns the number of sequences in progress.
    pub fn sequences(&self) -> usize {
        self.batch.slots.len()
    }

    /// Returns the number of sequences in progress whose prompt is not completely read.
    pub fn unread(&self) -> usize {
        self.batch.slots.unread()
    }

    /// Returns the number of bytes in the prefix cache.
    pub fn prefix_cache_bytes(&self) -> usize {
        self.batch.prefixes.bytes()
    }

    /// Returns the maximum number of bytes in the prefix cache.
    pub fn prefix_cache_limit(&self) -> usize {
        self.batch.prefixes.most()
    }

    /// Returns the maximum number of tokens in a slot of the KV cache: video, text and answer.
    pub fn capacity(&self) -> usize {
        self.batch.cache.capacity()
    }

    /// Returns the bytes of one full slot of the KV cache.
    pub fn slot_bytes(&self) -> usize {
        self.batch.decoder.token_bytes() * self.capacity()
    }

    /// Returns the bytes that a window of `video_tokens` tokens takes in the prefix cache, without
    /// the few tokens of the template's head.
    pub fn prefix_bytes(&self, video_tokens: usize) -> usize {
        self.batch.decoder.token_bytes() * video_tokens
    }

    /// Starts to measure by `clock` where the time goes.
    pub fn start_laps(&mut self, clock: fn() -> Duration) {
        self.batch.decoder.stopwatch.start(clock);
        self.batch.embedder.stopwatch.start(clock);
    }

    /// Returns the time of each [`Lap`](super::Lap) since the measurement started.
    pub fn laps(&self) -> Laps {
        let (decoder, embedder) = (&self.batch.decoder.stopwatch, &self.batch.embedder.stopwatch);
        std::array::from_fn(|lap| decoder.spent[lap] + embedder.spent[lap])
    }

    /// Returns the device that the decoder runs on.
    pub fn placement(&self) -> &Placement {
        self.batch.decoder.placement()
    }

    /// Returns the chat template, the text around a question.
    pub fn template(&self) -> &ChatTemplate {
        self.prompts.template()
    }

    /// Returns the compiler for schemas of answers.
    pub fn schemas(&self) -> Arc<SchemaCompiler> {
        self.schemas.clone()
    }

    /// Returns the maker of prompts, which checks them without the model.
    pub fn prompts(&self) -> Arc<Prompts> {
        self.prompts.clone()
    }

    /// Renders and tokenizes a question and the earlier turns, as [`Prompts::prompt`] does.
    pub fn prompt(&self, turns: &[Turn], question: &str) -> Result<Prompt, LanguageError> {
        self.prompts.prompt(turns, question)
    }

    fn prepare(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
        frames: Option<PrefixFrames>,
        generation: Generation,
        urgency: Urgency,
    ) -> Result<Prepared, LanguageError> {
        self.prompts.check_length(prompt.tokens(video.len()), generation.max_new_tokens())?;
        let prefix_tokens = self.prefix_tokens(prompt, video);
        Ok(Prepared {
            urgency,
            work: Work::Generate(Box::new(generation)),
            embeddings: self.embeddings(prompt, video).map_err(Failure::from)?,
            tokens: prompt.tokens(video.len()),
            prefix_tokens,
            key: key(prompt, frames, prefix_tokens),
            video_tokens: if prompt.pieces.len() > 1 { video.len() } else { 0 },
            text_tokens: prompt.text_tokens(),
        })
    }

    /// Prepares yes/no questions, which are read one after the other behind their common prefix. If
    /// they have none, each is read from its first token.
    fn prepare_scores(
        &mut self,
        questions: &[Arc<str>],
        video: &VideoTokens,
        frames: Option<PrefixFrames>,
        urgency: Urgency,
    ) -> Result<Prepared, LanguageError> {
        let words = self.prompts.words()?;
        let prompts = questions
            .iter()
            .map(|question| {
                let prompt = self.prompts.prompt(&[], question)?;
                self.prompts.check_length(prompt.tokens(video.len()), 0)?;
                Ok(prompt)
            })
            .collect::<Result<Vec<_>, LanguageError>>()?;
        let Some(one) = prompts.first() else {
            return Err(LanguageError::BadPrompt("there is no question to score".into()));
        };
        let shares_prefix = |prompt: &Prompt| {
            prompt.pieces[0] == one.pieces[0] && self.prefix_tokens(prompt, video) > 0
        };
        let has_prefix = prompts.iter().all(shares_prefix);
        let prefix_tokens = if has_prefix { self.prefix_tokens(one, video) } else { 0 };
        // Behind a prefix, only the text after the video is read again.
        let texts: Vec<&[u32]> = prompts.iter().map(|p| &*p.pieces[p.pieces.len() - 1]).collect();
        let order = if has_prefix { reading_order(&texts) } else { (0..prompts.len()).collect() };
        let first = &prompts[order[0]];
        let embeddings = self.embeddings(first, video).map_err(Failure::from)?;
        let (mut following, mut text_tokens) = (VecDeque::new(), first.text_tokens());
        for pair in order.windows(2) {
            let (before, next) = (texts[pair[0]], texts[pair[1]]);
            let question = if has_prefix {
                let Batch { decoder, embedder, .. } = &mut self.batch;
                let shared = if decoder.can_cut() { shared_start(before, next) } else { 0 };
                text_tokens += next.len() - shared;
                let float = decoder.embeds();
                embedder.embed(&next[shared..]).map(|rows| (shared, float.numbers(&rows)))
            } else {
                text_tokens += prompts[pair[1]].text_tokens();
                self.embeddings(&prompts[pair[1]], video).map(|rows| (0, rows))
            };
            let (shared, embeddings) = question.map_err(Failure::from)?;
            following.push_back(Following { shared, embeddings });
        }
        Ok(Prepared {
            urgency,
            tokens: first.tokens(video.len()),
            prefix_tokens,
            key: key(first, frames, prefix_tokens),
            video_tokens: video.len(),
            text_tokens,
            embeddings,
            work: Work::Score(Scoring::new(words, order, following)),
        })
    }

    /// Returns the number of tokens up to the end of the video, or 0 if a prompt cannot be read in
    /// two runs there.
    fn prefix_tokens(&self, prompt: &Prompt, video: &VideoTokens) -> usize {
        match &prompt.pieces[..] {
            // The last token of a prompt is never in the prefix, because its logits are needed.
            [head, text] if self.chunks && !text.is_empty() => head.len() + video.len(),
            _ => 0,
        }
    }

    /// Answers one request. `on_text` receives the text as it is generated.
    pub fn answer(
        &mut self,
        request: Request<'_>,
        on_text: impl FnMut(&str),
    ) -> Result<Reply, LanguageError> {
        let id = self.submit(request)?.id;
        self.finish(id, on_text)
    }

    /// Continues a prompt, with the video's rows between its pieces.
    pub fn complete(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
        limits: Limits,
        on_text: impl FnMut(&str),
    ) -> Result<Reply, LanguageError> {
        let prepared =
            self.prepare(prompt, video, None, Generation::new(limits, None), Urgency::Now)?;
        let id = self.batch.admit(prepared)?;
        self.finish(id, on_text)
    }

    /// Runs the batch until a sequence has ended.
    fn finish(
        &mut self,
        id: SequenceId,
        mut on_text: impl FnMut(&str),
    ) -> Result<Reply, LanguageError> {
        let mut end = None;
        loop {
            self.poll(&mut |from, output| match output {
                _ if from != id => {}
                Output::Text(text) => on_text(text),
                Output::Scored(_) => {}
                Output::Finished(reply) => end = Some(Ok(reply)),
                Output::Failed(failure) => end = Some(Err(failure.into())),
            })?;
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Returns the prompt's embeddings `[n, D]`, with the video's rows in their place.
    pub fn embeddings(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
    ) -> Result<Numbers, TensorError> {
        let Batch { decoder, embedder, .. } = &mut self.batch;
        embedder.prompt(prompt, video, decoder.embeds())
    }
}

impl LanguageBackend for LanguageModel {
    fn slots(&self) -> usize {
        self.batch.slots.count()
    }

    fn room(&self) -> Room {
        self.batch.slots.room()
    }

    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError> {
        let Request { video, prefix_frames, task, urgency, .. } = request;
        let (prepared, turns) = match task {
            Task::Text { turns, prompt, limits, schema } => {
                let (prompt, turns) = self.prompts.fitting_prompt(
                    turns,
                    prompt,
                    video.len(),
                    limits,
                    schema.is_some(),
                )?;
                let generation = Generation::new(limits, schema);
                (self.prepare(&prompt, video, prefix_frames, generation, urgency)?, turns)
            }
            Task::Scores { questions } => {
                (self.prepare_scores(questions, video, prefix_frames, urgency)?, 0)
            }
        };
        Ok(Submitted { id: self.batch.admit(prepared)?, turns })
    }

    fn poll(&mut self, on_output: &mut OnOutput<'_>) -> Result<(), LanguageError> {
        self.batch.step(&self.tokenizer, on_output)
    }

    fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError> {
        self.batch.cancel(id)
    }
}

/// Returns the key of a prompt's prefix, if the prompt has one that others may share.
fn key(prompt: &Prompt, frames: Option<PrefixFrames>, prefix_tokens: usize) -> Option<PrefixKey> {
    let frames = frames.filter(|_| prefix_tokens > 0)?;
    Some(PrefixKey { head: prompt.pieces[0].clone(), frames })
}
