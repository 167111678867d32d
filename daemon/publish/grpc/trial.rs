//! Implements TryRule: reads the request, and forwards what the trial yields.

use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;

use super::errors;
use crate::config::RuleChanges;
use crate::proto;
use crate::proto::try_rule_request::Range as TrialRange;
use crate::question::{self, Draft, RawLength, RawTime};
use crate::service::{AskError, Service, TrialItem, TrialRequest, TrialStream};
use crate::wire::encode;

/// Begins a trial. A refusal is the call's status.
pub fn begin(service: &dyn Service, request: proto::TryRuleRequest) -> Result<TrialStream, Status> {
    let request = read(request)?;
    service.try_rule(request).map_err(|error| errors::of_trial(&error))
}

/// Forwards the items of a trial until it ends. An error is the stream's status.
pub async fn forward(
    mut items: TrialStream,
    to: mpsc::Sender<Result<proto::TryRuleResponse, Status>>,
) {
    while let Some(item) = items.recv().await {
        let message = match (&item, encode::trial_item(&item)) {
            (TrialItem::Failed(error), _) => Err(errors::of_question(error)),
            (_, Some(message)) => Ok(message),
            (_, None) => continue,
        };
        if to.send(message).await.is_err() {
            return;
        }
    }
}

fn read(request: proto::TryRuleRequest) -> Result<TrialRequest, Status> {
    let mut draft = Draft::default();
    let time =
        |time: prost_types::Timestamp| RawTime::Parts { seconds: time.seconds, nanos: time.nanos };
    match request.range {
        None => {}
        Some(TrialRange::Last(prost_types::Duration { seconds, nanos })) => {
            draft.last = Some(RawLength::Parts { seconds, nanos });
        }
        Some(TrialRange::Between(proto::Span { from: None, .. })) => {
            return Err(errors::invalid("between.from", "between has no from"));
        }
        Some(TrialRange::Between(span)) => {
            (draft.from, draft.to) = (span.from.map(time), span.to.map(time));
        }
    }
    let range =
        question::range(&draft).map_err(|error| errors::of_question(&AskError::from(error)))?;
    let duration = |field: &str, from: Option<prost_types::Duration>| {
        let negative = || errors::invalid(field, &format!("{field} is negative"));
        from.map(|from| duration(from).ok_or_else(negative)).transpose()
    };
    Ok(TrialRequest {
        camera: request.camera,
        rule: Some(request.rule).filter(|name| !name.is_empty()),
        changes: RuleChanges {
            question: request.question,
            on: request.on,
            off: request.off,
            of: request.of,
            cooldown: duration("cooldown", request.cooldown)?,
            hold: duration("hold", request.hold)?,
            temperature: request.temperature,
        },
        range,
    })
}

/// Reads a length of time, the sum of both parts. Returns `None` if it is negative.
fn duration(from: prost_types::Duration) -> Option<Duration> {
    let nanoseconds = i128::from(from.seconds) * 1_000_000_000 + i128::from(from.nanos);
    let nanoseconds = u128::try_from(nanoseconds).ok()?;
    let (seconds, rest) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    Some(Duration::new(u64::try_from(seconds).ok()?, rest as u32))
}
