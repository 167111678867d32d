//! The JSON of a trial, on every interface: a message for each of its items, and a summary.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Trial, TrialItem, TriedResult, TriedWindow};
use crate::event::{Alert, AlertPhase, GapCause};
use crate::frame::Span;

/// A message about a trial.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TrialMessage<'a> {
    /// The trial has begun.
    Trial {
        camera: &'a str,
        rule: &'a str,
        question: &'a str,
        on: f64,
        off: f64,
        /// N of M windows, as `N/M`.
        of: String,
        cooldown_seconds: f64,
        hold_seconds: f64,
        temperature: f64,
        /// Span of the frames that the camera's buffer has in the range.
        span: Span,
        /// Number of windows.
        windows: u32,
    },
    /// A window with its result.
    TriedWindow {
        window: Span,
        #[serde(flatten)]
        result: WindowResult,
    },
    /// An alert that the rule would have raised, at its beginning or its end.
    TriedAlert(&'a Alert),
}

/// The result of a window on which a rule was tried.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowResult {
    /// The score, 0 to 1.
    Score(f64),
    /// The window has no score, for this reason.
    Unknown(GapCause),
    /// The rule's schedule does not include the window.
    OffSchedule(bool),
}

impl TrialMessage<'_> {
    /// Returns the message about an item, or `None` for an error.
    pub fn of(item: &TrialItem) -> Option<TrialMessage<'_>> {
        match item {
            TrialItem::Started(trial) => Some(TrialMessage::started(trial)),
            TrialItem::Window(TriedWindow { window, result }) => Some(TrialMessage::TriedWindow {
                window: *window,
                result: match result {
                    TriedResult::Score(score) => WindowResult::Score(*score),
                    TriedResult::Unknown(cause) => WindowResult::Unknown(*cause),
                    TriedResult::OffSchedule => WindowResult::OffSchedule(true),
                },
            }),
            TrialItem::Alert(alert) => Some(TrialMessage::TriedAlert(alert)),
            TrialItem::Failed(_) => None,
        }
    }

    fn started(trial: &Trial) -> TrialMessage<'_> {
        let Trial { camera, rule, question, thresholds, temperature, span, windows } = trial;
        TrialMessage::Trial {
            camera,
            rule,
            question,
            on: thresholds.on,
            off: thresholds.off,
            of: format!("{}/{}", thresholds.needed, thresholds.among),
            cooldown_seconds: thresholds.cooldown.as_secs_f64(),
            hold_seconds: thresholds.hold.as_secs_f64(),
            temperature: *temperature,
            span: *span,
            windows: *windows,
        }
    }
}

/// The numbers of a trial.
#[derive(Default, Serialize, JsonSchema)]
#[serde(tag = "kind", rename = "trial_summary")]
pub struct TrialSummary {
    pub windows: usize,
    pub scored: usize,
    /// Number of windows without a score, by cause.
    pub unknown: BTreeMap<String, usize>,
    pub off_schedule: usize,
    pub alerts: usize,
    /// True if the last alert had not ended.
    pub active: bool,
}

impl TrialSummary {
    /// Counts an item.
    pub fn add(&mut self, item: &TrialItem) {
        match item {
            TrialItem::Window(tried) => {
                self.windows += 1;
                match tried.result {
                    TriedResult::Score(_) => self.scored += 1,
                    TriedResult::Unknown(cause) => {
                        *self.unknown.entry(cause_name(cause)).or_default() += 1;
                    }
                    TriedResult::OffSchedule => self.off_schedule += 1,
                }
            }
            TrialItem::Alert(alert) => {
                self.alerts += usize::from(alert.phase == AlertPhase::New);
                self.active = alert.is_active();
            }
            TrialItem::Started(_) | TrialItem::Failed(_) => {}
        }
    }
}

/// Returns the name of a cause, as in JSON.
pub fn cause_name(cause: GapCause) -> String {
    serde_json::to_value(cause)
        .ok()
        .and_then(|name| Some(name.as_str()?.into()))
        .unwrap_or_default()
}
