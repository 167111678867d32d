//! Formats rules and alerts.

use std::time::SystemTime;

use super::{clock_time, one_line, short, table};
use crate::event::{
    Alert, AlertClip, AlertPhase, AlertUpdate, ClipState, Description, EndReason, RuleStatus,
};
use crate::service::RuleInfo;

/// Formats the content of an alert's event, without its time and camera.
pub fn alert(alert: &Alert) -> String {
    let Alert { rule, alert_id, score, peak_score, started_at, .. } = alert;
    let since = clock_time(*started_at);
    let reason = match alert.end_reason {
        Some(EndReason::Cleared) | None => "",
        Some(EndReason::OffSchedule) => ", because its schedule ended",
        Some(EndReason::Removed) => ", because the rule or the camera was removed",
    };
    if let (Some(AlertUpdate::Description), Some(Description { text, .. })) =
        (alert.update, &alert.description)
    {
        return format!("alert {rule} of {since}: {}   [{alert_id}]", one_line(text));
    }
    let what = match (alert.phase, alert.is_false_alarm()) {
        (AlertPhase::New, _) => format!("ALERT {rule}: {}", one_line(&alert.question)),
        (AlertPhase::Update, _) => match &alert.clip {
            Some(clip) if alert.update == Some(AlertUpdate::Clip) => {
                format!("alert {rule} of {since}: {}", clip_text(clip))
            }
            _ => format!("alert {rule} continues since {since}"),
        },
        (AlertPhase::End, _) => format!("alert {rule} of {since} ended{reason}"),
        (AlertPhase::Acknowledged, false) => format!("alert {rule} of {since} acknowledged"),
        (AlertPhase::Acknowledged, true) => format!("alert {rule} of {since} marked as false"),
    };
    let severity = alert.severity.name();
    format!("{what}   [{severity}, score {score:.2}, peak {peak_score:.2}, {alert_id}]")
}

/// Formats the state of a clip that is not pending.
fn clip_text(AlertClip { state, span, bytes, reason, .. }: &AlertClip) -> String {
    if *state == ClipState::Missing {
        return format!("no clip ({reason})");
    }
    let seconds = span.map_or(0.0, |span| span.length().as_secs_f64());
    let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    format!("clip of {seconds:.1} s, {bytes} bytes{reason}")
}

/// Formats the content of a change of sight, without its time and camera.
pub fn rule_status(status: &RuleStatus) -> String {
    let since = clock_time(status.since);
    match status.sight {
        crate::event::Sight::Blind => {
            format!("rule {} is blind: no window could be scored since {since}", status.rule)
        }
        crate::event::Sight::Seeing => format!("rule {} sees again", status.rule),
    }
}

/// Formats a table with a header; lines end with `\n`.
pub fn rule_table(rules: &[RuleInfo], now: SystemTime) -> String {
    let head = ["RULE", "CAMERA", "STATE", "SCORE", "SCORED", "ALERTS TODAY", "FALSE", "QUESTION"];
    let row = |rule: &RuleInfo| {
        let blind = if rule.is_blind { ", blind" } else { "" };
        let (score, scored) = match rule.scored_at.zip(rule.score) {
            Some((at, score)) => (format!("{score:.2}"), format!("{} ago", short(now, at))),
            None => ("-".into(), "never".into()),
        };
        [
            rule.name.to_string(),
            rule.camera.to_string(),
            format!("{}{blind}", rule.state.name()),
            score,
            scored,
            rule.alerts_today.to_string(),
            rule.false_alarms_today.to_string(),
            one_line(&rule.question),
        ]
    };
    table(head, rules.iter().map(row), |_| None)
}
