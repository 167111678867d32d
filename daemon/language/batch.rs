//! Runs several sequences together, each in its own row of the KV cache.
//!
//! ```text
//! begin ─► waits ─► is read, a chunk per turn ─► is written, a token per turn ─► finished
//!            └───────────────┴── no consumer listens, or failed ─┴─► gone
//! ```
//!
//! Reading a prompt is the prefill, and writing is the decoding of new tokens.
//!
//! Guarantees:
//! - A turn is one run of the decoder: a chunk of one prompt, or a token of every sequence that is
//!   being written.
//! - If both kinds of work wait, each gets half of the time: after a chunk, tokens are written for
//!   as long as the chunk took. A long prompt slows running answers to half their speed at most,
//!   and they slow it to half at most.
//! - A prompt's prefix, up to the end of the video, is read in separate chunks and cached. The next
//!   prompt with the same head and frames reuses it. Chunk borders do not depend on a cache hit,
//!   so the answer is identical to the bit.
//! - The rows that are being written come first and are adjacent, as a batch must be.
//! - If a run fails, only the sequences in that run fail. A sequence whose logits are not finite
//!   fails, and its prefix is not kept.

use std::time::{Duration, Instant};

use super::cache::Prefix;
use super::tokenizer::{Prompt, TokenStream, TokenizerError};
use super::{
    Consumer, Failure, KvCache, LanguageError, LanguageModel, Limits, PrefixFrames, Reply, Request,
    Sampler, Urgency,
};
use crate::byte_lru::ByteLru;
use crate::event::{FinishReason, Usage};
use crate::metrics;
use crate::model::TensorError;
use crate::slowfast::VideoTokens;

/// The identifier of a sequence, valid from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

#[cfg(test)]
impl SequenceId {
    /// Makes an id for a stand-in of the model.
    pub fn of(number: u64) -> SequenceId {
        SequenceId(number)
    }
}

/// The output of a sequence.
#[derive(Debug)]
pub enum Output<'a> {
    /// A new piece of the text. An empty piece only checks if the consumer still listens.
    Text(&'a str),
    /// The last output: the reply.
    Finished(Reply),
    /// The last output: the sequence has no reply.
    Failed(Failure),
}

pub(super) struct Batch {
    pub(super) cache: KvCache,
    /// The sequences, one per row in use, in row order.
    sequences: Vec<Sequence>,
    /// Number of rows that are being written, which come first. The others wait or are read.
    written: usize,
    prefixes: ByteLru<PrefixKey, Prefix>,
    /// Time that writing still gets before the next chunk is read.
    owed: Duration,
    sequences_begun: u64,
}

/// The key of a prefix. It identifies the tokens without comparing their values.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PrefixKey {
    /// Token ids before the video.
    head: Vec<u32>,
    prefix_frames: PrefixFrames,
}

struct Sequence {
    id: SequenceId,
    urgency: Urgency,
    limits: Limits,
    /// Embeddings of the prompt, `[tokens, D]`. Empty after it has been read.
    embeddings: Vec<f32>,
    tokens: usize,
    /// Number of tokens in the prefix.
    shared: usize,
    key: Option<PrefixKey>,
    usage: Usage,
    begun: Option<Instant>,
    read: Option<Instant>,
    sampler: Sampler,
    stream: TokenStream,
    text: String,
    ids: Vec<u32>,
}

/// The work of a turn.
enum Turn {
    /// Reads a chunk of the prompt in this row.
    Read(usize),
    Write,
}

impl Batch {
    pub(super) fn new(cache: KvCache, prefix_bytes: usize) -> Batch {
        let prefixes = ByteLru::new(prefix_bytes);
        let (sequences, owed) = (Vec::new(), Duration::ZERO);
        Batch { cache, sequences, written: 0, prefixes, owed, sequences_begun: 0 }
    }

    fn next(&self) -> Option<Turn> {
        match self.to_read() {
            Some(row) if self.written == 0 || self.owed.is_zero() => Some(Turn::Read(row)),
            _ if self.written > 0 => Some(Turn::Write),
            _ => None,
        }
    }

    /// Returns the row of the most urgent prompt, or of the oldest one among equals. If another
    /// sequence is already reading the prefix that this prompt needs, returns that row instead.
    fn to_read(&self) -> Option<usize> {
        let unread = || self.sequences.iter().enumerate().skip(self.written);
        let (row, next) = unread().min_by_key(|(_, s)| (s.urgency, s.id))?;
        if next.begun.is_some() || next.key.is_none() {
            return Some(row);
        }
        let same = |(row, other): &(usize, &Sequence)| {
            other.begun.is_some() && other.key == next.key && self.cache.len(*row) < other.shared
        };
        Some(unread().find(same).map_or(row, |(row, _)| row))
    }
}

