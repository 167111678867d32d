//! Formats the trial of a rule.

use std::fmt;

use super::{clock_time, one_line};
use crate::event::{Alert, AlertPhase};
use crate::service::{Trial, TrialItem, TrialSummary, TriedResult, TriedWindow, cause_name};

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

/// Formats the summary in one line.
impl fmt::Display for TrialSummary {
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
