//! Accepts a question: resolves its range to a span, collects its frames and reserves its place in
//! the queue.

pub mod conversations;
mod description;
mod event_range;
pub mod frames;
mod in_parts;
mod parts;
pub mod pass;
mod range;
mod schema;

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::Engine;
use super::cameras::Camera;
use crate::config;
use crate::event::{Answer, Body, Inference};
use crate::frame::{FrameId, Span, rfc3339, shift};
use crate::language::Turn;
use crate::metrics;
use crate::question::{Detail, Question, Range};
use crate::service::{AnswerItem, AnswerStream, AskError};
use crate::sync;
use crate::timeline::{Selection, Tiers, TimeRange};

use conversations::{Conversation, Conversations};
use event_range::SeenWindow;
use frames::{QueueSlot, Recipient};
use in_parts::InParts;
use pass::{Accepted, AnswerWithJpegs, Pass};
use range::ClockRange;

impl Engine {
    /// Accepts a question, or returns the reason for a refusal.
    pub fn ask(self: &Arc<Engine>, question: Question) -> Result<AnswerStream, AskError> {
        self.enqueue(question).inspect_err(|error| metrics::question_refused(error.reason()))
    }

    fn enqueue(self: &Arc<Engine>, question: Question) -> Result<AnswerStream, AskError> {
        let Some(camera) = self.cameras.get(question.camera()) else {
            return Err(AskError::CameraNotFound(question.camera().into()));
        };
        let known = self.known(&camera.name, &question)?;
        let range = match &known {
            Some(known) => known.window.into(),
            None => self.time_range(&camera, question.range())?,
        };
        let window = range.span;
        self.is_restored(&camera, window)?;
        let selection = self.select(&camera.name, range, Tiers::All).and_then(|selection| {
            match known.as_ref().and_then(|known| known.frames.as_ref()) {
                Some(frames) => selection.just(&camera.ring(), frames),
                None => Some(selection),
            }
        });
        let selection = selection.ok_or_else(|| no_frames(&camera, window))?;
        let most = question.max_new_tokens().unwrap_or(usize::MAX).min(self.max_new_tokens);
        // The channel has room for the whole answer, so a slow asker delays nothing.
        let (to, answer) = mpsc::channel(parts::MAX_PARTS + most + 3);
        let slot = self.queue_slot()?;
        let new_name = || format!("c-{:016x}", rand::random::<u64>());
        let parts = match question.detail() {
            Detail::Overview => Vec::new(),
            // A further question uses the same frames as the first.
            Detail::Auto if known.is_some() => Vec::new(),
            Detail::Auto if parts::one_pass_is_enough(selection.available, self.plan.frames) => {
                Vec::new()
            }
            Detail::Auto | Detail::Parts => {
                // If there are no frames at an end of the range, there is nothing to split there.
                let half = camera.settings.period.0 / 2;
                let available = selection.available_span;
                let from = (available.from - half).max(window.from);
                let available = Span { from, to: (available.to + half).min(window.to) };
                let parts = parts::split(available, camera.settings.period.0, self.plan.frames);
                parts.into_iter().map(|part| range.part(part)).collect()
            }
        };
        let accepted = Accepted {
            camera: camera.name.clone(),
            id: question.id().into(),
            text: question.text().into(),
            conversation: question.conversation().map_or_else(new_name, Into::into),
            turns: known.map(|known| known.turns.into()).unwrap_or_default(),
            max_new_tokens: most,
            is_scored: question.is_scored(),
            schema: None,
            trace_parent: question.trace_parent(),
            window,
            asked_at: Instant::now(),
            to,
        };
        match question.schema() {
            Some(_)
                if parts.len() > 1 && self.answer_settings().summary == config::Summary::List =>
            {
                let why = "a range in parts has no answer by a schema, because generate.summary is \
                           \"list\"; ask with the detail \"overview\"";
                return Err(AskError::InvalidField { field: "schema", why: why.into() });
            }
            Some(schema) => {
                let (engine, schema) = (self.clone(), schema.to_owned());
                self.spawn(engine.begin_by_schema(schema, accepted, parts, selection, slot));
            }
            None if parts.len() > 1 => {
                self.spawn(self.clone().begin(accepted, parts, selection, slot));
            }
            None => {
                let pass = Pass::only(accepted, self.plan);
                self.fetch_frames(
                    selection,
                    Recipient::Question { pass: Box::new(pass), slot: Some(slot) },
                );
            }
        }
        Ok(answer)
    }