impl LanguageModel {
    /// Returns the maximum number of sequences at a time.
    pub fn rows(&self) -> usize {
        self.batch.cache.rows()
    }

    /// Returns the number of sequences in work.
    pub fn in_work(&self) -> usize {
        self.batch.sequences.len()
    }

    /// Returns the number of sequences in work whose prompt is not completely read.
    pub fn unread(&self) -> usize {
        self.batch.sequences.len() - self.batch.written
    }

    /// Returns the number of bytes in the prefix cache.
    pub fn prefix_cache_bytes(&self) -> usize {
        self.batch.prefixes.bytes()
    }

    /// Returns the maximum number of bytes in the prefix cache.
    pub fn prefix_cache_room(&self) -> usize {
        self.batch.prefixes.most()
    }

    /// Starts a sequence for a question. There must be a free row.
    pub fn begin(&mut self, request: Request<'_>) -> Result<SequenceId, LanguageError> {
        let prompt = self.prompt(request.turns, request.prompt)?;
        let Request { video, prefix_frames, limits, urgency, .. } = request;
        self.begin_prompt(&prompt, video, prefix_frames, limits, urgency)
    }

    fn begin_prompt(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
        prefix_frames: Option<PrefixFrames>,
        limits: Limits,
        urgency: Urgency,
    ) -> Result<SequenceId, LanguageError> {
        assert!(self.in_work() < self.rows(), "a sequence more than there are rows");
        let video_tokens = if prompt.pieces.len() > 1 { video.len() } else { 0 };
        let (tokens, shared) = self.extent(prompt, video.len());
        self.room(tokens, limits)?;
        let embeddings = self.embeddings(prompt, video).map_err(Failure::from)?;
        let batch = &mut self.batch;
        batch.sequences_begun += 1;
        let id = SequenceId(batch.sequences_begun);
        batch.sequences.push(Sequence {
            id,
            urgency,
            limits,
            embeddings,
            tokens,
            shared,
            key: prefix_frames
                .filter(|_| shared > 0)
                .map(|prefix_frames| PrefixKey { head: prompt.pieces[0].clone(), prefix_frames }),
            usage: Usage {
                video_tokens: video_tokens as u32,
                text_tokens: (tokens - video_tokens) as u32,
                new_tokens: 0,
                cached_tokens: 0,
            },
            begun: None,
            read: None,
            sampler: Sampler::new(limits.sampling),
            stream: TokenStream::default(),
            text: String::new(),
            ids: Vec::new(),
        });
        Ok(id)
    }

    /// Returns the number of tokens in a prompt and in its prefix.
    fn extent(&self, prompt: &Prompt, video_tokens: usize) -> (usize, usize) {
        let tokens = prompt.text_tokens() + (prompt.pieces.len() - 1) * video_tokens;
        let shared = match &prompt.pieces[..] {
            // The last token of a prompt is never in the prefix, because its logits are needed.
            [head, words] if self.chunks && !words.is_empty() => head.len() + video_tokens,
            _ => 0,
        };
        (tokens, shared)
    }

    /// Returns the end of the next chunk. A chunk never crosses the end of the prefix.
    fn chunk_end(&self, from: usize, shared: usize, tokens: usize) -> usize {
        let border = if from < shared { shared } else { tokens };
        border.min(from + self.prefill_chunk)
    }

