//! Runs several sequences together, each in its own slot of the KV cache.
//!
//! Guarantees:
//! - A step is one run of the decoder: a chunk of one prompt (prefill), or a token of every sequence
//!   whose prompt has been read. [`Slots`] decides which.
//! - A prompt's prefix, up to the end of the video, is read in separate chunks and cached. The next
//!   prompt with the same head and frames reuses it. Chunk borders do not depend on a cache hit,
//!   so the answer is identical to the bit.
//! - The questions of a sequence that scores are read in its slot one after the other. Each is read
//!   right behind the prefix, so its score is that which it has alone, up to the rounding of
//!   floats. Questions that begin alike read their common start once.
//! - If a run fails, only the sequences in that run fail. A sequence whose logits are not finite
//!   fails, and its prefix is not kept.

use std::time::Instant;

use super::cache::Prefix;
use super::generation::Token;
use super::sequence::{PrefixKey, Prepared, Sequence, Work};
use super::slots::{Prompt, Slots, Step};
use super::stopwatch::Lap;
use super::tokenizer::Tokenizer;
use super::{Decoder, Embedder, Failure, KvCache, LanguageError, OnOutput, Output, SequenceId};
use crate::byte_lru::ByteLru;
use crate::event::FinishReason;
use crate::metrics;
use crate::model::TensorError;

/// The sequences in progress, and everything that their steps need but the tokenizer.
pub struct Batch {
    pub decoder: Decoder,
    pub embedder: Embedder,
    pub cache: KvCache,
    pub slots: Slots<Sequence>,
    pub prefixes: ByteLru<PrefixKey, Prefix>,
    /// Maximum number of tokens in a chunk of a prompt.
    pub prefill_chunk: usize,
    pub end_tokens: Vec<u32>,
    pub dim: usize,
    pub vocabulary: usize,
}

/// A batch during one step.
struct Stepping<'a> {
    batch: &'a mut Batch,
    tokenizer: &'a Tokenizer,
    on_output: &'a mut OnOutput<'a>,
}

impl Batch {
    /// Starts a sequence, or fails if every slot is in use.
    pub fn admit(&mut self, prepared: Prepared) -> Result<SequenceId, Failure> {
        let count = self.slots.count();
        let Some(slot) = self.slots.free_slot() else {
            return Err(Failure::Run(format!(
                "the model already runs {count} sequences, as many as \
                 generate.max_concurrent_sequences allows"
            )));
        };
        Ok(slot.admit(Sequence::new(prepared)))
    }

    /// Runs the decoder once, if there are any sequences.
    pub fn step(
        &mut self,
        tokenizer: &Tokenizer,
        on_output: &mut OnOutput<'_>,
    ) -> Result<(), LanguageError> {
        let started = Instant::now();
        let Some(step) = self.slots.next() else { return Ok(()) };
        let mut on_output = |id, output: Output<'_>| on_output(id, output);
        let mut stepping = Stepping { batch: self, tokenizer, on_output: &mut on_output };
        match step {
            Step::Prefill(slot) => stepping.prefill(slot)?,
            Step::Generate => stepping.generate()?,
        }
        self.slots.ran(step, started.elapsed());
        Ok(())
    }

    /// Ends a sequence without output, if it has not ended.
    pub fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError> {
        self.slots.slot(id).map_or(Ok(()), |slot| self.remove(slot))
    }

    /// Frees a slot.
    fn remove(&mut self, slot: usize) -> Result<(), LanguageError> {
        self.decoder.clear(&mut self.cache, slot).map_err(broken)?;
        let (_, swaps) = self.slots.remove(slot);
        for (a, b) in swaps {
            self.decoder.swap(&mut self.cache, a, b).map_err(broken)?;
        }
        Ok(())
    }

    fn read_chunk(&mut self, slot: usize) -> Result<Vec<f32>, TensorError> {
        if !self.slots[slot].is_started() {
            self.slots[slot].start();
            self.decoder.clear(&mut self.cache, slot)?;
            self.restore_prefix(slot)?;
        }
        let sequence = &mut self.slots[slot];
        if sequence.is_at_prefix_end()
            && let Work::Score(scoring) = &mut sequence.work
        {
            scoring.prefix_end = Some(self.decoder.mark(&self.cache, slot));
        }
        let sequence = &self.slots[slot];
        let chunk = sequence.next_chunk(self.prefill_chunk);
        let to = chunk.end;
        let embeddings = sequence.embeddings(chunk, self.dim);
        let logits = self.decoder.read(&mut self.cache, slot, embeddings)?;
        self.slots[slot].chunk_read(to);
        Ok(logits)
    }

    /// Returns the logits after the last token of every sequence that generates.
    fn next_logits(&mut self) -> Result<Vec<f32>, TensorError> {
        let generating = self.slots.generating();
        let last: Vec<u32> =
            self.slots.iter().take(generating).filter_map(Sequence::last_id).collect();
        let embeddings = self.embedder.embed(&last)?;
        self.decoder.step(&mut self.cache, generating, &embeddings)
    }

    /// Restores the prefix of a sequence from the cache, if it is cached.
    fn restore_prefix(&mut self, slot: usize) -> Result<(), TensorError> {
        let sequence = &mut self.slots[slot];
        let Some(key) = sequence.key() else { return Ok(()) };
        let found = self.prefixes.get(key);
        metrics::prefix_cache_lookup(found.is_some());
        if let Some(prefix) = found {
            self.decoder.restore(&mut self.cache, slot, prefix)?;
            sequence.prefix_restored();
        }
        Ok(())
    }

