//! Runs the language model. Admits jobs from the scheduler, steps the batch and delivers the
//! results.
//!
//! ```text
//! ┌► admit the jobs that there is room for ─► one step of the back end ─► deliver the results ┐
//! └───────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Guarantees:
//! - [`LanguageBackend::room`] decides which jobs are admitted.
//! - After a refused question, running answers advance by a step before the next job is taken.
//! - A job in the background is started only if the worker is idle. It is cancelled and put back if
//!   another job needs its slot.
//! - If an asker leaves, its sequence is cancelled before the next step.
//! - A job on which the model fails produces no text. An asker gets an error; a caption is skipped
//!   and counted. The next job may succeed. If none does for a while, the worker ends with an
//!   error.

mod input;
mod jobs;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::failures::Failures;
use super::job::{Job, Window};
use super::question::pass::PendingQuestion;
use super::scheduler::{Job as _, Purpose};
use crate::event::{
    Body, Caption, Devices, Event, FinishReason, FrameReference, Inference, Timing, Unchanged,
    Usage,
};
use crate::frame::{Span, rfc3339};
use crate::journal::EventJpeg;
use crate::language::{
    Failure, LanguageBackend, LanguageError, Output, PrefixFrame, Reply, Request, Scored,
    SequenceId, Task, Urgency,
};
use crate::metrics::{self, SkipReason, Stage};
use crate::model::ModelError;
use crate::service::AskError;
use crate::slowfast::{FrameTokens, assemble};
use crate::timeline::{Clip, ClipFrame};

use input::{Input, Work, input};

/// Runs a language back end: admits jobs and delivers their results.
pub struct LanguageWorker<B = Box<dyn LanguageBackend + Send>> {
    pub backend: B,
    /// Width of an embedding; 1 if frames have no tokens.
    pub dim: usize,
    /// Name of the model in events.
    pub model: String,
    pub devices: Devices,
}

/// State of a job after it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// The job is in progress.
    Running,
    /// The job is done without the model: a caption, made or skipped.
    Done,
    /// The job was refused or failed, but only after some work.
    Refused,
}

/// A job in progress.
struct Running {
    job: Job,
    prompt: String,
    /// Number of earlier questions that the model sees with it.
    turns: u32,
    clip: Clip,
    admitted: Instant,
}

/// Jobs that ended in a step.
#[derive(Default)]
struct Ended {
    finished: Vec<(Running, Reply)>,
    scored: Vec<(Running, Scored)>,
    failed: Vec<(Running, Failure)>,
}

impl<B: LanguageBackend> LanguageWorker<B> {
    /// Runs until the engine stops or the model is broken. In the latter case all waiting askers
    /// get an error.
    pub fn run(mut self, engine: &Engine) -> Result<(), ModelError> {
        let mut running = HashMap::new();
        let worked = self.work(engine, &mut running);
        if let Err(error) = &worked {
            let why = error.to_string();
            let jobs = running.into_values().map(|running: Running| running.job);
            jobs.for_each(|job| job.fail(AskError::ModelFailed(why.clone())));
            engine.broken(&why);
        }
        worked
    }

    fn work(
        &mut self,
        engine: &Engine,
        running: &mut HashMap<SequenceId, Running>,
    ) -> Result<(), ModelError> {
        let mut failures = Failures::default();
        let mut last_finished = Instant::now();
        loop {
            self.cancel_unneeded(engine, running)?;
            metrics::active_sequences(running.len());
            match engine.next_job(self.backend.room(), running.is_empty()) {
                Some(job) => {
                    self.free_slot(engine, running)?;
                    match self.start(engine, job, running, &mut failures)? {
                        Admission::Running | Admission::Done => continue,
                        Admission::Refused if running.is_empty() => continue,
                        Admission::Refused => {}
                    }
                }
                None if running.is_empty() => return Ok(()),
                None => {}
            }
            let Ended { finished, scored, failed } = self.step(running)?;
            let mut goes_on = Ok(());
            if !finished.is_empty() || !scored.is_empty() {
                failures.worked();
            } else if let Some((_, failure)) = failed.iter().find(|(_, one)| one.is_of_model()) {
                goes_on = failures.failed(Instant::now(), failure);
            }
            for (running, failure) in failed {
                engine.fail_job(running.job, failure);
            }
            let mut took = |running: &Running| {
                let since = running.admitted.max(last_finished);
                last_finished = Instant::now();
                engine.took(running, last_finished, last_finished - since);
            };
            // Scores come first, because they may be alerts.
            for (running, scored) in scored {
                took(&running);
                self.finish_scored(engine, running, scored);
            }
            for (running, reply) in finished {
                took(&running);
                self.finish(engine, running, reply);
            }
            goes_on?;
        }
    }

