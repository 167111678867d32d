//! The rules and their alerts.

use std::sync::Arc;

use axum::extract::Path;
use axum::response::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::caller::{Asker, Viewer};
use super::events::page_size;
use super::request::{JsonText, Parameters};
use crate::event::Event;
use crate::service::{AlertQuery, Code, ListedAlert, RuleInfo, Service};

#[derive(Serialize, JsonSchema)]
pub struct Rules {
    /// Every rule of the config, once for each of its cameras.
    rules: Vec<RuleInfo>,
}

pub async fn list(Viewer(api): Viewer) -> Json<Rules> {
    Json(Rules { rules: api.service.rules() })
}

/// The parameters of a list of alerts.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertsQuery {
    /// Name of a camera; may be repeated. Default: all cameras.
    #[serde(default)]
    camera: Vec<String>,
    /// Name of a rule; may be repeated. Default: all rules.
    #[serde(default)]
    rule: Vec<String>,
    /// `active` or `ended`. Default: both.
    state: Option<AlertState>,
    /// Maximum number of alerts, 50 by default and at most 200.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<usize>,
    /// ID of an alert: only alerts that began before it.
    before: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AlertState {
    Active,
    Ended,
}

/// A page of alerts.
#[derive(Serialize, JsonSchema)]
pub struct Alerts {
    /// Alerts as they are now, the one that began last first. An ended alert is left out if the
    /// journal no longer has its newest event, so that a page may have fewer than `limit`.
    alerts: Vec<ListedAlert>,
    /// The value of `before` for the next page. `null` if this is the last one.
    next_before: Option<Arc<str>>,
}

pub async fn alerts(
    Viewer(api): Viewer,
    Parameters(query): Parameters<AlertsQuery>,
) -> Result<Json<Alerts>, Refusal> {
    let AlertsQuery { camera: cameras, rule: rules, state, limit, before } = query;
    let limit = page_size(limit)?;
    api.service.require_cameras(&cameras)?;
    let is_active = state.map(|state| state == AlertState::Active);
    let query = AlertQuery { cameras, rules, is_active, before, limit: limit + 1 };
    let service = api.service.clone();
    let listed = tokio::task::spawn_blocking(move || page(&*service, &query)).await;
    listed.map(Json).map_err(|_| Refusal::new(Code::Internal, "INTERNAL", "the list has failed"))
}

fn page(service: &dyn Service, query: &AlertQuery) -> Alerts {
    let mut alerts = service.alerts(query);
    let has_more = alerts.len() == query.limit;
    if has_more {
        alerts.pop();
    }
    let last = alerts.last().map(|listed| listed.alert.alert_id.clone());
    alerts.retain(|ListedAlert { event, alert, .. }| {
        alert.is_active() || service.journal().get(Some(event.run), event.sequence).is_some()
    });
    Alerts { alerts, next_before: last.filter(|_| has_more) }
}

/// The body of an acknowledgement.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acknowledge {
    /// True if the alert is a false alarm.
    #[serde(default)]
    false_alarm: bool,
}

pub async fn acknowledge(
    Asker(api): Asker,
    Path(alert): Path<String>,
    body: JsonText,
) -> Result<Json<Arc<Event>>, Refusal> {
    let Acknowledge { false_alarm } = body.read()?;
    Ok(Json(api.service.acknowledge(&alert, false_alarm)?))
}
