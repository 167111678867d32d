//! Defines one pass of the model over frames for a question. A short range takes one pass, a long
//! range one for each part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;
use crate::event::{Answer, Description, Inference};
use crate::frame::Span;
use crate::journal::EventJpeg;
use crate::language::{Schema, Turn};
use crate::service::{AnswerItem, AskError};
use crate::slowfast::Plan;
use crate::timeline::Clip;
use crate::trace_parent::TraceParent;

/// An accepted question: the data that all of its passes share.
#[derive(Clone)]
pub struct Accepted {
    pub camera: Arc<str>,
    pub id: String,
    pub text: String,
    pub conversation: String,
    /// Earlier questions and answers of the conversation.
    pub turns: Arc<[Turn]>,
    pub max_new_tokens: usize,
    /// True if the answer is the score of yes.
    pub is_scored: bool,
    /// The schema that the answer must follow. The parts of a range do not follow it.
    pub schema: Option<Arc<Schema>>,
    /// The client's span.
    pub trace_parent: Option<TraceParent>,
    pub window: Span,
    pub asked_at: Instant,
    pub to: mpsc::Sender<AnswerItem>,
}

impl Accepted {
    /// Ends the question with an error that the asker did not cause.
    pub fn fail(&self, error: AskError) {
        // An asker that has gone needs no error.
        let _ = self.to.try_send(AnswerItem::Failed(error));
    }

    /// Returns the error for a question whose frames are all gone at its turn.
    pub fn no_frames_left(&self) -> AskError {
        let why = "its frames left the buffer while they were read".into();
        AskError::NoFrames { camera: self.camera.to_string(), why }
    }
}

/// The receiver of a pass's result.
pub enum Receiver {
    /// The result is the question's answer. It is published, and its tokens are streamed.
    Asker,
    /// The result is part of a larger answer. Its tokens are streamed if `streams` is true.
    InParts { result: oneshot::Sender<Result<AnswerWithJpegs, AskError>>, streams: bool },
    /// The result is the description of an alert.
    Alert { alert_id: Arc<str>, _listener: mpsc::Receiver<AnswerItem> },
}

/// An answer with the JPEGs of its frames that are stored with it.
pub struct AnswerWithJpegs {
    pub answer: Answer,
    pub jpegs: Vec<EventJpeg>,
}

impl Receiver {
    fn streams(&self) -> bool {
        match self {
            Receiver::Asker => true,
            Receiver::InParts { streams, .. } => *streams,
            Receiver::Alert { .. } => false,
        }
    }
}

/// A pass before its frames are collected.
pub struct Pass {
    pub question: Accepted,
    pub window: Span,
    pub prompt: String,
    /// The plan by which the frames are sampled.
    pub plan: Plan,
    pub receiver: Receiver,
}

impl Pass {
    /// Creates the only pass of a question, over the whole window.
    pub fn only(question: Accepted, plan: Plan) -> Pass {
        let (window, prompt) = (question.window, question.text.clone());
        Pass { question, window, prompt, plan, receiver: Receiver::Asker }
    }

    pub fn is_wanted(&self) -> bool {
        !self.question.to.is_closed()
    }

    /// Adds the frames, so that the model can answer.
    pub fn with_clip(self, clip: Clip, encode: Duration) -> PendingQuestion {
        let Pass { question, window, prompt, plan, receiver } = self;
        let is_answer = receiver.streams();
        let turns = if is_answer { question.turns } else { Arc::default() };
        PendingQuestion {
            camera: question.camera,
            id: question.id,
            text: question.text,
            prompt,
            turns,
            conversation: question.conversation,
            max_new_tokens: question.max_new_tokens,
            is_scored: question.is_scored,
            schema: question.schema.filter(|_| is_answer),
            trace_parent: question.trace_parent,
            window,
            clip,
            plan,
            encode,
            asked_at: question.asked_at,
            to: question.to,
            receiver,
        }
    }

    /// Ends the pass with an error that the asker did not cause.
    pub fn fail(self, error: AskError) {
        fail(self.receiver, &self.question.to, error);
    }

