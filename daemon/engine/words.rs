//! The language worker: several windows and questions together, as the scheduler says.
//!
//! ```text
//! ┌► admit what there is room for ─► one turn of the language model ─► deliver what came of it ┐
//! └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! - The last free row is a question's, and a caption begins only when no prompt is being read: a
//!   question waits for no more than a turn while there are rows.
//! - An asker who has left frees the row before the next turn.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::scheduler::Next;
use super::still::Still;
use super::{Asked, Engine, Window};
use crate::event::{Body, Description, Event, Finish, FrameRef, Timing, Unchanged, Usage};
use crate::frame::Span;
use crate::language::{
    LanguageError, LanguageModel, Limits, Listening, Reply, Request, Said, Seen, Ticket, Turn,
    Urgency,
};
use crate::model::ModelError;
use crate::service::{AnswerItem, AskError};
use crate::slowfast::{FrameTokens, assemble};
use crate::telemetry::{self, SkipReason, Stage};
use crate::timeline::{Clip, Look};

pub struct Words {
    pub language: LanguageModel,
    /// Width of an embedding.
    pub dim: usize,
    /// What events call the model and the device, and why it is that one.
    pub model: String,
    pub device: String,
    pub device_reason: String,
    pub still: Still,
}

type Job = Next<Arc<str>, Asked, Window>;

/// What there is room for beside what is in work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// For anything; nothing is in work, and nothing else is to be done.
    Idle,
    Any,
    Question,
    Nothing,
}

/// A job in work.
struct Running {
    job: Job,
    prompt: String,
    clip: Clip,
    admitted: Instant,
}

impl Words {
    /// Works until the engine stops; what then still waits is told so.
    pub fn run(mut self, engine: &Engine) -> Result<(), ModelError> {
        let mut running = HashMap::new();
        let mut last_finished = Instant::now();
        loop {
            telemetry::rows(running.len());
            while let Some(job) = engine.next_job(self.room()) {
                self.begin(engine, job, &mut running)?;
                telemetry::rows(running.len());
            }
            if running.is_empty() {
                return Ok(());
            }
            for (running, reply) in self.turn(engine, &mut running)? {
                let since = running.admitted.max(last_finished);
                last_finished = Instant::now();
                engine.took(&running, last_finished, last_finished - since);
                self.finish(engine, running, reply);
            }
        }
    }

    fn room(&self) -> Room {
        match self.language.rows() - self.language.in_work() {
            _ if self.language.in_work() == 0 => Room::Idle,
            0 => Room::Nothing,
            1 => Room::Question,
            _ if self.language.unread() > 0 => Room::Question,
            _ => Room::Any,
        }
    }

    fn begin(
        &mut self,
        engine: &Engine,
        job: Job,
        running: &mut HashMap<Ticket, Running>,
    ) -> Result<(), ModelError> {
        let Some(Task { camera, prompt, turns, clip, most, urgency }) = task(engine, &job) else {
            return Ok(());
        };
        if let Next::Caption(camera, window) = &job
            && let Some(unchanged) = self.unchanged(engine, camera, &clip)
        {
            telemetry::caption_unchanged(camera);
            let reply = Reply {
                text: "unchanged".into(),
                ids: Vec::new(),
                finish: Finish::Stop,
                usage: Usage::default(),
                begun: Instant::now(),
                prefill: Duration::ZERO,
                decode: Duration::ZERO,
            };
            let timing = timing(window.closed, window.encode, &reply);
            let mut caption = self.describe(prompt, window.extent.span, clip, reply, timing);
            caption.unchanged = Some(unchanged);
            self.publish(engine, camera, caption);
            return Ok(());
        }
        let tokens: Vec<&FrameTokens> = clip.frames.iter().map(|look| &*look.tokens).collect();
        let seen = |(frame, look): (&FrameRef, &Look)| Seen {
            camera: camera.clone(),
            run: frame.run,
            number: frame.number,
            slow: frame.slow,
            again: look.again,
        };
        let request = Request {
            video: &assemble(&tokens, &engine.plan, self.dim),
            footage: Some(clip.references.iter().zip(&clip.frames).map(seen).collect()),
            turns: &turns,
            prompt: &prompt,
            limits: Limits { max_new_tokens: most, sampling: engine.sampling },
            urgency,
        };
        match self.language.begin(request) {
            Ok(ticket) => {
                let admitted = Instant::now();
                running.insert(ticket, Running { job, prompt, clip, admitted });
                Ok(())
            }
            Err(LanguageError::BadPrompt(why)) => {
                match job {
                    Next::Caption(camera, _) => {
                        tracing::warn!(camera = &*camera, "no caption: {why}");
                    }
                    Next::Question(asked) => asked.unanswerable(why),
                }
                Ok(())
            }
            Err(error) => {
                Err(failed(error, running.drain().map(|(_, running)| running.job).chain([job])))
            }
        }
    }

