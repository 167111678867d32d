//! A sequence of the batch: a prompt that is read, and then the text that is generated after it.

use std::ops::Range;
use std::time::Instant;

use super::tokenizer::{TokenStream, Tokenizer};
use super::turns::Prompt;
use super::{Failure, Limits, PrefixFrames, Reply, Sampler, Urgency};
use crate::event::{FinishReason, Usage};

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
    pub limits: Limits,
    /// Embeddings of the prompt, `[tokens, D]`.
    pub embeddings: Vec<f32>,
    /// Number of tokens in the prompt, and of those in its prefix.
    pub tokens: usize,
    pub prefix_tokens: usize,
    /// The key of the prefix, if other prompts may share it.
    pub key: Option<PrefixKey>,
    pub video_tokens: usize,
}

/// A prompt and the text after it.
pub struct Sequence {
    urgency: Urgency,
    limits: Limits,
    /// Embeddings of the prompt, `[tokens, D]`. Empty after it has been read.
    embeddings: Vec<f32>,
    tokens: usize,
    prefix_tokens: usize,
    key: Option<PrefixKey>,
    usage: Usage,
    /// Number of tokens of the prompt that are in the KV cache.
    read: usize,
    started: Option<Instant>,
    prefilled: Option<Instant>,
    sampler: Sampler,
    stream: TokenStream,
    text: String,
    ids: Vec<u32>,
}

/// A generated token.
pub enum Token {
    /// The text that it adds, which may be empty.
    Text(String),
    End,
}

impl Sequence {
    pub fn new(prepared: Prepared) -> Sequence {
        let Prepared { urgency, limits, embeddings, tokens, prefix_tokens, key, video_tokens } =
            prepared;
        Sequence {
            urgency,
            limits,
            embeddings,
            tokens,
            prefix_tokens,
            key,
            usage: Usage {
                video_tokens: video_tokens as u32,
                text_tokens: (tokens - video_tokens) as u32,
                new_tokens: 0,
                cached_tokens: 0,
            },
            read: 0,
            started: None,
            prefilled: None,
            sampler: Sampler::new(limits.sampling),
            stream: TokenStream::default(),
            text: String::new(),
            ids: Vec::new(),
        }
    }

    pub fn key(&self) -> Option<&PrefixKey> {
        self.key.as_ref()
    }

    pub fn last_id(&self) -> Option<u32> {
        self.ids.last().copied()
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
    pub fn embeddings(&self, tokens: Range<usize>, dim: usize) -> &[f32] {
        &self.embeddings[tokens.start * dim..tokens.end * dim]
    }

    /// Records that the prompt has been read up to a token.
    pub fn chunk_read(&mut self, to: usize) {
        self.read = to;
        if self.is_read() {
            self.embeddings = Vec::new();
            self.prefilled = Some(Instant::now());
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

    /// Samples the next token.
    pub fn push(
        &mut self,
        logits: &[f32],
        tokenizer: &Tokenizer,
        end_tokens: &[u32],
    ) -> Result<Token, Failure> {
        let id = self.sampler.next(logits).ok_or(Failure::NotFinite)?;
        if end_tokens.contains(&id) {
            return Ok(Token::End);
        }
        self.ids.push(id);
        let mut text = self.stream.push(tokenizer, id)?;
        if self.text.is_empty() {
            // Tokenizers put a space before the first word, which is not part of the answer.
            text = text.trim_start().to_string();
        }
        self.text.push_str(&text);
        Ok(Token::Text(text))
    }

    /// Returns true if no more tokens are allowed.
    pub fn is_full(&self) -> bool {
        self.ids.len() >= self.limits.max_new_tokens
    }

    /// Ends the text. Returns its rest, which was not returned yet, and the reply.
    pub fn finish(
        &mut self,
        finish: FinishReason,
        tokenizer: &Tokenizer,
    ) -> Result<(String, Reply), Failure> {
        let rest = std::mem::take(&mut self.stream).finish(tokenizer)?;
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let prefilled = self.prefilled.unwrap_or(now);
        let reply = Reply {
            text: (std::mem::take(&mut self.text) + &rest).trim_end().to_string(),
            finish,
            usage: Usage { new_tokens: self.ids.len() as u32, ..self.usage },
            ids: std::mem::take(&mut self.ids),
            started,
            prefill: prefilled - started,
            decode: now - prefilled,
        };
        Ok((rest, reply))
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
