//! Converts the trial of a rule to protobuf.

use std::time::Duration;

use super::{alert, gap_cause, span};
use crate::proto;
use crate::proto::try_rule_request::Range as TrialRange;
use crate::proto::try_rule_response::Item;
use crate::question::Range;
use crate::service::{Trial, TrialItem, TrialRequest, TriedResult, TriedWindow};

/// Converts a request. A range that a trial cannot have becomes the most recent window.
pub fn trial_request(from: &TrialRequest) -> proto::TryRuleRequest {
    let range = match from.range {
        Range::Last(last) => Some(TrialRange::Last(duration(last))),
        Range::Between { from, to } => Some(TrialRange::Between(proto::Span {
            from: Some(from.into()),
            to: to.map(Into::into),
        })),
        Range::Recent | Range::Event { .. } => None,
    };
    proto::TryRuleRequest {
        camera: from.camera.clone(),
        rule: from.rule.clone().unwrap_or_default(),
        question: from.changes.question.clone(),
        on: from.changes.on,
        off: from.changes.off,
        of: from.changes.of.clone(),
        cooldown: from.changes.cooldown.map(duration),
        hold: from.changes.hold.map(duration),
        temperature: from.changes.temperature,
        range,
    }
}

/// Converts an item, or returns `None` for an error, which has no message.
pub fn trial_item(from: &TrialItem) -> Option<proto::TryRuleResponse> {
    let item = match from {
        TrialItem::Started(trial) => Item::Started(started(trial)),
        TrialItem::Window(window) => Item::Window(tried_window(window)),
        TrialItem::Alert(of_trial) => Item::Alert(alert::alert(of_trial)),
        TrialItem::Failed(_) => return None,
    };
    Some(proto::TryRuleResponse { item: Some(item) })
}

fn started(from: &Trial) -> proto::TriedRule {
    let thresholds = &from.thresholds;
    proto::TriedRule {
        camera: from.camera.to_string(),
        rule: from.rule.to_string(),
        question: from.question.to_string(),
        on: thresholds.on,
        off: thresholds.off,
        needed: thresholds.needed as u32,
        among: thresholds.among as u32,
        cooldown: Some(duration(thresholds.cooldown)),
        hold: Some(duration(thresholds.hold)),
        temperature: from.temperature,
        span: Some(span(from.span)),
        windows: from.windows,
    }
}

fn tried_window(from: &TriedWindow) -> proto::TriedWindow {
    use proto::tried_window::Result;
    let result = match from.result {
        TriedResult::Score(score) => Some(Result::Score(score)),
        TriedResult::Unknown(cause) => Some(Result::Unknown(gap_cause(cause).into())),
        TriedResult::OffSchedule => None,
    };
    proto::TriedWindow { window: Some(span(from.window)), result }
}

fn duration(from: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(from.as_secs()).unwrap_or(i64::MAX),
        nanos: from.subsec_nanos() as i32,
    }
}
