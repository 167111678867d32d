//! The events of rules: alerts, and changes of what a rule can see.

use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AlertClip, Coverage, Devices, FinishReason, FrameReference, Timing, Usage};
use crate::frame::{Span, rfc3339};

/// An alert as it is at one time. All events of an alert have the same ID.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Alert {
    /// A UUID (version 7), the same from the alert's first event to its last.
    pub alert_id: Arc<str>,
    /// Name of the rule.
    pub rule: Arc<str>,
    pub severity: Severity,
    /// The reason for the event.
    pub phase: AlertPhase,
    /// The rule's question.
    pub question: Arc<str>,
    /// Score of the newest window that was scored: the probability of yes, 0 to 1.
    pub score: f64,
    /// Greatest score of the alert.
    pub peak_score: f64,
    /// The newest window that was scored.
    pub window: Span,
    pub coverage: Coverage,
    /// The frames of that window that the model saw, oldest first.
    pub frames: Vec<FrameReference>,
    /// End of the first window whose score reached the rule's `on`.
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub started_at: SystemTime,
    /// End of the window that ended the alert. `None` while it is active.
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<rfc3339::Text>")]
    pub ended_at: Option<SystemTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// Number of windows that were scored, from the first that reached `on`.
    pub scored_windows: u32,
    /// Number of windows in between that could not be scored.
    pub unknown_windows: u32,
    /// Scores over time, oldest first. Those of a long alert are thinned out: each point then is
    /// the greatest score of several windows.
    pub curve: Vec<ScorePoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acknowledgement: Option<Acknowledgement>,
    /// The new content of an event with the phase `Update`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<AlertUpdate>,
    /// The answer to the rule's `describe`. `None` until the model has given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Description>,
    /// The alert's clip. `None` if the rule makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<AlertClip>,
}

impl Alert {
    pub fn is_active(&self) -> bool {
        self.ended_at.is_none()
    }

    /// Returns the time that the alert's frames and its clip show.
    pub fn shown(&self) -> Span {
        let Span { from, to } = self.window;
        match self.clip.as_ref().and_then(|clip| clip.span) {
            Some(clip) => Span { from: from.min(clip.from), to: to.max(clip.to) },
            None => self.window,
        }
    }

    /// Returns true if somebody marked the alert as false.
    pub fn is_false_alarm(&self) -> bool {
        self.acknowledgement.is_some_and(|acknowledgement| acknowledgement.false_alarm)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    #[default]
    Warning,
    Critical,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// The reason for an event of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertPhase {
    /// The alert began.
    New,
    /// The alert has something new, see `update`.
    Update,
    /// The alert ended.
    End,
    /// Somebody acknowledged the alert.
    Acknowledged,
}

impl AlertPhase {
    pub fn name(self) -> &'static str {
        match self {
            AlertPhase::New => "new",
            AlertPhase::Update => "update",
            AlertPhase::End => "end",
            AlertPhase::Acknowledged => "acknowledged",
        }
    }
}

/// The new content of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertUpdate {
    /// The scores until now.
    Scores,
    /// The description.
    Description,
    /// The clip, or the reason why there is none.
    Clip,
}

/// A text of the model about the window with which an alert began.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Description {
    /// The rule's `describe`.
    pub prompt: String,
    pub text: String,
    /// The window. Its frames and coverage are in the alert's event with the phase `New`.
    pub window: Span,
    pub model: String,
    pub devices: Devices,
    pub finish_reason: FinishReason,
    pub usage: Usage,
    pub timing: Timing,
}

/// The reason why an alert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The scores fell below the rule's `off`.
    Cleared,
    /// The rule's schedule ended.
    OffSchedule,
    /// The rule or the camera was removed.
    Removed,
}

/// A point of a score curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ScorePoint {
    /// End of the window.
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub at: SystemTime,
    /// `None` if the window could not be scored.
    pub score: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Acknowledgement {
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub at: SystemTime,
    /// True if the alert was marked as false.
    pub false_alarm: bool,
}

/// A change of whether a rule's windows can be scored.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RuleStatus {
    /// Name of the rule.
    pub rule: Arc<str>,
    pub sight: Sight,
    /// The rule is blind: end of the last window that was scored, or the first window's if none
    /// was. The rule sees: end of the window that was scored.
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub since: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sight {
    /// No window could be scored for longer than the rule's `hold`.
    Blind,
    /// Windows are scored again.
    Seeing,
}

impl Sight {
    pub fn name(self) -> &'static str {
        match self {
            Sight::Blind => "blind",
            Sight::Seeing => "seeing",
        }
    }
}
