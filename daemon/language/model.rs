//! Questions around video tokens, answered: prompt, prefill, decoding, text.

use std::time::{Duration, Instant};

use super::tokenizer::{Prompt, Tokenizer};
use super::{Decoder, Embedder, KvCache, Sampler};
use crate::config::{self, Sampling};
use crate::event::{Finish, Usage};
use crate::model::{ModelError, Package, Placement, Runtime, TensorError};
use crate::slowfast::{Plan, VideoTokens};

/// Tokens kept free for the template and a question, beyond video and answer.
const TEXT_ROOM: usize = 512;
/// Less room than this for text is no use.
const LEAST_TEXT_ROOM: usize = 32;

pub struct LanguageModel {
    tokenizer: Tokenizer,
    embedder: Embedder,
    decoder: Decoder,
    cache: KvCache,
    /// What stands around the video and the question: `<image>` and `{prompt}`.
    template: String,
    end_tokens: Vec<u32>,
    prefill_chunk: usize,
    dim: usize,
}

pub struct Request<'a> {
    pub video: &'a VideoTokens,
    pub prompt: &'a str,
    pub limits: Limits,
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
    pub prefill: Duration,
    pub decode: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The asker's to mend.
    #[error("{0}")]
    BadPrompt(String),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

/// Whether somebody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    Yes,
    No,
}

