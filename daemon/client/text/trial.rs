//! Formats the trial of a rule.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{clock_time, one_line};
use crate::event::{Alert, AlertPhase, GapCause};
use crate::frame::Span;
use crate::service::{Trial, TrialItem, TriedResult, TriedWindow};

/// Number of characters of the bar of a score of 1.
const BAR: f64 = 40.0;

/// Formats an item, or returns `None` for one that people do not need.
pub fn line(item: &TrialItem) -> Option<String> {
    match item {
        TrialItem::Started(trial) => Some(started(trial)),
        TrialItem::Window(window) => Some(tried_window(window)),
        TrialItem::Alert(alert) => alert_line(alert),
        TrialItem::Failed(_) => None,
    }
}

fn started(trial: &Trial) -> String {
    let Trial { camera, rule, question, thresholds, temperature, span, windows } = trial;
    let (on, off) = (thresholds.on, thresholds.off);
    let of = format!("{}/{}", thresholds.needed, thresholds.among);
    let cooldown = humantime::format_duration(thresholds.cooldown);
    format!(
        "{rule} on {camera}: {}\non {on}, off {off}, of {of}, cooldown {cooldown}, temperature \
         {temperature}\n{windows} windows, {} UTC",
        one_line(question),
        span.clock(true),
    )
}

fn tried_window(tried: &TriedWindow) -> String {
    let span = tried.window.clock(false);
    match tried.result {
        TriedResult::Score(score) => {
            let bar = "#".repeat((score * BAR).round() as usize);
            format!("{span}  {score:.2}  {bar}").trim_end().to_owned()
        }
        TriedResult::Unknown(cause) => format!("{span}     ?  unknown: {}", cause_name(cause)),
        TriedResult::OffSchedule => format!("{span}     -  off schedule"),
    }
}

fn alert_line(alert: &Alert) -> Option<String> {
    let since = clock_time(alert.started_at);
    match alert.phase {
        AlertPhase::New => {
            Some(format!("          ALERT, counted since {since}, score {:.2}", alert.score))
        }
        AlertPhase::End => {
            Some(format!("          alert of {since} ended, peak {:.2}", alert.peak_score))
        }
        AlertPhase::Update | AlertPhase::Acknowledged => None,
    }
}

/// Returns the name of a cause, as in JSON.
fn cause_name(cause: GapCause) -> String {
    serde_json::to_value(cause)
        .ok()
        .and_then(|name| Some(name.as_str()?.into()))
        .unwrap_or_default()
}

/// The numbers of a trial.
#[derive(Default, Serialize)]
#[serde(tag = "kind", rename = "trial_summary")]
pub struct Summary {
    windows: usize,
    scored: usize,
    /// Number of windows without a score, by cause.
    unknown: BTreeMap<String, usize>,
    off_schedule: usize,
    alerts: usize,
    /// True if the last alert had not ended.
    active: bool,
}

impl Summary {
    /// Counts the windows and the events of the alerts.
    pub fn of(windows: &[TriedWindow], alerts: &[Alert]) -> Summary {
        let mut summary = Summary { windows: windows.len(), ..Summary::default() };
        for window in windows {
            match window.result {
                TriedResult::Score(_) => summary.scored += 1,
                TriedResult::Unknown(cause) => {
                    *summary.unknown.entry(cause_name(cause)).or_default() += 1;
                }
                TriedResult::OffSchedule => summary.off_schedule += 1,
            }
        }
        summary.alerts = alerts.iter().filter(|alert| alert.phase == AlertPhase::New).count();
        summary.active = alerts.last().is_some_and(Alert::is_active);
        summary
    }
}

/// Formats the summary in one line.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} windows: {} scored", self.windows, self.scored)?;
        for (cause, count) in &self.unknown {
            write!(f, ", {count} unknown ({cause})")?;
        }
        if self.off_schedule > 0 {
            write!(f, ", {} off schedule", self.off_schedule)?;
        }
        let active = if self.active { ", the last one still active" } else { "" };
        match self.alerts {
            1 => write!(f, "; 1 alert{active}"),
            alerts => write!(f, "; {alerts} alerts{active}"),
        }
    }
}

/// The JSON of an item.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ItemJson<'a> {
    Trial {
        camera: &'a str,
        rule: &'a str,
        question: &'a str,
        on: f64,
        off: f64,
        of: String,
        cooldown_seconds: f64,
        hold_seconds: f64,
        temperature: f64,
        span: Span,
        windows: u32,
    },
    TriedWindow {
        window: Span,
        #[serde(flatten)]
        result: ResultJson,
    },
    TriedAlert(&'a Alert),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultJson {
    Score(f64),
    Unknown(GapCause),
    OffSchedule(bool),
}

/// Returns the JSON of an item, or `None` for an error.
pub fn json(item: &TrialItem) -> Option<ItemJson<'_>> {
    match item {
        TrialItem::Started(trial) => {
            let Trial { camera, rule, question, thresholds, temperature, span, windows } = &**trial;
            Some(ItemJson::Trial {
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
            })
        }
        TrialItem::Window(TriedWindow { window, result }) => Some(ItemJson::TriedWindow {
            window: *window,
            result: match result {
                TriedResult::Score(score) => ResultJson::Score(*score),
                TriedResult::Unknown(cause) => ResultJson::Unknown(*cause),
                TriedResult::OffSchedule => ResultJson::OffSchedule(true),
            },
        }),
        TrialItem::Alert(alert) => Some(ItemJson::TriedAlert(alert)),
        TrialItem::Failed(_) => None,
    }
}
