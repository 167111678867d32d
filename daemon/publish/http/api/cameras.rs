//! The cameras.

use axum::response::Json;
use schemars::JsonSchema;
use serde::Serialize;

use super::caller::Viewer;
use crate::service::CameraInfo;

#[derive(Serialize, JsonSchema)]
pub struct Cameras {
    /// Every configured camera, in the order of the config.
    cameras: Vec<CameraInfo>,
}

pub async fn list(Viewer(api): Viewer) -> Json<Cameras> {
    Json(Cameras { cameras: api.service.cameras() })
}