    /// What a window is like in which nothing has happened. What is missing in it may have held
    /// anything.
    fn unchanged(&self, engine: &Engine, camera: &Arc<str>, clip: &Clip) -> Option<Unchanged> {
        let limit = engine.cameras.get(camera)?.unchanged;
        let (change, unchanged) = self.still.compare(camera, &clip.frames, self.dim, limit)?;
        telemetry::window_change(camera, change);
        unchanged.filter(|_| limit > 0.0 && clip.coverage.gaps.is_empty())
    }

    /// One run of the model; what has finished is no longer running.
    fn turn(
        &mut self,
        engine: &Engine,
        running: &mut HashMap<Ticket, Running>,
    ) -> Result<Vec<(Running, Reply)>, ModelError> {
        let (mut finished, mut left) = (Vec::new(), Vec::new());
        let turned = self.language.turn(&mut |ticket, said| {
            let listening = match said {
                Said::Finished(reply) => {
                    finished.push((ticket, reply));
                    Listening::Yes
                }
                Said::Piece(piece) => {
                    running.get(&ticket).map_or(Listening::No, |one| one.hear(engine, piece))
                }
            };
            if listening == Listening::No {
                left.push(ticket);
            }
            listening
        });
        if let Err(error) = turned {
            return Err(failed(error, running.drain().map(|(_, running)| running.job)));
        }
        let take = |(ticket, reply)| Some((running.remove(&ticket)?, reply));
        let finished: Vec<_> = finished.into_iter().filter_map(take).collect();
        for ticket in left {
            running.remove(&ticket);
        }
        Ok(finished)
    }

    /// Tells what came of a job.
    fn finish(&mut self, engine: &Engine, running: Running, reply: Reply) {
        let Running { job, prompt, clip, .. } = running;
        match job {
            Next::Caption(camera, window) => {
                let frames = clip.frames.clone();
                let (since, whole) = (window.extent.span.from, clip.coverage.gaps.is_empty());
                let timing = timing(window.closed, window.encode, &reply);
                let caption = self.describe(prompt, window.extent.span, clip, reply, timing);
                let sequence = self.publish(engine, &camera, caption).sequence;
                if whole {
                    self.still.described(camera, &frames, self.dim, Unchanged { since, sequence });
                }
            }
            Next::Question(asked) => {
                let timing = timing(asked.came, asked.encode, &reply);
                let text = asked.text.clone();
                let mut description = self.describe(text, asked.window, clip, reply, timing);
                description.id = asked.id.clone();
                measure(&asked.camera, &description);
                asked.answered(engine, description);
            }
        }
    }

    fn publish(&self, engine: &Engine, camera: &Arc<str>, mut caption: Description) -> Arc<Event> {
        if let Some(lens) = engine.cameras.get(camera) {
            caption.skipped = lens.skipped.swap(0, Ordering::Relaxed);
        }
        telemetry::caption(camera);
        measure(camera, &caption);
        engine.journal.append(camera.clone(), Body::Caption(caption))
    }

