//! The language worker: one window or question at a time, as the queue says.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::queue::Next;
use super::{Asked, Engine, Window};
use crate::event::{Body, Description, Timing};
use crate::frame::Span;
use crate::language::{LanguageError, LanguageModel, Limits, Listening, Reply, Request};
use crate::model::ModelError;
use crate::service::{AnswerItem, AskError};
use crate::slowfast::{FrameTokens, assemble};
use crate::telemetry::{self, Stage};
use crate::timeline::Clip;

pub struct Words {
    pub language: LanguageModel,
    /// Width of an embedding.
    pub dim: usize,
    /// What events call the model and the device, and why it is that one.
    pub model: String,
    pub device: String,
    pub device_reason: String,
}

impl Words {
    /// Works until the engine stops; what then still waits is told so.
    pub fn run(mut self, engine: &Engine) -> Result<(), ModelError> {
        while let Some(next) = engine.next_job() {
            let begun = Instant::now();
            match next {
                Next::Caption(camera, window) => self.caption(engine, &camera, window)?,
                Next::Question(asked) => self.answer(engine, asked)?,
            }
            engine.took(begun.elapsed());
        }
        Ok(())
    }

    fn caption(
        &mut self,
        engine: &Engine,
        camera: &Arc<str>,
        window: Window,
    ) -> Result<(), ModelError> {
        let Some(prompt) = engine.cameras.get(camera).and_then(|lens| lens.prompt.as_deref())
        else {
            return Ok(());
        };
        let begun = Instant::now();
        // On the way out nobody needs a caption any more.
        let hear = |_: &str| if engine.jobs().stopping { Listening::No } else { Listening::Yes };
        let Some(clip) = engine.clip(camera, window.span) else { return Ok(()) };
        let reply = match self.describe(engine, &clip, prompt, None, hear) {
            Ok(Some(reply)) => reply,
            Ok(None) => return Ok(()),
            Err(LanguageError::BadPrompt(why)) => {
                tracing::warn!(camera = &**camera, "no caption: {why}");
                return Ok(());
            }
            Err(error) => return Err(ModelError(error.to_string())),
        };
        let timing = timing(window.closed, begun, window.encode, &reply);
        let description = self.finish(String::new(), prompt, window.span, clip, reply, timing);
        telemetry::caption(camera);
        measure(camera, &description);
        engine.journal.append(camera.clone(), Body::Caption(description));
        Ok(())
    }

    fn answer(&mut self, engine: &Engine, asked: Asked) -> Result<(), ModelError> {
        let begun = Instant::now();
        let hear = |piece: &str| {
            if !piece.is_empty() {
                // The channel has room for the whole answer: only an asker who left makes it fail.
                let _ = asked.to.try_send(AnswerItem::Token(piece.into()));
            }
            if asked.to.is_closed() { Listening::No } else { Listening::Yes }
        };
        let most = Some(asked.max_new_tokens);
        let reply = self.describe(engine, &asked.clip, &asked.text, most, hear);
        let item = match reply {
            Ok(Some(reply)) => {
                let timing = timing(asked.came, begun, asked.encode, &reply);
                let Asked { id, text, window, clip, .. } = &asked;
                let clip = clip.clone();
                let description = self.finish(id.clone(), text, *window, clip, reply, timing);
                telemetry::answer(&asked.camera);
                measure(&asked.camera, &description);
                engine.journal.append(asked.camera.clone(), Body::Answer(description.clone()));
                AnswerItem::Finished(Box::new(description))
            }
            Ok(None) => return Ok(()),
            Err(LanguageError::BadPrompt(why)) => AnswerItem::Failed(AskError::BadQuestion(why)),
            Err(error) => {
                let why = error.to_string();
                let _ = asked.to.try_send(AnswerItem::Failed(AskError::Model(why.clone())));
                return Err(ModelError(why));
            }
        };
        // An asker that has gone needs no answer.
        let _ = asked.to.try_send(item);
        Ok(())
    }

    /// `None`: nobody listens any more.
    fn describe(
        &mut self,
        engine: &Engine,
        clip: &Clip,
        prompt: &str,
        max_new_tokens: Option<usize>,
        hear: impl FnMut(&str) -> Listening,
    ) -> Result<Option<Reply>, LanguageError> {
        let tokens: Vec<&FrameTokens> = clip.frames.iter().map(|tokens| &**tokens).collect();
        let request = Request {
            video: &assemble(&tokens, &engine.plan, self.dim),
            prompt,
            limits: Limits {
                max_new_tokens: max_new_tokens.unwrap_or(engine.max_new_tokens),
                sampling: engine.sampling,
            },
        };
        self.language.answer(request, hear)
    }

    fn finish(
        &self,
        id: String,
        prompt: &str,
        window: Span,
        clip: Clip,
        reply: Reply,
        timing: Timing,
    ) -> Description {
        Description {
            id,
            prompt: prompt.into(),
            text: reply.text,
            window,
            coverage: clip.coverage,
            frames: clip.references,
            model: self.model.clone(),
            device: self.device.clone(),
            device_reason: self.device_reason.clone(),
            finish: reply.finish,
            usage: reply.usage,
            timing,
        }
    }
}

fn measure(camera: &str, description: &Description) {
    let timing = &description.timing;
    for (stage, seconds) in [
        (Stage::Wait, timing.wait_seconds),
        (Stage::Prefill, timing.prefill_seconds),
        (Stage::DecodeTokens, timing.decode_seconds),
    ] {
        telemetry::stage(camera, stage, Duration::from_secs_f64(seconds));
    }
    let usage = description.usage;
    let seen = u64::from(usage.video_tokens) + u64::from(usage.text_tokens);
    telemetry::tokens(camera, seen, u64::from(usage.new_tokens));
}

fn timing(since: Instant, begun: Instant, encode: Duration, reply: &Reply) -> Timing {
    Timing {
        wait_seconds: begun.saturating_duration_since(since).as_secs_f64(),
        encode_seconds: encode.as_secs_f64(),
        prefill_seconds: reply.prefill.as_secs_f64(),
        decode_seconds: reply.decode.as_secs_f64(),
        total_seconds: since.elapsed().as_secs_f64(),
    }
}

impl Engine {
    /// Waits for the next job; `None`: the engine stops, and waiting questions have been told.
    fn next_job(&self) -> Option<Next<Arc<str>, Asked, Window>> {
        let mut jobs = self.jobs();
        loop {
            let next = jobs.queue.next();
            telemetry::queue_length(jobs.queue.waiting());
            match next {
                Some(Next::Question(asked)) if asked.to.is_closed() => continue,
                Some(Next::Question(asked)) if jobs.stopping => {
                    let _ = asked.to.try_send(AnswerItem::Failed(AskError::Stopping));
                }
                Some(_) if jobs.stopping => {}
                Some(next) => return Some(next),
                None if jobs.stopping => return None,
                None => jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn took(&self, time: Duration) {
        let mut jobs = self.jobs();
        jobs.usual = (jobs.usual * 3 + time) / 4;
    }
}
