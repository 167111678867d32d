//! An event in short: what an agent needs to decide whether to look closer.

use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::Serialize;

use super::text;
use crate::event::{AnswerPart, Body, Coverage, Event, EventKind, FinishReason};
use crate::frame::{Span, rfc3339};

/// An event in short.
#[derive(Serialize, JsonSchema)]
pub struct EventSummary {
    /// ID of the event, `RUN.SEQUENCE`. get_event returns all of it, and get_frames its frames.
    pub event: String,
    pub kind: EventKind,
    pub camera: Arc<str>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    published_at: SystemTime,
    /// The caption or the answer; of other events, what happened.
    pub text: String,
    /// The span of time that the event is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// The share of that time that the model saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// `length` if the text was cut at the maximum number of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<FinishReason>,
    /// The question of an answer or of an alert's rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    /// Probability of yes, 0 to 1: of a scored question, or of an alert's newest window.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    /// The answer's conversation, with which a further question can follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Answers about the parts of a long range, from which the text is combined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<AnswerPart>,
    /// ID of the alert, the same in all its events.
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_id: Option<Arc<str>>,
    /// Name of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Arc<str>>,
}

impl EventSummary {
    pub fn of(event: &Event) -> EventSummary {
        let mut summary = EventSummary {
            event: event.id.to_string(),
            kind: event.body.kind(),
            camera: event.camera.clone(),
            published_at: event.published_at,
            text: text::words(&event.body),
            window: event.body.inference().map(|inference| inference.window),
            coverage: event.body.inference().map(|inference| inference.coverage.clone()),
            finish_reason: event.body.inference().map(|inference| inference.finish_reason),
            question: None,
            score: None,
            conversation: None,
            parts: Vec::new(),
            alert_id: None,
            rule: None,
        };
        match &event.body {
            Body::Caption(_) | Body::CameraStatus(_) => {}
            Body::Answer(answer) => {
                summary.question = Some(answer.inference.prompt.clone());
                summary.score = answer.yes_score;
                summary.conversation = Some(answer.conversation.clone());
                summary.parts = answer.parts.clone();
            }
            Body::Alert(alert) => {
                summary.window = Some(alert.window);
                summary.coverage = Some(alert.coverage.clone());
                summary.question = Some(alert.question.to_string());
                summary.score = Some(alert.score);
                summary.alert_id = Some(alert.alert_id.clone());
                summary.rule = Some(alert.rule.clone());
            }
            Body::RuleStatus(status) => summary.rule = Some(status.rule.clone()),
        }
        summary
    }

    /// Formats the event as a paragraph for a model.
    pub fn line(&self) -> String {
        let time = match self.window {
            Some(window) => window.clock(true),
            None => rfc3339::format(self.published_at),
        };
        let (camera, kind) = (&self.camera, text::name(self.kind));
        let mut line = format!("{camera}, {time} UTC, {kind}: {}", self.text);
        let mut notes = Vec::from([format!("event {}", self.event)]);
        notes.extend(self.coverage.as_ref().map(text::coverage));
        if self.finish_reason == Some(FinishReason::Length) {
            notes.push("cut at the maximum number of tokens".into());
        }
        notes.extend(self.conversation.as_ref().map(|name| format!("conversation {name}")));
        line += &format!(" [{}]", notes.join("; "));
        for AnswerPart { window, text, coverage } in &self.parts {
            let (text, coverage) = (text::one_line(text), text::coverage(coverage));
            line += &format!("\n  {}: {text} [{coverage}]", window.clock(false));
        }
        line
    }
}