    /// Ends the sequences whose result nobody needs any more.
    fn cancel_unneeded(
        &mut self,
        engine: &Engine,
        running: &mut HashMap<SequenceId, Running>,
    ) -> Result<(), ModelError> {
        for (id, _) in running.extract_if(|_, one| !one.is_needed(engine)) {
            self.backend.cancel(id).map_err(|error| ModelError(error.to_string()))?;
        }
        Ok(())
    }

    /// Frees a slot if all are in use. Only a sequence in the background can be in the way then, by
    /// the back end's room. Its job is put back.
    fn free_slot(
        &mut self,
        engine: &Engine,
        running: &mut HashMap<SequenceId, Running>,
    ) -> Result<(), ModelError> {
        if running.len() < self.backend.slots() {
            return Ok(());
        }
        let is_background = |one: &Running| one.job.purpose() == Purpose::Background;
        for (id, one) in running.extract_if(|_, one| is_background(one)) {
            self.backend.cancel(id).map_err(|error| ModelError(error.to_string()))?;
            engine.jobs().scheduler.put_back(one.job);
        }
        Ok(())
    }

    /// Starts a job that was taken from the scheduler.
    fn start(
        &mut self,
        engine: &Engine,
        job: Job,
        running: &mut HashMap<SequenceId, Running>,
        failures: &mut Failures,
    ) -> Result<Admission, ModelError> {
        let Some(Input { camera, prompt, work, clip, plan, urgency }) = input(engine, &job) else {
            if let Some(window) = job.window() {
                let to = rfc3339::format(window.range.span.to);
                let (camera, result) = (&*window.camera, job.result());
                tracing::info!(camera, "no {result} of the window to {to}: no frame left");
                engine.abandon(&job, SkipReason::Gone);
            }
            return Ok(Admission::Done);
        };
        if let Job::Caption(window) = &job
            && let Some(unchanged) = self.unchanged(engine, &camera, &clip)
        {
            metrics::caption_unchanged(&camera);
            let reply = Reply {
                text: "unchanged".into(),
                ids: Vec::new(),
                finish: FinishReason::Stop,
                usage: Usage::default(),
                started: Instant::now(),
                prefill: Duration::ZERO,
                decode: Duration::ZERO,
            };
            let timing = timing(window.closed, window.encode, &reply);
            let caption = self.inference(prompt, window.range.span, clip, reply, timing);
            // The model did not run: no frame is stored.
            self.publish(engine, window, caption, Vec::new(), Some(unchanged));
            return Ok(Admission::Done);
        }
        let tokens: Vec<&FrameTokens> = clip.frames.iter().map(|look| &*look.tokens).collect();
        let prefix_frame = |(frame, look): (&FrameReference, &ClipFrame)| PrefixFrame {
            camera: camera.clone(),
            run: frame.id.run,
            number: frame.id.number,
            slow: frame.slow,
            reencoded: look.reencoded,
        };
        let video = assemble(&tokens, &plan, self.dim);
        // The prefix is shared only among frames of one plan: otherwise their rows differ. That of a
        // trial would evict those of the present.
        let shared = plan == engine.plan && urgency != Urgency::Background;
        let prefix_frames = || clip.references.iter().zip(&clip.frames).map(prefix_frame).collect();
        let jpegs = engine.jpegs_for_servers(&camera, &clip);
        let request = Request {
            video: &video,
            prefix_frames: shared.then(prefix_frames),
            jpegs: jpegs.as_deref(),
            task: match &work {
                Work::Text { turns, limits, schema } => {
                    let schema = schema.as_deref();
                    Task::Text { turns, prompt: &prompt, limits: *limits, schema }
                }
                Work::Scores { questions } => Task::Scores { questions },
            },
            urgency,
        };
        match self.backend.submit(request) {
            Ok(submitted) => {
                let admitted = Instant::now();
                let turns = submitted.turns as u32;
                running.insert(submitted.id, Running { job, prompt, turns, clip, admitted });
                Ok(Admission::Running)
            }
            Err(LanguageError::BadPrompt(why)) => match job {
                Job::Caption(_) | Job::Rules(_) => {
                    tracing::warn!(camera = &*camera, "no {}: {why}", job.result());
                    engine.abandon(&job, SkipReason::Refused);
                    Ok(Admission::Done)
                }
                Job::Question(asked) => {
                    asked.reject(why);
                    engine.jobs().scheduler.refused();
                    Ok(Admission::Refused)
                }
                Job::Trial(trial) => {
                    trial.0.fail(AskError::InvalidQuestion(why));
                    Ok(Admission::Refused)
                }
            },
            Err(LanguageError::Failed(failure)) => {
                let goes_on = if failure.is_of_model() {
                    failures.failed(Instant::now(), &failure)
                } else {
                    Ok(())
                };
                if matches!(job, Job::Question(_)) {
                    engine.jobs().scheduler.refused();
                }
                engine.fail_job(job, failure);
                goes_on.map(|()| Admission::Refused)
            }
            Err(LanguageError::Broken(why)) => {
                job.fail(AskError::ModelFailed(why.clone()));
                Err(ModelError(why))
            }
        }
    }

