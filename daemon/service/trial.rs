//! The trial of a rule on the past: its request, and what it yields.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{AskError, Code};
use crate::config::{RuleChanges, Thresholds};
use crate::event::{Alert, GapCause};
use crate::frame::Span;
use crate::question::Range;

/// Maximum number of trials at the same time.
pub const TRIALS: usize = 4;

/// A rule to try on a range of a camera's past.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialRequest {
    pub camera: String,
    /// Name of a rule of the config, or `None` for a new rule.
    pub rule: Option<String>,
    /// The settings that differ from that rule's, or from the defaults.
    pub changes: RuleChanges,
    pub range: Range,
}

/// The stream of a trial: first `Started`, then each window with the alerts that begin or end with
/// it. It ends after the last window, or with `Failed`. Dropping the receiver cancels the trial.
pub type TrialStream = mpsc::Receiver<TrialItem>;

#[derive(Clone, Debug, PartialEq)]
pub enum TrialItem {
    Started(Box<Trial>),
    Window(TriedWindow),
    Alert(Box<Alert>),
    Failed(AskError),
}

/// A trial that has begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    pub camera: Arc<str>,
    pub rule: Arc<str>,
    pub question: Arc<str>,
    pub thresholds: Thresholds,
    pub temperature: f64,
    /// Span of the frames that the camera's buffer has in the range.
    pub span: Span,
    /// Number of windows.
    pub windows: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TriedWindow {
    pub window: Span,
    pub result: TriedResult,
}

/// The result of a window on which a rule was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TriedResult {
    /// The score, with the rule's temperature.
    Score(f64),
    /// The window has no score, for this reason.
    Unknown(GapCause),
    /// The rule's schedule does not include the window.
    OffSchedule,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrialError {
    #[error("no rule is named {0:?}; `lookout rules` lists them")]
    RuleNotFound(String),
    #[error("{TRIALS} rules are being tried already; try again when one is done")]
    TooManyTrials,
    #[error("{0}")]
    InvalidRule(String),
    #[error(transparent)]
    Refused(#[from] AskError),
}

impl TrialError {
    pub fn code(&self) -> Code {
        match self {
            TrialError::RuleNotFound(_) => Code::NotFound,
            TrialError::TooManyTrials => Code::ResourceExhausted,
            TrialError::InvalidRule(_) => Code::InvalidArgument,
            TrialError::Refused(error) => error.code(),
        }
    }

    /// Returns the reason that programs can compare.
    pub fn reason(&self) -> &'static str {
        match self {
            TrialError::RuleNotFound(_) => "RULE_NOT_FOUND",
            TrialError::TooManyTrials => "TOO_MANY_TRIALS",
            TrialError::InvalidRule(_) => "INVALID_RULE",
            TrialError::Refused(error) => error.reason(),
        }
    }
}
