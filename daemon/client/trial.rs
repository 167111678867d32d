//! Tries a rule on the past: prints each window with its score, the alerts that the rule would have
//! raised, and a summary. Compares them with labels, and draws a chart.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::text::evaluation::Evaluation;
use super::text::trial;
use super::{
    ClientError, Daemon, Done, Output, Reader, Server, UnexpectedReply, json_line, quietly,
};
use crate::evaluation::Judged;
use crate::evaluation::chart::Chart;
use crate::evaluation::labels::Labels;
use crate::event::{Alert, AlertPhase};
use crate::frame::Span;
use crate::service::{
    Trial, TrialItem, TrialMessage, TrialRequest, TrialSummary, TriedResult, TriedWindow,
};
use crate::wire::{decode, encode};

/// Files of a trial.
#[derive(Default)]
pub struct TrialFiles {
    /// File of labels, with which the windows and alerts are compared.
    pub labels: Option<PathBuf>,
    /// File into which a chart is written.
    pub chart: Option<PathBuf>,
}

/// A trial that has ended.
struct Tried {
    trial: Trial,
    windows: Vec<TriedWindow>,
    /// The events of the alerts, in order.
    alerts: Vec<Alert>,
}

/// Tries a rule. Ends early if the reader of `out` goes away, which cancels the trial.
pub async fn try_rule(
    server: impl Into<Server>,
    request: &TrialRequest,
    files: &TrialFiles,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let labels = files.labels.as_deref().map(|path| Labels::read(path, &request.camera));
    let labels = labels.transpose()?;
    let mut daemon = Daemon::reach(&server.into()).await?;
    let reply = daemon.client.try_rule(encode::trial_request(request)).await;
    let mut stream = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let mut tried: Option<Tried> = None;
    let mut summary = TrialSummary::default();
    while let Some(reply) = stream.message().await.map_err(|status| daemon.failed(status))? {
        let item = decode::trial_item(reply)?;
        if quietly(print(&item, output, out).and_then(|()| out.flush()))? == Reader::Left {
            return Ok(());
        }
        summary.add(&item);
        match (item, &mut tried) {
            (TrialItem::Started(trial), None) => {
                tried = Some(Tried { trial: *trial, windows: Vec::new(), alerts: Vec::new() });
            }
            (TrialItem::Window(window), Some(tried)) => tried.windows.push(window),
            (TrialItem::Alert(alert), Some(tried)) => tried.alerts.push(*alert),
            _ => return Err(UnexpectedReply("item").into()),
        }
    }
    let tried = tried.ok_or_else(|| daemon.broken("the trial ended early".into()))?;
    if let Some(path) = &files.chart {
        write_chart(&tried, path)?;
    }
    let evaluation = labels.map(|labels| Evaluation::of(&tried.trial, &judged(&tried, &labels)));
    quietly(match output {
        Output::Text => writeln!(out, "{summary}")
            .and_then(|()| evaluation.map_or(Ok(()), |evaluation| writeln!(out, "{evaluation}"))),
        Output::Json => json_line(out, &summary)
            .and_then(|()| evaluation.map_or(Ok(()), |evaluation| json_line(out, &evaluation))),
    })
    .map(drop)
}

fn print(item: &TrialItem, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Text => trial::line(item).map_or(Ok(()), |line| writeln!(out, "{line}")),
        Output::Json => TrialMessage::of(item).map_or(Ok(()), |json| json_line(out, &json)),
    }
}

/// Returns the windows that were in the rule's schedule, with their labels.
fn judged(tried: &Tried, labels: &Labels) -> Vec<Judged> {
    let judged = |TriedWindow { window, result }: &TriedWindow| {
        let score = match result {
            TriedResult::Score(score) => Some(*score),
            TriedResult::Unknown(_) => None,
            TriedResult::OffSchedule => return None,
        };
        let truth = labels.truth(&tried.trial.camera, *window);
        Some(Judged { window: *window, score, truth })
    };
    tried.windows.iter().filter_map(judged).collect()
}

fn write_chart(tried: &Tried, path: &Path) -> Result<(), ClientError> {
    let Tried { trial, windows, alerts } = tried;
    let end = windows.last().map_or(trial.span.to, |tried| tried.window.to);
    let mut spans: Vec<Span> = Vec::new();
    for alert in alerts {
        match (alert.phase, spans.last_mut()) {
            (AlertPhase::New, _) => spans.push(Span { from: alert.started_at, to: end }),
            (AlertPhase::End, Some(span)) => span.to = alert.ended_at.unwrap_or(end),
            _ => {}
        }
    }
    let score = |tried: &TriedWindow| match tried.result {
        TriedResult::Score(score) => (tried.window.to, Some(score)),
        TriedResult::Unknown(_) | TriedResult::OffSchedule => (tried.window.to, None),
    };
    let scores: Vec<(SystemTime, Option<f64>)> = windows.iter().map(score).collect();
    let chart = Chart {
        title: &format!("{} on {}: {}", trial.rule, trial.camera, trial.question),
        span: Span { from: trial.span.from, to: end },
        thresholds: trial.thresholds,
        scores: &scores,
        alerts: &spans,
    };
    std::fs::write(path, chart.svg())
        .map_err(|why| ClientError::Write { to: path.display().to_string(), why })
}
