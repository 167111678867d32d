//! Asks servers of a vision model by OpenAI's API. A server gets the frames of a window as JPEGs, with
//! their times, and sends text. No model package is needed.
//!
//! ```text
//! worker ─ submit ─► chat ─► sequence ─► client ─► a server
//!        ◄─ poll ── outputs ◄─┘ text, scores
//! ```
//!
//! Guarantees:
//! - The text of an event is about the frames that the event lists: each of them is in the request,
//!   and a server that is known to drop pictures is not used.
//! - Servers accept fields that they then ignore. A feature counts only if its proof has shown the
//!   effect.
//! - A sequence that is cancelled closes its connection, so that the server ends its work.
//! - No failure of a server ends the daemon. A sequence fails if no server answers it in time.

mod chat;
mod client;
mod proof;
mod samples;
mod scores;
mod text;

use std::sync::Arc;
use std::time::Instant;

use super::servers::{Sequences, ServerHealth};
use super::slots::Room;
use super::{
    Budget, CheckPrompts, Failure, LanguageBackend, LanguageError, Limits, OnOutput, PrefixFrame,
    PrefixFrames, Request, SchemaCompiler, SequenceId, Submitted, Task, TimedJpeg,
};
use crate::config;
use crate::model::ModelError;
use chat::{Conversation, body, text_fields};
use client::{Client, Feature};
use samples::Samples;
use scores::{ONLY_YES_OR_NO, ScoreJob, score, score_fields};
use text::{TextJob, generate};

/// A vision model that servers run.
pub struct OpenAiModel {
    client: Arc<Client>,
    schemas: Arc<SchemaCompiler>,
    sequences: Sequences,
}

impl OpenAiModel {
    /// Proves every server. `jpegs` is the width and the quality of frames. Servers that cannot be
    /// reached are tried again while the daemon runs. Fails if none is ready and one of them cannot
    /// be used as it is.
    pub fn load(
        settings: &config::OpenAi,
        instruction: &str,
        (width, quality): (u32, u8),
        budget: Budget,
    ) -> Result<OpenAiModel, ModelError> {
        let samples = Samples::new(settings.max_images, width, quality)
            .map_err(|error| ModelError(format!("pictures to prove language servers: {error}")))?;
        let client = Client::new(settings, instruction, samples, budget.max_new_tokens);
        let client = Arc::new(client.map_err(ModelError)?);
        let sequences = Sequences::new(budget.slots)?;
        sequences.prove(&client.servers, &client)?;
        Ok(OpenAiModel { client, schemas: Arc::new(SchemaCompiler::of_bytes()), sequences })
    }

    /// Returns the checks of prompts.
    pub fn prompts(&self) -> Arc<impl CheckPrompts + use<>> {
        Arc::new(Checks(self.client.clone()))
    }

    pub fn schemas(&self) -> Arc<SchemaCompiler> {
        self.schemas.clone()
    }

    /// Returns the watch over the servers' states.
    pub fn health(&self) -> ServerHealth {
        ServerHealth(self.client.servers.clone())
    }

    /// Returns the key that chooses a server.
    fn key(&self, frames: Option<&PrefixFrames>) -> u64 {
        // A frame's JPEG is the same, wherever it was stored.
        let jpeg = |frame: &PrefixFrame| (frame.camera.clone(), frame.run, frame.number);
        self.sequences.key(frames.map(|frames| frames.iter().map(jpeg).collect::<Vec<_>>()))
    }

    fn submit_text(
        &mut self,
        request: &Request<'_>,
        frames: &[chat::Part],
    ) -> Result<Submitted, LanguageError> {
        let Task::Text { turns, prompt, limits, schema } = request.task else {
            return Err(LanguageError::BadPrompt("there is no prompt".into()));
        };
        if schema.is_some() {
            self.client.check_feature(Feature::Schemas)?;
        }
        let client = self.client.clone();
        let fields = text_fields(limits, schema.map(|schema| &**schema.text()));
        let conversation =
            Conversation { instruction: &client.instruction, frames, turns, question: prompt };
        let job = TextJob {
            body: body(&client.settings.servers.model, &conversation, fields)?,
            frames: request.jpegs.map_or(0, <[TimedJpeg]>::len),
            limits,
            constraint: schema.map(|schema| schema.constraint()),
            started: Instant::now(),
        };
        let key = self.key(request.prefix_frames.as_ref());
        let id = self.sequences.start(request.urgency, |outputs| {
            Box::pin(async move {
                let reply = generate(&client, key, job, &outputs).await;
                outputs.finished(reply).await;
            })
        })?;
        Ok(Submitted { id, turns: turns.len() })
    }

    fn submit_scores(
        &mut self,
        request: &Request<'_>,
        frames: &[chat::Part],
    ) -> Result<Submitted, LanguageError> {
        let questions = match request.task {
            Task::Scores { questions } if !questions.is_empty() => questions,
            _ => return Err(LanguageError::BadPrompt("there is no question to score".into())),
        };
        self.client.check_feature(Feature::Scores)?;
        let client = self.client.clone();
        let of_question = |question: &Arc<str>| {
            let question = &format!("{question} {ONLY_YES_OR_NO}");
            let conversation =
                Conversation { instruction: &client.instruction, frames, turns: &[], question };
            let fields = score_fields(client.settings.scores);
            body(&client.settings.servers.model, &conversation, fields)
        };
        let job = ScoreJob {
            bodies: questions.iter().map(of_question).collect::<Result<_, _>>()?,
            frames: request.jpegs.map_or(0, <[TimedJpeg]>::len),
            started: Instant::now(),
        };
        let key = self.key(request.prefix_frames.as_ref());
        let id = self.sequences.start(request.urgency, |outputs| {
            Box::pin(async move {
                let scored = score(&client, key, job).await;
                outputs.scored(scored).await;
            })
        })?;
        Ok(Submitted { id, turns: 0 })
    }
}

impl LanguageBackend for OpenAiModel {
    fn slots(&self) -> usize {
        self.sequences.slots()
    }

    fn room(&self) -> Room {
        self.sequences.room()
    }

    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError> {
        self.client.check_ready()?;
        let Some(jpegs) = request.jpegs else {
            let why = "a frame has no JPEG: it was deleted in the meantime";
            return Err(Failure::Server(why.into()).into());
        };
        let frames = chat::frames(jpegs);
        match request.task {
            Task::Text { .. } => self.submit_text(&request, &frames),
            Task::Scores { .. } => self.submit_scores(&request, &frames),
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

/// The checks of prompts. Servers alone know how long a prompt is.
struct Checks(Arc<Client>);

impl CheckPrompts for Checks {
    fn check(&self, _: &str, _: usize, _: Limits) -> Result<(), LanguageError> {
        Ok(())
    }

    fn check_scored(&self, _: &str, _: usize) -> Result<(), LanguageError> {
        self.0.check_feature(Feature::Scores)
    }

    fn check_schemas(&self) -> Result<(), LanguageError> {
        self.0.check_feature(Feature::Schemas)
    }
}
