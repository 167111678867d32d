//! How a question is taken: its range made a span, its frames gathered, its place in the queue.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::recall::Seat;
use super::{Asked, Engine, Lens, range};
use crate::event::Body;
use crate::frame::{Span, rfc3339};
use crate::service::{Answer, AskError, Question, Range};
use crate::telemetry;
use crate::timeline::Tiers;

impl Engine {
    /// Takes a question, or says why not.
    pub fn ask(self: &Arc<Engine>, question: Question) -> Result<Answer, AskError> {
        self.enqueue(question).inspect_err(telemetry::question_refused)
    }

    fn enqueue(self: &Arc<Engine>, question: Question) -> Result<Answer, AskError> {
        let Some((camera, lens)) = self.cameras.get_key_value(question.camera.as_str()) else {
            return Err(AskError::NoSuchCamera(question.camera));
        };
        if question.text.trim().is_empty() {
            return Err(AskError::BadQuestion("the question is empty".into()));
        }
        let window = self.span_of(camera, lens, question.range)?;
        let chosen = self.choose(camera, window, Tiers::All);
        let chosen = chosen.ok_or_else(|| self.no_footage(camera, window))?;
        let most = question.max_new_tokens.unwrap_or(usize::MAX).min(self.max_new_tokens);
        // Room for the whole answer: an asker who reads slowly holds up nobody.
        let (to, answer) = mpsc::channel(most + 2);
        let seat = self.seat()?;
        let asked = {
            let (camera, came, to) = (camera.clone(), Instant::now(), to.clone());
            let Question { id, text, .. } = question;
            move |clip, encode| Asked {
                camera,
                id,
                text,
                max_new_tokens: most,
                window,
                clip,
                encode,
                came,
                to,
            }
        };
        self.gather(camera, to, chosen, Box::new(asked), seat);
        Ok(answer)
    }

    /// A place in the queue, for a question that first has its frames gathered.
    fn seat(&self) -> Result<Seat, AskError> {
        self.inbox.retain(|recall| !recall.nobody_waits());
        let mut jobs = self.jobs();
        if jobs.stopping {
            return Err(AskError::Stopping);
        }
        jobs.scheduler.retain(|asked| !asked.to.is_closed());
        let waiting = jobs.scheduler.questions() + self.gathering.load(Ordering::Relaxed);
        if waiting >= jobs.scheduler.capacity() {
            let retry_after = jobs.scheduler.retry_after(waiting);
            return Err(AskError::QueueFull { waiting, retry_after });
        }
        Ok(Seat::take(&self.gathering))
    }

    fn span_of(&self, camera: &str, lens: &Lens, asked: Range) -> Result<Span, AskError> {
        let asked = match asked {
            Range::Event(sequence) => self.window_of(camera, sequence)?,
            asked => asked,
        };
        range::span(asked, lens.now(), lens.window).map_err(AskError::BadQuestion)
    }

    fn window_of(&self, camera: &str, sequence: u64) -> Result<Range, AskError> {
        let Some(event) = self.journal.get(sequence) else {
            let why = format!("event {sequence} is not in the journal");
            return Err(AskError::NoFootage { camera: camera.into(), why });
        };
        match &event.body {
            Body::Caption(words) | Body::Answer(words) => {
                Ok(Range::Between { from: words.window.from, to: Some(words.window.to) })
            }
            Body::Camera(_) => Err(AskError::BadQuestion(format!(
                "event {sequence} tells of a camera's state and has no window"
            ))),
        }
    }

    fn no_footage(&self, camera: &Arc<str>, span: Span) -> AskError {
        let held = self.timeline.ring(camera).and_then(|ring| ring.held());
        let there = match held {
            Some(Span { from, to }) => {
                format!("there is some from {} to {}", rfc3339::format(from), rfc3339::format(to))
            }
            None => "no frame has come yet".into(),
        };
        let (from, to) = (rfc3339::format(span.from), rfc3339::format(span.to));
        let why = format!("no footage from {from} to {to}; {there}");
        AskError::NoFootage { camera: camera.to_string(), why }
    }
}

impl Lens {
    /// Now, in the camera's own time: just behind its newest frame, or so much later as frames
    /// have ceased to come. Before the first frame, the host's time.
    fn now(&self) -> SystemTime {
        let newest = *self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((captured_at, came)) = newest else { return SystemTime::now() };
        let silent = came.elapsed();
        let fresh = silent < self.period.0.mul_f64(2.5) + Duration::from_secs(1);
        captured_at + self.period.0 / 2 + if fresh { Duration::ZERO } else { silent }
    }
}