impl LanguageModel {
    /// Loads the graphs and allocates the KV cache for the plan's whole window, a question and an
    /// answer; refuses a plan that the model's context cannot hold.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        max_new_tokens: usize,
    ) -> Result<LanguageModel, ModelError> {
        let video = model
            .plan
            .video_tokens(model.plan.frames, package.vision.grid_tokens)
            .map_err(|e| ModelError(format!("model.plan {}: {e}", model.plan)))?;
        let capacity = capacity(&model.plan, video, max_new_tokens, package.text.context)
            .map_err(ModelError)?;
        LanguageModel::with_capacity(runtime, package, model, capacity)
    }

    /// For sequences of up to `capacity` tokens: video, words and answer.
    pub fn with_capacity(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        capacity: usize,
    ) -> Result<LanguageModel, ModelError> {
        let mut embedder = Embedder::load(runtime, package, model.language_threads)?;
        let mut decoder = Decoder::load(runtime, package, model.language_threads, capacity)?;
        let mut cache = decoder.cache()?;
        // Some shapes in the graph are symbolic: only a run shows whether they fit.
        decoder.forward(&mut cache, &embedder.embed(&[0])?)?;
        let prefill_chunk = match decoder.forward(&mut cache, &embedder.embed(&[0, 0])?) {
            Ok(_) => model.prefill_chunk,
            Err(error) => {
                tracing::warn!("prompts are read in one piece, which takes more memory: {error}");
                capacity
            }
        };
        decoder.clear(&mut cache)?;
        let tokenizer = Tokenizer::load(&package.folder).map_err(|e| ModelError(e.to_string()))?;
        if tokenizer.vocab_size() > package.text.vocab_size {
            return Err(ModelError(format!(
                "{}: {} tokens, but config.json's vocab_size is {}: of another model?",
                package.folder.join("tokenizer.json").display(),
                tokenizer.vocab_size(),
                package.text.vocab_size
            )));
        }
        Ok(LanguageModel {
            tokenizer,
            embedder,
            cache,
            decoder,
            template: model.template.clone(),
            end_tokens: package.end_tokens.clone(),
            prefill_chunk,
            dim: package.text.hidden_size,
        })
    }

    /// Tokens that the KV cache has room for: video, words and answer.
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// Bytes of the KV cache when it is full.
    pub fn cache_bytes(&self) -> usize {
        self.decoder.cache_bytes()
    }

    /// Where the decoder runs.
    pub fn placement(&self) -> &Placement {
        self.decoder.placement()
    }

    /// Whether a prompt can be used at all: for those of the config, before anything runs.
    pub fn check(
        &self,
        prompt: &str,
        video_tokens: usize,
        limits: Limits,
    ) -> Result<(), LanguageError> {
        let tokens = self.prompt(prompt)?.text_tokens() + video_tokens;
        self.room(tokens, limits)
    }

    /// Answers a question about a clip; `hear` gets each new piece of text (at first an empty one)
    /// and says whether anybody still listens. `None`: nobody did.
    pub fn answer(
        &mut self,
        request: Request<'_>,
        hear: impl FnMut(&str) -> Listening,
    ) -> Result<Option<Reply>, LanguageError> {
        let prompt = self.prompt(request.prompt)?;
        self.complete(&prompt, request.video, request.limits, hear)
    }

    /// Goes on from a prompt, with the video's rows between its pieces.
    pub fn complete(
        &mut self,
        prompt: &Prompt,
        video: &VideoTokens,
        limits: Limits,
        mut hear: impl FnMut(&str) -> Listening,
    ) -> Result<Option<Reply>, LanguageError> {
        let embeddings = self.embeddings(prompt, video)?;
        let tokens = embeddings.len() / self.dim;
        self.room(tokens, limits)?;
        let begun = Instant::now();
        self.decoder.clear(&mut self.cache)?;
        let mut logits = Vec::new();
        for chunk in embeddings.chunks(self.prefill_chunk * self.dim) {
            if hear("") == Listening::No {
                return Ok(None);
            }
            logits = self.decoder.forward(&mut self.cache, chunk)?;
        }
        let prefilled = Instant::now();
        let mut sampler = Sampler::new(limits.sampling);
        let mut stream = self.tokenizer.stream();
        let mut text = String::new();
        let mut ids = Vec::new();
        let finish = loop {
            let id = sampler.next(&logits);
            if self.end_tokens.contains(&id) {
                break Finish::Stop;
            }
            ids.push(id);
            let piece = stream.push(id).map_err(wrong)?;
            // The space that tokenizers put before the first word is not part of the answer.
            let piece = if text.is_empty() { piece.trim_start() } else { &piece };
            text.push_str(piece);
            if hear(piece) == Listening::No {
                return Ok(None);
            }
            if ids.len() == limits.max_new_tokens {
                break Finish::Length;
            }
            let embedding = self.embedder.embed(&[id])?;
            logits = self.decoder.forward(&mut self.cache, &embedding)?;
        };
        let rest = stream.finish().map_err(wrong)?;
        hear(&rest);
        text.push_str(&rest);
        let video_tokens = if prompt.pieces.len() > 1 { video.len() } else { 0 };
        Ok(Some(Reply {
            text: text.trim_end().to_string(),
            finish,
            usage: Usage {
                video_tokens: video_tokens as u32,
                text_tokens: (tokens - video_tokens) as u32,
                new_tokens: ids.len() as u32,
            },
            ids,
            prefill: prefilled - begun,
            decode: prefilled.elapsed(),
        }))
    }

    /// The template around people's words.
    pub fn prompt(&self, words: &str) -> Result<Prompt, LanguageError> {
        if let Some(token) = self.tokenizer.special_token_in(words) {
            return Err(LanguageError::BadPrompt(format!("a question cannot hold {token:?}")));
        }
        let text = self.template.replace("{prompt}", words);
        self.tokenizer.encode_around_image(&text).map_err(wrong)
    }

    fn room(&self, tokens: usize, limits: Limits) -> Result<(), LanguageError> {
        let (new, room) = (limits.max_new_tokens, self.cache.capacity());
        if tokens + new <= room {
            return Ok(());
        }
        Err(LanguageError::BadPrompt(format!(
            "video and question take {tokens} tokens and the answer may take {new}; there is room \
             for {room}"
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

fn wrong(error: impl ToString) -> LanguageError {
    LanguageError::Tokenizer(error.to_string())
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
