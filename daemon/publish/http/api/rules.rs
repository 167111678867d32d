//! The rules and their alerts.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::request::JsonText;
use super::{Api, Refusal};
use crate::event::Event;
use crate::service::RuleInfo;

#[derive(Serialize, JsonSchema)]
pub struct Rules {
    /// Every rule of the config, once for each of its cameras.
    rules: Vec<RuleInfo>,
}

pub async fn list(State(api): State<Api>) -> Json<Rules> {
    Json(Rules { rules: api.service.rules() })
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
    State(api): State<Api>,
    Path(alert): Path<String>,
    body: JsonText,
) -> Result<Json<Arc<Event>>, Refusal> {
    let Acknowledge { false_alarm } = body.read()?;
    Ok(Json(api.service.acknowledge(&alert, false_alarm)?))
}
