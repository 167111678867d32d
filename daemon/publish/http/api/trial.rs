//! The trial of a rule on the past, as a stream of server-sent events.

use std::time::Duration;

use axum::Extension;
use axum::response::Response;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::caller::Asker;
use super::request::JsonText;
use super::stream::Sender;
use crate::config::RuleChanges;
use crate::publish::http::guard::Client;
use crate::question::{self, Draft, RawLength, RawTime};
use crate::service::{AskError, TrialItem, TrialMessage, TrialRequest, TrialStream, TrialSummary};

/// The body of a request to try a rule. What it does not set is as in the rule, or by default.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TryRule {
    /// Name of the camera.
    camera: String,
    /// Name of a rule of the config. Without it, a new rule is tried, which needs `question`.
    rule: Option<String>,
    /// The yes-or-no question.
    question: Option<String>,
    /// Score from which a window counts for an alert.
    on: Option<f64>,
    /// Score below which a window counts for the alert's end.
    off: Option<f64>,
    /// N of M windows, as `N/M`.
    of: Option<String>,
    /// Time after an alert's end without a new one, like `60s`.
    cooldown: Option<String>,
    /// Time without a scored window after which the rule is blind, like `60s`.
    hold: Option<String>,
    temperature: Option<f64>,
    /// The length of time up to now: `10m`, `00:10:00` or seconds.
    last: Option<Length>,
    /// Start of the range in RFC 3339. Without an offset it is UTC.
    from: Option<String>,
    /// End of the range in RFC 3339. Default: now.
    to: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Length {
    Seconds(f64),
    Text(String),
}

/// The message that ends the stream of a trial that failed.
#[derive(Serialize, JsonSchema)]
pub struct TrialFailed {
    /// `failed`.
    kind: &'static str,
    #[serde(flatten)]
    refusal: Refusal,
}

pub async fn try_rule(
    Asker(api): Asker,
    Extension(client): Extension<Client>,
    body: JsonText,
) -> Result<Response, Refusal> {
    let items = api.service.try_rule(read(body.read()?)?)?;
    api.stream(&client, |to| send(items, to))
}

fn read(asked: TryRule) -> Result<TrialRequest, Refusal> {
    let TryRule { camera, rule, question, on, off, of, cooldown, hold, temperature, .. } = asked;
    let last = asked.last.map(|last| match last {
        Length::Seconds(seconds) => RawLength::Seconds(seconds),
        Length::Text(text) => RawLength::Text(text),
    });
    let time = |text: Option<String>| text.map(RawTime::Text);
    let draft = Draft { last, from: time(asked.from), to: time(asked.to), ..Draft::default() };
    let range = question::range(&draft).map_err(AskError::from)?;
    let duration = |field: &str, text: Option<String>| {
        let read = |text: String| {
            humantime::parse_duration(&text).map_err(|why| {
                Refusal::invalid(
                    field,
                    format!("{field} is {text:?}; wanted a length like \"60s\": {why}"),
                )
            })
        };
        text.map(read).transpose()
    };
    let cooldown: Option<Duration> = duration("cooldown", cooldown)?;
    let hold = duration("hold", hold)?;
    let changes = RuleChanges { question, on, off, of, cooldown, hold, temperature };
    Ok(TrialRequest { camera, rule, changes, range })
}

/// Sends the items of a trial, then its summary. Dropping `items` cancels the trial.
async fn send(mut items: TrialStream, to: Sender) {
    let mut summary = TrialSummary::default();
    while let Some(item) = items.recv().await {
        summary.add(&item);
        if let TrialItem::Failed(error) = item {
            to.send(&TrialFailed { kind: "failed", refusal: error.into() }, None).await;
            return;
        }
        if let Some(message) = TrialMessage::of(&item)
            && !to.send(&message, None).await
        {
            return;
        }
    }
    to.send(&summary, None).await;
}