    /// Answers an accepted question part by part, or queues its only pass.
    async fn begin(
        self: Arc<Engine>,
        question: Accepted,
        parts: Vec<TimeRange>,
        selection: Selection,
        slot: QueueSlot,
    ) {
        if parts.len() > 1 {
            InParts { engine: self, question, parts, overview: selection }.run(slot).await;
        } else {
            let plan = self.plan;
            let pass = Pass::only(question, plan);
            self.fetch_frames(
                selection,
                Recipient::Question { pass: Box::new(pass), slot: Some(slot) },
            );
        }
    }

    /// Returns the conversation that a question continues, or `None` if it begins one.
    fn known(
        &self,
        camera: &Arc<str>,
        question: &Question,
    ) -> Result<Option<Conversation<Turn>>, AskError> {
        let Some(name) = question.conversation() else { return Ok(None) };
        let key = (name.to_owned(), camera.clone());
        let known = self.conversations().get(&key, Instant::now());
        if known.is_some() && question.range() != Range::Recent {
            return Err(AskError::InvalidQuestion(format!(
                "conversation {name:?} is about the window of its first question: name no range"
            )));
        }
        Ok(known)
    }

    /// Publishes an answer: adds it to the journal and the conversation, and sends it to the asker.
    /// `frames` are the frames for a further question, or `None` if that uses the whole window.
    pub(in crate::engine) fn publish(
        &self,
        camera: &Arc<str>,
        turns: &[Turn],
        frames: Option<Vec<FrameId>>,
        to: &mpsc::Sender<AnswerItem>,
        AnswerWithJpegs { answer, jpegs }: AnswerWithJpegs,
    ) {
        metrics::answer(camera);
        let Answer { inference: Inference { prompt, text, window, .. }, conversation, .. } =
            &answer;
        let turn = Turn { question: prompt.clone(), answer: text.clone() };
        let known = Conversation { window: *window, frames, turns: turns.to_vec() };
        let key = (conversation.clone(), camera.clone());
        if self.cameras.get(camera).is_some() {
            self.conversations().add(key, known, turn, Instant::now());
        }
        let event = self.journal.append_with_jpegs(camera.clone(), Body::Answer(answer), jpegs);
        // An asker that has gone needs no answer.
        let _ = to.try_send(AnswerItem::Finished(event));
    }

