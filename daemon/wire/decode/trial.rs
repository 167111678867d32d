//! Converts the protobuf of a rule's trial to the daemon's values.

use std::time::Duration;

use super::{Read, UnexpectedReply, alert, gap_cause, span};
use crate::config::Thresholds;
use crate::proto;
use crate::proto::try_rule_response::Item;
use crate::service::{Trial, TrialItem, TriedResult, TriedWindow};

pub fn trial_item(from: proto::TryRuleResponse) -> Read<TrialItem> {
    Ok(match from.item.ok_or(UnexpectedReply("item"))? {
        Item::Started(from) => TrialItem::Started(Box::new(started(from)?)),
        Item::Window(from) => TrialItem::Window(tried_window(from)?),
        Item::Alert(from) => TrialItem::Alert(Box::new(alert::alert(from)?)),
    })
}

fn started(from: proto::TriedRule) -> Read<Trial> {
    Ok(Trial {
        thresholds: Thresholds {
            on: from.on,
            off: from.off,
            needed: from.needed as usize,
            among: from.among as usize,
            cooldown: duration(from.cooldown, "cooldown")?,
            hold: duration(from.hold, "hold")?,
        },
        camera: from.camera.into(),
        rule: from.rule.into(),
        question: from.question.into(),
        temperature: from.temperature,
        span: span(from.span, "span")?,
        windows: from.windows,
    })
}

fn tried_window(from: proto::TriedWindow) -> Read<TriedWindow> {
    use proto::tried_window::Result;
    let result = match from.result {
        Some(Result::Score(score)) => TriedResult::Score(score),
        Some(Result::Unknown(cause)) => {
            let cause = proto::GapCause::try_from(cause);
            TriedResult::Unknown(gap_cause(cause.map_err(|_| UnexpectedReply("unknown"))?)?)
        }
        None => TriedResult::OffSchedule,
    };
    Ok(TriedWindow { window: span(from.window, "window")?, result })
}

fn duration(from: Option<prost_types::Duration>, field: &'static str) -> Read<Duration> {
    let duration = from.and_then(|from| Duration::try_from(from).ok());
    duration.ok_or(UnexpectedReply(field))
}
