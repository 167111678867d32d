//! Runs the language model on servers of vLLM.
//!
//! The package's tokenizer, template and table of words make the prompt's rows here, with the
//! video's rows between them. A server gets the rows and sends tokens.
//!
//! ```text
//! worker ─ submit ─► rows ─► sequence ─► client ─► a server
//!        ◄─ poll ── outputs ◄─┘ text, scores
//! ```
//!
//! Guarantees:
//! - No text and no score is passed on unless the server has read exactly the rows that were sent,
//!   and its results are finite.
//! - A sequence that is cancelled closes its connection, so that the server ends its work.
//! - No failure of a server ends the daemon. A sequence fails if no server answers it in time.

mod client;
mod completions;
mod scores;
mod tensor_file;
mod text;

use std::sync::Arc;
use std::time::Instant;

use super::capacity::capacity;
use super::servers::{Http, Sequences, ServerHealth, Servers};
use super::slots::Room;
use super::tokenizer::Prompt;
use super::{
    Budget, Embedder, Failure, LanguageBackend, LanguageError, OnOutput, Prompts, Request,
    SchemaCompiler, SequenceId, Submitted, Task,
};
use crate::config::{self, Wording};
use crate::event;
use crate::model::{Float, ModelError, Package, Runtime};
use crate::slowfast::VideoTokens;
use client::{Client, Sample};
use completions::{Rows, body, text_fields};
use scores::{ScoreJob, score};
use text::{TextJob, generate};

/// The text of the proof's sample, with the template around it.
const SAMPLE: &str = "What is happening? Is there a person?";

/// The language model of a package, run by servers of vLLM.
pub struct VllmModel {
    prompts: Arc<Prompts>,
    schemas: Arc<SchemaCompiler>,
    embedder: Embedder,
    client: Arc<Client>,
    sequences: Sequences,
}

impl VllmModel {
    /// Loads the table of words, and proves every server. Servers that cannot be reached are tried
    /// again while the daemon runs. Fails if none is ready and one of them cannot be used as it is.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        model: &config::Model,
        wording: &Wording,
        budget: Budget,
        settings: &config::Servers,
    ) -> Result<VllmModel, ModelError> {
        let (plan, text) = (&model.plan, &package.text);
        let video = plan
            .video_tokens(plan.frames, package.vision.grid_tokens)
            .map_err(|e| ModelError(format!("model.plan {plan}: {e}")))?;
        let capacity =
            capacity(plan, video, budget.max_new_tokens, text.context).map_err(ModelError)?;
        let prompts = Arc::new(Prompts::load(package, wording, capacity)?);
        let tokenizer = prompts.tokenizer().clone();
        let mut embedder = Embedder::load(runtime, package, model.language_threads)?;
        let sample = sample(&prompts, &mut embedder, text.hidden_size)?;
        let schemas = SchemaCompiler::new(tokenizer.clone(), &package.end_tokens, text.vocab_size)
            .with_any_whitespace();
        let client = Arc::new(Client {
            http: Http::new(settings).map_err(ModelError)?,
            servers: Servers::new(&settings.endpoints),
            settings: settings.clone(),
            tokenizer,
            end_tokens: package.end_tokens.clone(),
            sample,
            capacity,
        });
        let sequences = Sequences::new(budget.slots)?;
        sequences.prove(&client.servers, &client)?;
        Ok(VllmModel { prompts, schemas: Arc::new(schemas), embedder, client, sequences })
    }

    pub fn prompts(&self) -> Arc<Prompts> {
        self.prompts.clone()
    }

    pub fn schemas(&self) -> Arc<SchemaCompiler> {
        self.schemas.clone()
    }

    /// Returns the watch over the servers' states.
    pub fn health(&self) -> ServerHealth {
        ServerHealth(self.client.servers.clone())
    }

    /// Encodes a prompt with the video's rows in their place.
    fn rows(&mut self, prompt: &Prompt, video: &VideoTokens) -> Result<Rows, Failure> {
        let rows = self.embedder.prompt(prompt, video, Float::F32).map_err(Failure::from)?;
        Rows::encode(&rows.into_f32(), video.dim)
    }
}

impl LanguageBackend for VllmModel {
    fn slots(&self) -> usize {
        self.sequences.slots()
    }

    fn room(&self) -> Room {
        self.sequences.room()
    }

    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError> {
        let Request { video, prefix_frames, task, urgency, .. } = request;
        let started = Instant::now();
        let key = self.sequences.key(prefix_frames);
        if self.client.servers.ready(key).is_empty() {
            return Err(self.client.servers.none_ready().into());
        }
        let (client, video_tokens) = (self.client.clone(), video.len() as u32);
        let usage = |text_tokens: usize| event::Usage {
            video_tokens,
            text_tokens: text_tokens as u32,
            new_tokens: 0,
            cached_tokens: 0,
        };
        match task {
            Task::Text { turns, prompt, limits, schema } => {
                let (prompt, turns) = self.prompts.fitting_prompt(
                    turns,
                    prompt,
                    video.len(),
                    limits,
                    schema.is_some(),
                )?;
                let rows = self.rows(&prompt, video)?;
                let fields = text_fields(
                    limits,
                    &client.end_tokens,
                    schema.map(|schema| &**schema.text()),
                    urgency,
                );
                let job = TextJob {
                    body: body(&client.settings.model, completions::Prompt::Rows(&rows), fields),
                    rows: rows.count,
                    limits,
                    constraint: schema.map(|schema| schema.constraint()),
                    usage: usage(prompt.text_tokens()),
                    started,
                };
                let id = self.sequences.start(urgency, |outputs| {
                    Box::pin(async move {
                        let reply = generate(&client, key, job, &outputs).await;
                        outputs.finished(reply).await;
                    })
                })?;
                Ok(Submitted { id, turns })
            }
            Task::Scores { questions } => {
                let words = self.prompts.words()?;
                if questions.is_empty() {
                    return Err(LanguageError::BadPrompt("there is no question to score".into()));
                }
                let (mut prompts, mut text_tokens) = (Vec::new(), 0);
                for question in questions {
                    let prompt = self.prompts.prompt(&[], question)?;
                    self.prompts.check_length(prompt.tokens(video.len()), 0)?;
                    text_tokens += prompt.text_tokens();
                    prompts.push(self.rows(&prompt, video)?);
                }
                let usage = usage(text_tokens);
                let job = ScoreJob { prompts, words, urgency, usage, started };
                let id = self.sequences.start(urgency, |outputs| {
                    Box::pin(async move {
                        let scored = score(&client, key, job).await;
                        outputs.scored(scored).await;
                    })
                })?;
                Ok(Submitted { id, turns: 0 })
            }
        }
    }

    fn poll(&mut self, on_output: &mut OnOutput<'_>) -> Result<(), LanguageError> {
        self.sequences.poll(on_output);
        Ok(())
    }

    fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError> {
        self.sequences.cancel(id);
        Ok(())
    }
}

/// Makes the sample of the proofs.
fn sample(prompts: &Prompts, embedder: &mut Embedder, width: usize) -> Result<Sample, ModelError> {
    let prompt = prompts.prompt(&[], SAMPLE).map_err(|error| ModelError(error.to_string()))?;
    let ids: Vec<u32> = prompt.pieces.concat();
    let rows = embedder.embed(&ids).map_err(|error| ModelError(error.to_string()))?;
    let rows = Rows::encode(&rows, width).map_err(|error| ModelError(error.to_string()))?;
    Ok(Sample { ids, rows, words: prompts.words().ok() })
}