    /// Puts the prefix that the slot now holds into the cache. If there is no memory for a copy, the
    /// sequence continues and the prefix is not cached.
    fn keep_prefix(&mut self, slot: usize) {
        let Some(key) = self.slots[slot].key() else { return };
        let bytes = self.decoder.token_bytes() * self.cache.len(slot);
        let Some(evicted) = self.prefixes.make_room(bytes) else { return };
        match self.decoder.keep(&mut self.cache, slot) {
            Ok(prefix) => self.prefixes.put(key.clone(), prefix, bytes),
            Err(error) => tracing::warn!("the prefix of a window is not cached: {error}"),
        }
        metrics::prefix_cache(self.prefixes.bytes(), self.prefixes.count(), evicted);
    }
}

impl Stepping<'_> {
    /// Reads the next chunk of a prompt. The last chunk gives the first token.
    fn prefill(&mut self, slot: usize) -> Result<(), LanguageError> {
        let logits = match self.batch.read_chunk(slot) {
            Ok(logits) => logits,
            Err(error) => return self.fail(slot, error.into()),
        };
        let Batch { decoder, cache, slots, .. } = &mut *self.batch;
        if slots[slot].is_at_prefix_end() {
            self.batch.keep_prefix(slot);
        } else if slots[slot].is_read() {
            if matches!(slots[slot].work, Work::Score(_)) {
                return self.score(slot, &logits);
            }
            let (from, to) = slots.prefilled(slot);
            decoder.swap(cache, from, to).map_err(broken)?;
            self.push(to, &logits)?;
        }
        Ok(())
    }

    /// Generates one token of every sequence whose prompt has been read.
    fn generate(&mut self) -> Result<(), LanguageError> {
        let generating = self.batch.slots.generating();
        // Iterates from the last slot, because the last sequence replaces one that is removed.
        match self.batch.next_logits() {
            Ok(logits) => {
                for (slot, logits) in logits.chunks(self.batch.vocabulary).enumerate().rev() {
                    self.push(slot, logits)?;
                }
            }
            Err(error) => {
                let failure = Failure::from(error);
                for slot in (0..generating).rev() {
                    self.fail(slot, failure.clone())?;
                }
            }
        }
        Ok(())
    }

    /// Samples the next token of a sequence and delivers its text, or ends the sequence.
    fn push(&mut self, slot: usize, logits: &[f32]) -> Result<(), LanguageError> {
        let Batch { decoder, slots, end_tokens, .. } = &mut *self.batch;
        let id = slots.id(slot);
        let Work::Generate(generation) = &mut slots[slot].work else { return Ok(()) };
        let begun = decoder.stopwatch.now();
        let token = generation.push(logits, self.tokenizer, end_tokens);
        decoder.stopwatch.add(Lap::Sampling, begun);
        match token {
            Ok(Token::End) => self.finish(slot, FinishReason::Stop),
            Ok(Token::Text(text)) => {
                let end = if generation.is_complete() {
                    Some(FinishReason::Stop)
                } else {
                    generation.is_full().then_some(FinishReason::Length)
                };
                (self.on_output)(id, Output::Text(&text));
                end.map_or(Ok(()), |reason| self.finish(slot, reason))
            }
            Err(failure) => self.fail(slot, failure),
        }
    }

    /// Scores the question that a sequence has just read. Then continues with its next question, or
    /// ends the sequence.
    fn score(&mut self, slot: usize, logits: &[f32]) -> Result<(), LanguageError> {
        let Batch { decoder, cache, slots, dim, .. } = &mut *self.batch;
        let id = slots.id(slot);
        let sequence = &mut slots[slot];
        let Work::Score(scoring) = &mut sequence.work else { return Ok(()) };
        match scoring.push(logits) {
            Ok(Some(question)) => {
                if let Some(prefix_end) = &scoring.prefix_end {
                    let shared = question.shared;
                    decoder.rewind(cache, slot, prefix_end, shared).map_err(broken)?;
                }
                sequence.follow_up(&question, *dim);
                Ok(())
            }
            Ok(None) => {
                let scores = scoring.take();
                (self.on_output)(id, Output::Scored(sequence.scored(scores)));
                self.batch.remove(slot)
            }
            Err(failure) => self.fail(slot, failure),
        }
    }

    fn finish(&mut self, slot: usize, finish: FinishReason) -> Result<(), LanguageError> {
        let id = self.batch.slots.id(slot);
        match self.batch.slots[slot].finish(finish, self.tokenizer) {
            Ok(None) => {}
            Ok(Some((rest, reply))) => {
                (self.on_output)(id, Output::Text(&rest));
                (self.on_output)(id, Output::Finished(reply));
            }
            Err(failure) => return self.fail(slot, failure),
        }
        self.batch.remove(slot)
    }

    /// Ends a sequence without a result. A prefix that gives logits that are not finite is not
    /// kept.
    fn fail(&mut self, slot: usize, failure: Failure) -> Result<(), LanguageError> {
        let Batch { slots, prefixes, .. } = &mut *self.batch;
        if let (Failure::NotFinite, Some(key)) = (&failure, slots[slot].key()) {
            prefixes.forget(key);
        }
        (self.on_output)(self.batch.slots.id(slot), Output::Failed(failure));
        self.batch.remove(slot)
    }
}

/// Wraps an error of freeing or swapping slots. Their content is unknown after it.
fn broken(error: TensorError) -> LanguageError {
    LanguageError::Broken(error.to_string())
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
