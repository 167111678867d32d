//! The cameras.

use axum::extract::State;
use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use super::Api;
use crate::service::CameraInfo;

#[derive(Serialize, JsonSchema)]
pub struct Cameras {
    /// Every configured camera, in the order of the config.
    cameras: Vec<CameraInfo>,
}

pub async fn list(State(api): State<Api>) -> Json<Cameras> {
    Json(Cameras { cameras: api.service.cameras() })
}