    /// Returns the captioned window that this one does not differ from. A window with gaps never
    /// counts as unchanged, because anything may have happened in them.
    fn unchanged(&self, engine: &Engine, camera: &Arc<str>, clip: &Clip) -> Option<Unchanged> {
        let known = engine.cameras.get(camera)?;
        let limit = known.settings.unchanged_threshold;
        let (change, unchanged) = known.change().compare(&clip.frames, self.dim, limit)?;
        metrics::window_change(camera, change);
        unchanged.filter(|_| limit > 0.0 && clip.coverage.gaps.is_empty())
    }

    /// Advances the sequences. Jobs that end are removed from `running`.
    fn step(&mut self, running: &mut HashMap<SequenceId, Running>) -> Result<Ended, ModelError> {
        let mut ended = Ended::default();
        let polled = self.backend.poll(&mut |id, output| match output {
            Output::Text(text) => {
                if let Some(Running { job: Job::Question(asked), .. }) = running.get(&id) {
                    asked.stream(text);
                }
            }
            Output::Finished(reply) => {
                ended.finished.extend(running.remove(&id).map(|one| (one, reply)));
            }
            Output::Scored(scored) => {
                ended.scored.extend(running.remove(&id).map(|one| (one, scored)));
            }
            Output::Failed(failure) => {
                ended.failed.extend(running.remove(&id).map(|one| (one, failure)));
            }
        });
        polled.map_err(|error| ModelError(error.to_string()))?;
        Ok(ended)
    }

    /// Delivers the result of a job.
    fn finish(&mut self, engine: &Engine, running: Running, reply: Reply) {
        let Running { job, prompt, turns, clip, .. } = running;
        match job {
            Job::Caption(window) => {
                let camera = &window.camera;
                let frames = clip.frames.clone();
                let (since, whole) = (window.range.span.from, clip.coverage.gaps.is_empty());
                let timing = timing(window.closed, window.encode, &reply);
                let jpegs = engine.jpegs_of(camera, &clip);
                let caption = self.inference(prompt, window.range.span, clip, reply, timing);
                let event = self.publish(engine, &window, caption, jpegs, None).id;
                if whole && let Some(known) = engine.cameras.get(camera) {
                    let window = Unchanged { since, event };
                    known.change().captioned(&frames, self.dim, window);
                }
            }
            Job::Question(asked) => {
                let timing = timing(asked.asked_at, asked.encode, &reply);
                let text = asked.text.clone();
                let jpegs = engine.jpegs_of(&asked.camera, &clip);
                let inference = self.inference(text, asked.window, clip, reply, timing);
                measure(&asked.camera, &inference);
                asked.finish(engine, inference, jpegs, turns, None);
            }
            // Rules are scored.
            Job::Rules(_) | Job::Trial(_) => {}
        }
    }