    fn conversations(&self) -> MutexGuard<'_, Conversations<Turn>> {
        sync::lock(&self.conversations)
    }

    /// Starts a task that answers a question in parts, or tries a rule.
    pub(in crate::engine) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut running = sync::lock(&self.tasks);
        // Finished ones are forgotten.
        while running.try_join_next().is_some() {}
        running.spawn(task);
    }

    /// Waits for the end of all tasks. They end soon after the workers do.
    pub async fn finish_tasks(&self) {
        let mut running = std::mem::take(&mut *sync::lock(&self.tasks));
        while running.join_next().await.is_some() {}
    }

    /// Reserves a place in the queue. A question in parts holds it until its end, any other
    /// question until it is in the scheduler.
    fn queue_slot(&self) -> Result<QueueSlot, AskError> {
        self.inbox.lock().retain(|fetch| fetch.is_wanted());
        let mut jobs = self.jobs();
        if jobs.stopping {
            return Err(AskError::Stopping);
        }
        let waiting = jobs.waiting_questions() + self.queue_slots.load(Ordering::Relaxed);
        if waiting >= jobs.scheduler.capacity() {
            let retry_after = jobs.scheduler.retry_after(waiting);
            return Err(AskError::QueueFull { waiting, retry_after });
        }
        Ok(QueueSlot::take(&self.queue_slots))
    }

    /// Returns the time that a range means. Recent frames are selected by the run's clock, other
    /// frames by UTC. If frames have times that are in the future by the clock, the range can
    /// include them.
    pub(in crate::engine) fn time_range(
        &self,
        camera: &Camera,
        range: Range,
    ) -> Result<TimeRange, AskError> {
        let range = match range {
            Range::Recent => ClockRange::Last(camera.settings.window),
            Range::Last(length) => ClockRange::Last(length),
            Range::Between { from, to } => ClockRange::Between { from, to },
            Range::Event { run, sequence } => {
                let (window, in_run) = self.window_of(camera, run, sequence)?;
                if let Some(in_run) = in_run {
                    return Ok(in_run);
                }
                ClockRange::Between { from: window.from, to: Some(window.to) }
            }
        };
        let now = camera.now(&self.clock);
        let mut end = now.utc;
        if let ClockRange::Between { from, to } = range
            && from.max(to.unwrap_or(from)) >= end
            && let Some(held) = camera.ring().span()
        {
            end = end.max(shift(held.to, (camera.settings.period.0 / 2).as_nanos() as i128));
        }
        let span = range::span(range, end).map_err(AskError::InvalidQuestion)?;
        Ok(match range {
            ClockRange::Last(_) => TimeRange::ending(now, span),
            ClockRange::Between { .. } => span.into(),
        })
    }

    /// Returns the window of an event, in UTC and, if possible, as a range of the run's clock.
    fn window_of(
        &self,
        camera: &Camera,
        run: Option<u64>,
        sequence: u64,
    ) -> Result<(Span, Option<TimeRange>), AskError> {
        let Some(event) = self.journal.get(run, sequence) else {
            let this = self.journal.run();
            let why = match run.filter(|run| *run != this) {
                Some(run) => format!("event {sequence} of run {run} is gone: this is run {this}"),
                None => format!("event {sequence} is not in the journal"),
            };
            return Err(AskError::NoFrames { camera: camera.name.to_string(), why });
        };
        let Some(seen) = SeenWindow::of(&event.body) else {
            return Err(AskError::InvalidQuestion(format!(
                "event {sequence} is a change of a state and has no window"
            )));
        };
        let in_run =
            (event.camera == camera.name).then(|| seen.in_run(&camera.ring(), self.run)).flatten();
        Ok((seen.window, in_run))
    }

    /// Checks that the frames of the span have been read from the disk after a start. Frames that
    /// are still to come are not a gap: the question is too early and gets an error.
    pub(in crate::engine) fn is_restored(
        &self,
        camera: &Camera,
        span: Span,
    ) -> Result<(), AskError> {
        let began = self.clock.now().utc_at(Duration::ZERO);
        let whole = camera.ring().is_whole_from(span.from, self.run, began);
        if whole || !self.restoring.load(Ordering::Relaxed) {
            return Ok(());
        }
        let why = "frames of earlier runs are still being read from disk; ask again soon".into();
        Err(AskError::NoFrames { camera: camera.name.to_string(), why })
    }
}

pub(in crate::engine) fn no_frames(camera: &Camera, span: Span) -> AskError {
    let held = camera.ring().span();
    let there = match held {
        Some(Span { from, to }) => {
            format!("there are some from {} to {}", rfc3339::format(from), rfc3339::format(to))
        }
        None => "no frame has come yet".into(),
    };
    let (from, to) = (rfc3339::format(span.from), rfc3339::format(span.to));
    let why = format!("no frames from {from} to {to}; {there}");
    AskError::NoFrames { camera: camera.name.to_string(), why }
}