    /// Ends the pass because none of its frames is left.
    pub fn fail_without_frames(self) {
        let error = self.question.no_frames_left();
        self.fail(error);
    }
}

/// A question with the frames of one pass, ready for the model.
pub struct PendingQuestion {
    pub camera: Arc<str>,
    pub id: String,
    /// The question as it was asked.
    pub text: String,
    /// The prompt for the model.
    pub prompt: String,
    /// Earlier questions and answers.
    pub turns: Arc<[Turn]>,
    pub conversation: String,
    pub max_new_tokens: usize,
    /// True if the answer is the score of yes.
    pub is_scored: bool,
    /// The schema that the text of this pass must follow.
    pub schema: Option<Arc<Schema>>,
    /// The client's span.
    pub trace_parent: Option<TraceParent>,
    pub window: Span,
    pub clip: Clip,
    /// The plan by which the clip was sampled.
    pub plan: Plan,
    /// Model time of encoding frames again.
    pub encode: Duration,
    pub asked_at: Instant,
    pub to: mpsc::Sender<AnswerItem>,
    pub receiver: Receiver,
}

impl PendingQuestion {
    /// Returns true for a pass of a question in parts.
    pub fn is_part(&self) -> bool {
        matches!(self.receiver, Receiver::InParts { .. })
    }

    /// Sends a piece of the answer, which may be empty. Returns true while the asker still listens.
    pub fn stream(&self, piece: &str) -> bool {
        if self.receiver.streams() && !piece.is_empty() {
            // The channel has room for the whole answer, so sending fails only if the asker has
            // left.
            let _ = self.to.try_send(AnswerItem::Token(piece.into()));
        }
        !self.to.is_closed()
    }

    /// Delivers the result. The model saw `earlier_turns` questions of the conversation with it.
    /// `yes_score` is the score of a question that is scored.
    pub fn finish(
        self,
        engine: &Engine,
        inference: Inference,
        jpegs: Vec<EventJpeg>,
        earlier_turns: u32,
        yes_score: Option<f64>,
    ) {
        if let Receiver::Alert { alert_id, .. } = &self.receiver {
            return engine.rules.described(alert_id, &description(inference));
        }
        let answer = Answer {
            inference,
            question_id: self.id,
            conversation: self.conversation,
            earlier_turns,
            parts: Vec::new(),
            summary_method: None,
            yes_score,
            schema_sha256: self.schema.map(|schema| schema.sha256().into()),
            trace_parent: self.trace_parent,
        };
        match self.receiver {
            Receiver::InParts { result, .. } => {
                drop(result.send(Ok(AnswerWithJpegs { answer, jpegs })))
            }
            Receiver::Alert { .. } => {}
            Receiver::Asker => {
                let frames = answer.inference.frames.iter().map(|frame| frame.id).collect();
                let answered = AnswerWithJpegs { answer, jpegs };
                engine.publish(&self.camera, &self.turns, Some(frames), &self.to, answered);
            }
        }
    }

    /// Fails the question with an error that the asker did not cause.
    pub fn fail(self, error: AskError) {
        fail(self.receiver, &self.to, error);
    }

    /// Rejects the question, because the model cannot process it. `why` is the reason.
    pub fn reject(self, why: String) {
        self.fail(AskError::InvalidQuestion(why));
    }
}

fn description(inference: Inference) -> Description {
    let Inference { prompt, text, window, model, devices, finish_reason, usage, timing, .. } =
        inference;
    Description { prompt, text, window, model, devices, finish_reason, usage, timing }
}

/// Sends an error. A receiver that has gone needs none.
fn fail(receiver: Receiver, to: &mpsc::Sender<AnswerItem>, error: AskError) {
    match receiver {
        Receiver::InParts { result, .. } => drop(result.send(Err(error))),
        Receiver::Alert { alert_id, .. } => {
            tracing::warn!(id = &*alert_id, "no description of the alert: {error}");
        }
        Receiver::Asker => drop(to.try_send(AnswerItem::Failed(error))),
    }
}