    fn describe(
        &self,
        prompt: String,
        window: Span,
        clip: Clip,
        reply: Reply,
        timing: Timing,
    ) -> Description {
        Description {
            id: String::new(),
            prompt,
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
            skipped: 0,
            unchanged: None,
            conversation: String::new(),
            earlier_turns: 0,
            parts: Vec::new(),
            summary: None,
        }
    }
}

impl Running {
    fn hear(&self, engine: &Engine, piece: &str) -> Listening {
        let anybody = match &self.job {
            // On the way out nobody needs a caption any more.
            Next::Caption(..) => !engine.jobs().stopping,
            Next::Question(asked) => asked.hear(piece),
        };
        if anybody { Listening::Yes } else { Listening::No }
    }
}

/// What a job asks of the model.
struct Task {
    camera: Arc<str>,
    prompt: String,
    turns: Arc<[Turn]>,
    clip: Clip,
    /// New tokens.
    most: usize,
    urgency: Urgency,
}

/// `None`: no caption is wanted there, or no frames are left for it.
fn task(engine: &Engine, job: &Job) -> Option<Task> {
    Some(match job {
        Next::Caption(camera, window) => Task {
            camera: camera.clone(),
            prompt: engine.cameras.get(camera)?.prompt.clone()?,
            turns: Arc::default(),
            clip: engine.clip(camera, window.extent)?,
            most: engine.max_new_tokens,
            urgency: Urgency::Later,
        },
        Next::Question(asked) => Task {
            camera: asked.camera.clone(),
            prompt: asked.prompt.clone(),
            turns: asked.turns.clone(),
            clip: asked.clip.clone(),
            most: asked.max_new_tokens,
            urgency: Urgency::Now,
        },
    })
}

/// The model is broken: whoever waits for it is told.
fn failed(error: LanguageError, jobs: impl Iterator<Item = Job>) -> ModelError {
    let why = error.to_string();
    for job in jobs {
        if let Next::Question(asked) = job {
            let _ = asked.to.try_send(AnswerItem::Failed(AskError::Model(why.clone())));
        }
    }
    ModelError(why)
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

fn timing(since: Instant, encode: Duration, reply: &Reply) -> Timing {
    Timing {
        wait_seconds: reply.begun.saturating_duration_since(since).as_secs_f64(),
        encode_seconds: encode.as_secs_f64(),
        prefill_seconds: reply.prefill.as_secs_f64(),
        decode_seconds: reply.decode.as_secs_f64(),
        total_seconds: since.elapsed().as_secs_f64(),
    }
}

impl Engine {
    /// The next job that there is room for. With nothing in work it waits for one, and `None` says
    /// that the engine stops. Waiting questions are told of a stop in any case.
    fn next_job(&self, room: Room) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            if matches!(room, Room::Idle | Room::Any) {
                for (camera, _) in jobs.scheduler.late(self.started.elapsed()) {
                    self.skip(&camera, SkipReason::Late);
                }
            }
            let next = match room {
                _ if jobs.stopping => jobs.scheduler.take(),
                Room::Idle | Room::Any => jobs.scheduler.take(),
                Room::Question => jobs.scheduler.next_question().map(Next::Question),
                Room::Nothing => None,
            };
            telemetry::queue_length(jobs.scheduler.waiting());
            match next {
                Some(Next::Question(asked)) if asked.to.is_closed() => {}
                Some(Next::Question(asked)) if jobs.stopping => {
                    let _ = asked.to.try_send(AnswerItem::Failed(AskError::Stopping));
                }
                Some(_) if jobs.stopping => {}
                Some(next) => return Some(next),
                None if room == Room::Idle && !jobs.stopping => {
                    jobs = self.wake.wait(jobs).unwrap_or_else(PoisonError::into_inner);
                }
                None => return None,
            }
        }
    }

    /// `alone`: of its time, that in which nothing else was finished.
    fn took(&self, running: &Running, finished: Instant, alone: Duration) {
        let scheduler = &mut self.jobs().scheduler;
        scheduler.job_took(alone);
        if matches!(running.job, Next::Caption(..)) {
            scheduler.caption_took(finished - running.admitted);
        }
    }
}