    /// Runs the decoder once for the next work, if there is any. `on_output` receives the output and
    /// returns [`Consumer::Gone`] if no consumer is left; it is called for every sequence before the
    /// run. A failure of some sequences is reported by [`Output::Failed`]; an error ends all of them.
    pub fn turn(
        &mut self,
        on_output: &mut dyn FnMut(SequenceId, Output<'_>) -> Consumer,
    ) -> Result<(), LanguageError> {
        for row in (0..self.in_work()).rev() {
            if on_output(self.batch.sequences[row].id, Output::Text("")) == Consumer::Gone {
                self.leave(row)?;
            }
        }
        let begun = Instant::now();
        match self.batch.next() {
            Some(Turn::Read(row)) => {
                self.read(row, on_output)?;
                let others = self.batch.written > 0;
                self.batch.owed = if others { begun.elapsed() } else { Duration::ZERO };
            }
            Some(Turn::Write) => {
                self.write(on_output)?;
                self.batch.owed = self.batch.owed.saturating_sub(begun.elapsed());
            }
            None => {}
        }
        Ok(())
    }

    /// Answers one question while nothing else is in work. Returns `None` if `on_output` stopped
    /// listening.
    pub fn answer(
        &mut self,
        request: Request<'_>,
        on_output: impl FnMut(&str) -> Consumer,
    ) -> Result<Option<Reply>, LanguageError> {
        self.begin(request)?;
        self.until_done(on_output)
    }

    /// Continues a prompt, with the video's rows between its pieces, while nothing else is in work.
    /// Returns `None` if `on_output` stopped listening.
    pub fn complete(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
        limits: Limits,
        on_output: impl FnMut(&str) -> Consumer,
    ) -> Result<Option<Reply>, LanguageError> {
        self.begin_prompt(prompt, video, None, limits, Urgency::Now)?;
        self.until_done(on_output)
    }

    fn until_done(
        &mut self,
        mut on_output: impl FnMut(&str) -> Consumer,
    ) -> Result<Option<Reply>, LanguageError> {
        debug_assert_eq!(self.in_work(), 1);
        let mut reply = Ok(None);
        while self.in_work() > 0 {
            self.turn(&mut |_, said| match said {
                Output::Text(piece) => on_output(piece),
                Output::Finished(finished) => {
                    reply = Ok(Some(finished));
                    Consumer::Connected
                }
                Output::Failed(failure) => {
                    reply = Err(failure.into());
                    Consumer::Gone
                }
            })?;
        }
        reply
    }

    /// Reads the next chunk of the prompt in this row.
    fn read(
        &mut self,
        row: usize,
        on_output: &mut dyn FnMut(SequenceId, Output<'_>) -> Consumer,
    ) -> Result<(), LanguageError> {
        let logits = match self.read_chunk(row) {
            Ok(logits) => logits,
            Err(error) => return self.fail(row, error.into(), on_output),
        };
        let (to, sequence) = (self.batch.cache.len(row), &mut self.batch.sequences[row]);
        if to == sequence.shared {
            self.keep(row);
        } else if to == sequence.tokens {
            sequence.embeddings = Vec::new();
            sequence.read = Some(Instant::now());
            let written = self.batch.written;
            self.swap(row, written)?;
            self.batch.written += 1;
            self.say(written, &logits, on_output)?;
        }
        Ok(())
    }

    fn read_chunk(&mut self, row: usize) -> Result<Vec<f32>, TensorError> {
        if self.batch.sequences[row].begun.is_none() {
            self.batch.sequences[row].begun = Some(Instant::now());
            self.decoder.clear(&mut self.batch.cache, row)?;
            self.look_up(row)?;
        }
        let (from, of) = (self.batch.cache.len(row), &self.batch.sequences[row]);
        let to = self.chunk_end(from, of.shared, of.tokens);
        let Batch { cache, sequences, .. } = &mut self.batch;
        let chunk = &sequences[row].embeddings[from * self.dim..to * self.dim];
        self.decoder.read(cache, row, chunk)
    }

    /// Writes one token of every sequence whose prompt has been read.
    fn write(
        &mut self,
        on_output: &mut dyn FnMut(SequenceId, Output<'_>) -> Consumer,
    ) -> Result<(), LanguageError> {
        let written = self.batch.written;
        // Iterates from the last row, because the last sequence replaces one that leaves its row.
        match self.step() {
            Ok(logits) => {
                for (row, logits) in logits.chunks(self.vocabulary).enumerate().rev() {
                    self.say(row, logits, on_output)?;
                }
            }
            Err(error) => {
                let failure = Failure::from(error);
                for row in (0..written).rev() {
                    self.fail(row, failure.clone(), on_output)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the logits after the last token of every sequence that is being written.
    fn step(&mut self) -> Result<Vec<f32>, TensorError> {
        let Batch { cache, sequences, written, .. } = &mut self.batch;
        let last: Vec<u32> =
            sequences[..*written].iter().flat_map(|s| s.ids.last().copied()).collect();
        let embeddings = self.embedder.embed(&last)?;
        self.decoder.step(cache, *written, &embeddings)
    }

    /// Samples the next token of a sequence and delivers its text, or ends the sequence.
    fn say(
        &mut self,
        row: usize,
        logits: &[f32],
        on_output: &mut dyn FnMut(SequenceId, Output<'_>) -> Consumer,
    ) -> Result<(), LanguageError> {
        let sequence = &mut self.batch.sequences[row];
        let Some(id) = sequence.sampler.next(logits) else {
            if let Some(key) = &sequence.key {
                self.batch.prefixes.forget(key);
            }
            return self.fail(row, Failure::NotFinite, on_output);
        };
        if self.end_tokens.contains(&id) {
            return self.finish(row, FinishReason::Stop, on_output);
        }
        sequence.ids.push(id);
        let piece = match sequence.stream.push(&self.tokenizer, id) {
            Ok(piece) => piece,
            Err(error) => return self.fail(row, error.into(), on_output),
        };
        // Tokenizers put a space before the first word, which is not part of the answer.
        let piece = if sequence.text.is_empty() { piece.trim_start() } else { &piece };
        sequence.text.push_str(piece);
        if on_output(sequence.id, Output::Text(piece)) == Consumer::Gone {
            return self.leave(row);
        }
        if sequence.ids.len() >= sequence.limits.max_new_tokens {
            return self.finish(row, FinishReason::Length, on_output);
        }
        Ok(())
    }

    fn finish(
        &mut self,
        row: usize,
        finish: FinishReason,
        on_output: &mut dyn FnMut(SequenceId, Output<'_>) -> Consumer,
    ) -> Result<(), LanguageError> {
        let sequence = &mut self.batch.sequences[row];
        let rest = match std::mem::take(&mut sequence.stream).finish(&self.tokenizer) {
            Ok(rest) => rest,
            Err(error) => return self.fail(row, error.into(), on_output),
        };
        on_output(sequence.id, Output::Text(&rest));
        let now = Instant::now();
        let (begun, read) = (sequence.begun.unwrap_or(now), sequence.read.unwrap_or(now));
        let reply = Reply {
            text: (std::mem::take(&mut sequence.text) + &rest).trim_end().to_string(),
            finish,
            usage: Usage { new_tokens: sequence.ids.len() as u32, ..sequence.usage },
            ids: std::mem::take(&mut sequence.ids),
            begun,
            prefill: read - begun,
            decode: now - read,
        };
        on_output(sequence.id, Output::Finished(reply));
        self.leave(row)
    }

    /// Ends a sequence without a reply.
    fn fail(
        &mut self,
        row: usize,
        failure: Failure,
        on_output: &mut dyn FnMut(SequenceId, Output<'_>) -> Consumer,
    ) -> Result<(), LanguageError> {
        on_output(self.batch.sequences[row].id, Output::Failed(failure));
        self.leave(row)
    }

    /// Frees a row.
    fn leave(&mut self, row: usize) -> Result<(), LanguageError> {
        self.decoder.clear(&mut self.batch.cache, row).map_err(broken)?;
        let mut row = row;
        if row < self.batch.written {
            self.batch.written -= 1;
            let written = self.batch.written;
            self.swap(row, written)?;
            row = written;
        }
        self.swap(row, self.in_work() - 1)?;
        self.batch.sequences.pop();
        Ok(())
    }

    fn swap(&mut self, a: usize, b: usize) -> Result<(), LanguageError> {
        self.decoder.swap(&mut self.batch.cache, a, b).map_err(broken)?;
        self.batch.sequences.swap(a, b);
        Ok(())
    }

    /// Restores the row's prefix from the cache, if it is cached.
    fn look_up(&mut self, row: usize) -> Result<(), TensorError> {
        let Batch { cache, sequences, prefixes, .. } = &mut self.batch;
        let sequence = &mut sequences[row];
        let Some(key) = &sequence.key else { return Ok(()) };
        let found = prefixes.get(key);
        metrics::prefix_cache_lookup(found.is_some());
        if let Some(prefix) = found {
            self.decoder.restore(cache, row, prefix)?;
            sequence.usage.cached_tokens = sequence.shared as u32;
        }
        Ok(())
    }

    /// Puts the prefix that the row now holds into the cache. If there is no memory for a copy, the
    /// sequence continues and the prefix is not cached.
    fn keep(&mut self, row: usize) {
        let Batch { cache, sequences, prefixes, .. } = &mut self.batch;
        let Some(key) = &sequences[row].key else { return };
        let bytes = self.decoder.token_bytes() * cache.len(row);
        let Some(evicted) = prefixes.make_room(bytes) else { return };
        match self.decoder.keep(cache, row) {
            Ok(prefix) => prefixes.put(key.clone(), prefix, bytes),
            Err(error) => tracing::warn!("a prefix is not kept: {error}"),
        }
        metrics::prefix_cache(prefixes.bytes(), prefixes.count(), evicted);
    }
}

/// Wraps an error of freeing or swapping rows. Their content is unknown after it.
fn broken(error: TensorError) -> LanguageError {
    LanguageError::Broken(error.to_string())
}

impl From<TokenizerError> for Failure {
    fn from(error: TokenizerError) -> Failure {
        Failure::Run(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::decoder::{Spoil, Spoils};
    use super::super::{Budget, PrefixFrame};
    use super::*;
    use crate::config::{Model, Sampling, Wording};
    use crate::model::on_the_cpu;

    const QUESTIONS: [&str; 3] = ["What is happening?", "Is the gate open?", "Who is there?"];

    fn language() -> LanguageModel {
        let (runtime, package) = on_the_cpu();
        let mut keys = toml::toml! {
            package = "" device = "cpu" prefill_chunk = 23
            plan = "1:slowfast-slow_1frms_concat-fast_1x1"
        };
        keys["package"] = package.folder.display().to_string().into();
        let model = Model::of(keys).expect("a config");
        let budget = Budget { max_new_tokens: 12, rows: 3, prefix_bytes: 1 << 24 };
        LanguageModel::with_capacity(runtime, package, &model, &Wording::default(), budget, 160)
            .expect("a model")
    }

    /// Asks all three questions at once, the first two about the same window, and returns the
    /// outcome of each.
    fn ask(language: &mut LanguageModel) -> Vec<Result<Vec<u32>, Failure>> {
        let dim = language.dim;
        let video = |window: usize| {
            let rows = (0..48 * dim).map(|at| ((at * 37 + window * 11) % 101) as f32 / 50.0 - 1.0);
            VideoTokens { rows: rows.collect(), dim }
        };
        let mut sequences_begun = Vec::new();
        for (prompt, window) in QUESTIONS.into_iter().zip([0, 0, 1]) {
            let number = window as u64;
            let seen =
                PrefixFrame { camera: "gate".into(), run: 1, number, slow: true, again: false };
            let request = Request {
                video: &video(window),
                prefix_frames: Some([seen].into()),
                turns: &[],
                prompt,
                limits: Limits { max_new_tokens: 12, sampling: Sampling::Greedy },
                urgency: Urgency::Now,
            };
            sequences_begun.push(language.begin(request).expect("a row"));
        }
        let mut ends = BTreeMap::new();
        for _ in 0..200 {
            let mut on_output = |id, said: Output<'_>| {
                match said {
                    Output::Text(_) => {}
                    Output::Finished(reply) => drop(ends.insert(id, Ok(reply.ids))),
                    Output::Failed(failure) => drop(ends.insert(id, Err(failure))),
                }
                Consumer::Connected
            };
            language.turn(&mut on_output).expect("a turn");
        }
        assert_eq!(language.in_work(), 0);
        sequences_begun.iter().map(|id| ends.remove(id).expect("an end")).collect()
    }

    /// Tests every run in turn.
    #[test]
    fn a_failed_run_ends_only_its_own_sequences() {
        let mut language = language();
        let wanted = ask(&mut language);
        assert!(wanted.iter().all(Result::is_ok), "{wanted:?}");
        assert!(wanted[0] != wanted[1] && wanted[1] != wanted[2], "{wanted:?}");
        let mut spoilt = 0;
        for how in [Spoil::Fails, Spoil::NotFinite] {
            for after in 0..40 {
                // The cached prefixes of the windows are also computed again now and then.
                if after % 3 == 0 {
                    language.batch.prefixes.make_room(1 << 24);
                }
                language.decoder.spoils = Some(Spoils { after, how });
                let ends = ask(&mut language);
                language.decoder.spoils = None;
                for (end, wanted) in ends.iter().zip(&wanted) {
                    match (end, how) {
                        (Ok(_), _) => assert_eq!(end, wanted, "{how:?} after {after}"),
                        (Err(Failure::Run(_)), Spoil::Fails) => spoilt += 1,
                        (Err(Failure::NotFinite), Spoil::NotFinite) => spoilt += 1,
                        (Err(failure), _) => panic!("{how:?} after {after}: {failure}"),
                    }
                }
                assert_eq!(ask(&mut language), wanted, "after {how:?} after {after}");
            }
        }
        assert!(spoilt > 40, "{spoilt}");
    }
}
