//! The tool that tries a rule on the past.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arguments::{self, RangeText};
use super::tool::{Call, Reply, Tool};
use crate::access::Role;
use crate::config::RuleChanges;
use crate::event::{Alert, AlertPhase, ScorePoint};
use crate::frame::{Span, rfc3339};
use crate::publish::http::refusal::Refusal;
use crate::service::{
    AskError, Trial, TrialItem, TrialRequest, TrialStream, TrialSummary, TriedResult, TriedWindow,
};

/// Maximum number of points of a curve.
const POINTS: usize = 200;

pub struct TryRule;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arguments {
    /// Name of the camera.
    camera: String,
    /// Name of a rule, as list_rules returns it. Needed unless a question is given.
    rule: Option<String>,
    /// A question that is answered by yes or no, such as "Is a person in the picture?". It replaces
    /// that of the rule.
    question: Option<String>,
    #[schemars(description = arguments::LAST)]
    last: Option<String>,
    #[schemars(description = arguments::FROM)]
    from: Option<String>,
    #[schemars(description = arguments::TO)]
    to: Option<String>,
    /// Score from which a window counts for an alert, 0 to 1.
    on: Option<f64>,
    /// Score below which a window counts for the alert's end.
    off: Option<f64>,
    /// Number of windows that must agree, and among how many of the newest, such as "2/3".
    of: Option<String>,
    /// Time after the end of an alert without a new one, such as "1m".
    cooldown: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub struct Tried {
    camera: Arc<str>,
    rule: Arc<str>,
    question: Arc<str>,
    on: f64,
    off: f64,
    of: String,
    /// The time of the frames that were tried. Windows without a score are its gaps.
    span: Span,
    windows: usize,
    scored: usize,
    /// Number of windows without a score, by cause.
    unknown: BTreeMap<String, usize>,
    /// Number of windows outside of the rule's schedule.
    off_schedule: usize,
    /// The alerts that the rule would have raised.
    alerts: Vec<TriedAlert>,
    /// The scores, oldest first, at most 200. Each then is the greatest of several windows.
    curve: Vec<ScorePoint>,
}

/// An alert that a rule would have raised.
#[derive(Serialize, JsonSchema)]
struct TriedAlert {
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    started_at: SystemTime,
    /// `null` if the alert had not ended.
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<rfc3339::Text>")]
    ended_at: Option<SystemTime>,
    peak_score: f64,
}

impl Tool for TryRule {
    const NAME: &str = "try_rule";
    const TITLE: &str = "Try a rule on the past";
    const ROLE: Role = Role::Ask;
    const DESCRIPTION: &str = "Scores a yes-or-no question on every window of a past time, and \
                               returns the alerts that it would have raised. Nothing is \
                               published. An hour of windows takes minutes: begin with a short \
                               time.";
    type Arguments = Arguments;
    type Output = Tried;

    async fn run(call: Call, arguments: Arguments) -> Result<Reply<Tried>, Refusal> {
        let Arguments { camera, rule, question, last, from, to, on, off, of, cooldown } = arguments;
        if rule.is_none() && question.is_none() {
            let why = "wanted a rule or a question; list_rules returns the rules";
            return Err(Refusal::invalid("rule", why));
        }
        let cooldown = cooldown.as_deref().map(duration).transpose()?;
        let changes =
            RuleChanges { question, on, off, of, cooldown, hold: None, temperature: None };
        let range = RangeText { last, from, to }.range()?;
        let _place = call.place()?;
        let items = call.service.try_rule(TrialRequest { camera, rule, changes, range })?;
        let output = collect(&call, items).await?;
        let text = summary(&output);
        Ok(Reply::new(output, text))
    }
}

fn duration(text: &str) -> Result<Duration, Refusal> {
    let wrong = |why| Refusal::invalid("cooldown", format!("cooldown is {text:?}; {why}"));
    humantime::parse_duration(text).map_err(wrong)
}

async fn collect(call: &Call, mut items: TrialStream) -> Result<Tried, Refusal> {
    let ended_early = || AskError::ModelFailedTemporarily("the trial ended early".into());
    let Some(TrialItem::Started(trial)) = items.recv().await else {
        return Err(ended_early().into());
    };
    let (mut windows, mut alerts) = (Vec::new(), Vec::new());
    let mut counts = TrialSummary::default();
    while let Some(item) = items.recv().await {
        counts.add(&item);
        match item {
            TrialItem::Started(_) => {}
            TrialItem::Window(window) => windows.push(window),
            TrialItem::Alert(alert) => alerts.push(*alert),
            TrialItem::Failed(error) => return Err(error.into()),
        }
        let done = windows.len() as u32;
        let text = || format!("{done} of {} windows", trial.windows);
        call.progress.report(done, Some(trial.windows), text).await;
    }
    if windows.len() < trial.windows as usize {
        return Err(ended_early().into());
    }
    let Trial { camera, rule, question, thresholds, span, .. } = *trial;
    let TrialSummary { windows: count, scored, unknown, off_schedule, .. } = counts;
    Ok(Tried {
        camera,
        rule,
        question,
        on: thresholds.on,
        off: thresholds.off,
        of: format!("{}/{}", thresholds.needed, thresholds.among),
        span,
        windows: count,
        scored,
        unknown,
        off_schedule,
        alerts: tried_alerts(&alerts),
        curve: curve(&windows),
    })
}

/// Returns the alerts of events.
fn tried_alerts(events: &[Alert]) -> Vec<TriedAlert> {
    let mut alerts: Vec<TriedAlert> = Vec::new();
    for Alert { phase, started_at, ended_at, peak_score, .. } in events {
        if *phase == AlertPhase::New {
            alerts.push(TriedAlert { started_at: *started_at, ended_at: None, peak_score: 0.0 });
        }
        if let Some(alert) = alerts.last_mut() {
            (alert.ended_at, alert.peak_score) = (*ended_at, *peak_score);
        }
    }
    alerts
}

/// Thins the scores out: each point is the greatest score of equally many windows.
fn curve(windows: &[TriedWindow]) -> Vec<ScorePoint> {
    let score = |window: &TriedWindow| match window.result {
        TriedResult::Score(score) => Some(score),
        TriedResult::Unknown(_) | TriedResult::OffSchedule => None,
    };
    let point = |windows: &[TriedWindow]| {
        let greatest = windows.iter().max_by(|a, b| {
            let [a, b] = [a, b].map(|window| score(window).unwrap_or(-1.0));
            a.total_cmp(&b)
        })?;
        Some(ScorePoint { at: greatest.window.to, score: score(greatest) })
    };
    windows.chunks(windows.len().div_ceil(POINTS).max(1)).filter_map(point).collect()
}

fn summary(tried: &Tried) -> String {
    let Tried { camera, rule, question, span, windows, scored, alerts, .. } = tried;
    let mut lines = vec![format!(
        "{rule} on {camera}: {question} {} UTC: {scored} of {windows} windows scored, {} alerts.",
        span.clock(true),
        alerts.len(),
    )];
    for (cause, count) in &tried.unknown {
        lines.push(format!("{count} windows without a score: {cause}."));
    }
    for TriedAlert { started_at, ended_at, peak_score } in alerts {
        let end = ended_at.map_or_else(|| "still active".to_owned(), rfc3339::format);
        let start = rfc3339::format(*started_at);
        lines.push(format!("Alert from {start} to {end}, peak score {peak_score:.2}."));
    }
    lines.join("\n")
}
