//! A sequence of the batch: a prompt that is read, and the work that follows. That is a text that is
//! generated, or the score of the answer, after which the next question is read in the prompt's
//! place.

use std::ops::Range;
use std::time::Instant;

use super::generation::Generation;
use super::scoring::{Following, Scoring};
use super::slots::Prompt;
use super::tokenizer::Tokenizer;
use super::{Failure, PrefixFrames, Reply, Scored, Urgency};
use crate::event::{FinishReason, Usage};
use crate::model::{Numbers, NumbersRef};

/// The key of a prefix. It identifies the tokens without comparing their values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PrefixKey {
    /// Token ids before the video.
    pub head: Vec<u32>,
    pub frames: PrefixFrames,
}

/// A prompt that is ready to be read.
pub struct Prepared {
    pub urgency: Urgency,
    pub work: Work,
    /// Embeddings of the prompt, `[tokens, D]`.
    pub embeddings: Numbers,
    /// Number of tokens in the prompt, and of those in its prefix.
    pub tokens: usize,
    pub prefix_tokens: usize,
    /// The key of the prefix, if other prompts may share it.
    pub key: Option<PrefixKey>,
    pub video_tokens: usize,
    /// Number of text tokens that are read, also those of further questions.
    pub text_tokens: usize,
}

/// The work after the prompt.
pub enum Work {
    Generate(Box<Generation>),
    Score(Scoring),
}

/// A prompt and the work after it.
pub struct Sequence {
    urgency: Urgency,
    pub work: Work,
    /// Embeddings of the prompt, `[tokens, D]`. Empty after the last prompt has been read.
    embeddings: Numbers,
    tokens: usize,
    prefix_tokens: usize,
    key: Option<PrefixKey>,
    usage: Usage,
    /// Number of tokens of the prompt that are in the KV cache.
    read: usize,
    started: Option<Instant>,
    prefilled: Option<Instant>,
}

impl Sequence {
    pub fn new(prepared: Prepared) -> Sequence {
        let Prepared { urgency, work, embeddings, tokens, prefix_tokens, key, .. } = prepared;
        Sequence {
            urgency,
            work,
            embeddings,
            tokens,
            prefix_tokens,
            key,
            usage: Usage {
                video_tokens: prepared.video_tokens as u32,
                text_tokens: prepared.text_tokens as u32,
                new_tokens: 0,
                cached_tokens: 0,
            },
            read: 0,
            started: None,
            prefilled: None,
        }
    }

    pub fn key(&self) -> Option<&PrefixKey> {
        self.key.as_ref()
    }

    /// Returns the last generated token, if there is one.
    pub fn last_id(&self) -> Option<u32> {
        match &self.work {
            Work::Generate(generation) => generation.last_id(),
            Work::Score(_) => None,
        }
    }

    pub fn start(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Records that the prefix was restored from the cache.
    pub fn prefix_restored(&mut self) {
        self.read = self.prefix_tokens;
        self.usage.cached_tokens = self.prefix_tokens as u32;
    }

    /// Returns the tokens of the next chunk, at most `most`. A chunk never crosses the end of the
    /// prefix.
    pub fn next_chunk(&self, most: usize) -> Range<usize> {
        let border = if self.read < self.prefix_tokens { self.prefix_tokens } else { self.tokens };
        self.read..border.min(self.read + most)
    }

    /// Returns the embeddings of some tokens, each of `dim` numbers.
    pub fn embeddings(&self, tokens: Range<usize>, dim: usize) -> NumbersRef<'_> {
        self.embeddings.part(tokens.start * dim..tokens.end * dim)
    }

    /// Records that the prompt has been read up to a token.
    pub fn chunk_read(&mut self, to: usize) {
        self.read = to;
        if self.is_read() {
            self.prefilled = Some(Instant::now());
            if matches!(self.work, Work::Generate(_)) {
                self.embeddings.clear();
            }
        }
    }

    /// Returns true if exactly the prefix has been read.
    pub fn is_at_prefix_end(&self) -> bool {
        self.read == self.prefix_tokens
    }

    /// Returns true if the whole prompt has been read.
    pub fn is_read(&self) -> bool {
        self.read == self.tokens
    }

    /// Replaces the question after the prefix by the next one, whose embeddings have `dim` numbers
    /// per token. The tokens that both share count as read.
    pub fn follow_up(&mut self, question: &Following, dim: usize) {
        self.read = self.prefix_tokens + question.shared;
        self.embeddings.truncate(self.read * dim);
        self.embeddings.append(question.embeddings.all());
        self.tokens = self.embeddings.len() / dim;
    }

    /// Ends the text. Returns its rest, which was not returned yet, and the reply. Returns `None`
    /// for a sequence without text.
    pub fn finish(
        &mut self,
        finish: FinishReason,
        tokenizer: &Tokenizer,
    ) -> Result<Option<(String, Reply)>, Failure> {
        let Work::Generate(generation) = &mut self.work else { return Ok(None) };
        let generated = generation.finish(tokenizer)?;
        let (started, prefilled) = self.times();
        let reply = Reply {
            text: generated.text,
            finish,
            usage: Usage { new_tokens: generated.ids.len() as u32, ..self.usage },
            ids: generated.ids,
            started,
            prefill: prefilled - started,
            decode: prefilled.elapsed(),
        };
        Ok(Some((generated.rest, reply)))
    }

    /// Returns the scores as the result of the sequence.
    pub fn scored(&self, scores: Vec<f64>) -> Scored {
        let (started, prefilled) = self.times();
        Scored { scores, usage: self.usage, started, prefill: prefilled - started }
    }

    /// Returns the times at which reading of the prompt began and ended.
    fn times(&self) -> (Instant, Instant) {
        let now = Instant::now();
        (self.started.unwrap_or(now), self.prefilled.unwrap_or(now))
    }
}

impl Prompt for Sequence {
    fn urgency(&self) -> Urgency {
        self.urgency
    }

    fn is_started(&self) -> bool {
        self.started.is_some()
    }

    fn shares_prefix_read_by(&self, other: &Sequence) -> bool {
        self.key.is_some() && other.key == self.key && other.read < other.prefix_tokens
    }
}