    /// Delivers the scores of a question or of rules.
    fn finish_scored(&mut self, engine: &Engine, running: Running, scored: Scored) {
        let Running { job, clip, .. } = running;
        match job {
            Job::Question(asked) => self.finish_question(engine, *asked, clip, scored),
            Job::Rules(of_window) => engine.rules_scored(*of_window, clip, scored),
            Job::Trial(trial) => {
                let (window, clip) = *trial;
                if let Some(score) = scored.scores.first() {
                    window.finish(clip, *score);
                }
            }
            // Captions have no score.
            Job::Caption(_) => {}
        }
    }

    fn finish_question(&self, engine: &Engine, asked: PendingQuestion, clip: Clip, scored: Scored) {
        let Some(score) = scored.scores.first().copied() else { return };
        let reply = Reply {
            text: if score >= 0.5 { "Yes." } else { "No." }.into(),
            ids: Vec::new(),
            finish: FinishReason::Stop,
            usage: scored.usage,
            started: scored.started,
            prefill: scored.prefill,
            decode: Duration::ZERO,
        };
        let timing = timing(asked.asked_at, asked.encode, &reply);
        let jpegs = engine.jpegs_of(&asked.camera, &clip);
        let inference = self.inference(asked.text.clone(), asked.window, clip, reply, timing);
        measure(&asked.camera, &inference);
        asked.stream(&inference.text);
        asked.finish(engine, inference, jpegs, 0, Some(score));
    }

    fn publish(
        &self,
        engine: &Engine,
        window: &Window,
        inference: Inference,
        jpegs: Vec<EventJpeg>,
        unchanged: Option<Unchanged>,
    ) -> Arc<Event> {
        let camera = &window.camera;
        let skipped_windows = engine
            .cameras
            .get(camera)
            .map_or(0, |known| known.progress.window_captioned(window.number));
        metrics::caption(camera);
        measure(camera, &inference);
        let caption = Caption { inference, skipped_windows, unchanged };
        let event = engine.journal.append_with_jpegs(camera.clone(), Body::Caption(caption), jpegs);
        // This comes after publishing, so that the camera's next caption cannot overtake this one.
        engine.jobs().scheduler.done(camera, Purpose::Caption);
        event
    }

    fn inference(
        &self,
        prompt: String,
        window: Span,
        clip: Clip,
        reply: Reply,
        timing: Timing,
    ) -> Inference {
        Inference {
            prompt,
            text: reply.text,
            window,
            coverage: clip.coverage,
            frames: clip.references,
            model: self.model.clone(),
            devices: self.devices.clone(),
            finish_reason: reply.finish,
            usage: reply.usage,
            timing,
        }
    }
}

impl Running {
    fn is_needed(&self, engine: &Engine) -> bool {
        match &self.job {
            // Nothing about a window is needed while the engine stops.
            Job::Caption(_) | Job::Rules(_) => {
                !engine.jobs().stopping && engine.cameras.get(self.job.camera()).is_some()
            }
            Job::Question(_) | Job::Trial(_) => self.job.is_wanted(),
        }
    }
}

fn measure(camera: &str, inference: &Inference) {
    let timing = &inference.timing;
    for (stage, seconds) in [
        (Stage::Wait, timing.wait_seconds),
        (Stage::Prefill, timing.prefill_seconds),
        (Stage::DecodeTokens, timing.decode_seconds),
    ] {
        metrics::stage(camera, stage, Duration::from_secs_f64(seconds));
    }
    measure_tokens(camera, inference.usage);
}

fn measure_tokens(camera: &str, usage: Usage) {
    let seen = u64::from(usage.video_tokens) + u64::from(usage.text_tokens);
    metrics::tokens(camera, seen, u64::from(usage.new_tokens));
}

fn timing(since: Instant, encode: Duration, reply: &Reply) -> Timing {
    Timing {
        wait_seconds: reply.started.saturating_duration_since(since).as_secs_f64(),
        encode_seconds: encode.as_secs_f64(),
        prefill_seconds: reply.prefill.as_secs_f64(),
        decode_seconds: reply.decode.as_secs_f64(),
        total_seconds: since.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests;
