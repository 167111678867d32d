//! Says in words what events contain, for a model. Times are UTC.

use serde::Serialize;

use crate::event::{
    Alert, AlertPhase, AlertUpdate, Body, Caption, Coverage, Gap, RuleStatus, Sight, Unchanged,
};
use crate::frame::rfc3339;

/// Returns the content of an event in words.
pub fn words(body: &Body) -> String {
    match body {
        Body::Caption(Caption { unchanged: Some(Unchanged { since, event }), .. }) => {
            format!("unchanged since {} (event {event})", rfc3339::format(*since))
        }
        Body::Caption(Caption { inference, .. }) => inference.text.clone(),
        Body::Answer(answer) => answer.inference.text.clone(),
        Body::CameraStatus(status) => {
            let why = if status.reason.is_empty() { "" } else { ": " };
            format!("the camera is {}{why}{}", status.state.name(), status.reason)
        }
        Body::Alert(alert) => of_alert(alert),
        Body::RuleStatus(RuleStatus { rule, sight: Sight::Blind, .. }) => {
            format!("the rule {rule} is blind: no window could be scored")
        }
        Body::RuleStatus(RuleStatus { rule, sight: Sight::Seeing, .. }) => {
            format!("the rule {rule} sees again")
        }
    }
}

fn of_alert(alert: &Alert) -> String {
    let Alert { rule, severity, question, score, peak_score, .. } = alert;
    let what = match (alert.phase, alert.update) {
        (AlertPhase::New, _) => "began".to_owned(),
        (AlertPhase::Update, Some(AlertUpdate::Clip)) => "got its clip".into(),
        (AlertPhase::Update, Some(AlertUpdate::Description)) => "is described".into(),
        (AlertPhase::Update, _) => "continues".into(),
        (AlertPhase::End, _) => "ended".into(),
        (AlertPhase::Acknowledged, _) if alert.is_false_alarm() => "was marked as false".into(),
        (AlertPhase::Acknowledged, _) => "was acknowledged".into(),
    };
    let severity = severity.name();
    let mut text = format!(
        "the alert of rule {rule} ({severity}) {what}: {question} Score {score:.2}, peak \
         {peak_score:.2}."
    );
    if let Some(description) = &alert.description {
        text += &format!(" {}", description.text);
    }
    text
}

/// Returns how much of a time was seen, in words.
pub fn coverage(coverage: &Coverage) -> String {
    let Coverage { frames_used, frames_expected, gaps, .. } = coverage;
    let gap = |Gap { span, cause }: &Gap| format!(", gap {} ({})", span.clock(false), name(cause));
    let gaps: String = gaps.iter().map(gap).collect();
    format!("{frames_used} of {frames_expected} frames{gaps}")
}

/// Returns a value's name in JSON.
pub fn name(value: impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Returns a text without line ends.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
