//! The cameras as the config has them, and their changes: the twins of the gRPC calls.

use axum::extract::Path;
use axum::response::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Refusal;
use super::caller::{Admin, Api};
use super::request::JsonText;
use crate::service::{CameraEdit, ConfigChange, ConfiguredCamera, Reloaded};

#[derive(Serialize, JsonSchema)]
pub struct ConfiguredCameras {
    /// The cameras of the config file, then those that were added.
    cameras: Vec<ConfiguredCamera>,
}

pub async fn list(Admin(api): Admin) -> Result<Json<ConfiguredCameras>, Refusal> {
    Ok(Json(ConfiguredCameras { cameras: api.service.configured_cameras().await? }))
}

/// A camera to add.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCamera {
    /// Name of the camera: letters, digits, `-` and `_`.
    name: String,
    /// The keys of a `[[camera]]` table as in the config file, without the name. `url` is required.
    settings: Map<String, Value>,
    /// Adds the camera although it may not answer.
    #[serde(default)]
    force: bool,
}

/// The settings of a camera that change.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangedCamera {
    /// The keys that change. `null` removes a key, so that its default applies. The others stay.
    settings: Map<String, Value>,
}

pub async fn add(Admin(api): Admin, body: JsonText) -> Result<Json<Reloaded>, Refusal> {
    let NewCamera { name, settings, force } = body.read()?;
    let settings = toml_of(settings)?;
    change(&api, name, CameraEdit::Add { settings, force }).await
}

pub async fn update(
    Admin(api): Admin,
    Path(camera): Path<String>,
    body: JsonText,
) -> Result<Json<Reloaded>, Refusal> {
    let ChangedCamera { settings } = body.read()?;
    let (reset, set): (Map<_, _>, Map<_, _>) =
        settings.into_iter().partition(|(_, value)| value.is_null());
    let reset = reset.into_iter().map(|(key, _)| key).collect();
    change(&api, camera, CameraEdit::Update { settings: toml_of(set)?, reset }).await
}

pub async fn pause(
    Admin(api): Admin,
    Path(camera): Path<String>,
) -> Result<Json<Reloaded>, Refusal> {
    change(&api, camera, CameraEdit::Pause).await
}

pub async fn resume(
    Admin(api): Admin,
    Path(camera): Path<String>,
) -> Result<Json<Reloaded>, Refusal> {
    change(&api, camera, CameraEdit::Resume).await
}

pub async fn remove(
    Admin(api): Admin,
    Path(camera): Path<String>,
) -> Result<Json<Reloaded>, Refusal> {
    change(&api, camera, CameraEdit::Remove).await
}

async fn change(api: &Api, name: String, edit: CameraEdit) -> Result<Json<Reloaded>, Refusal> {
    Ok(Json(api.service.change_config(ConfigChange::Camera { name, edit }).await?))
}

/// Writes settings as TOML.
fn toml_of(settings: Map<String, Value>) -> Result<String, Refusal> {
    for (key, value) in &settings {
        if let Err(error) = toml::Value::try_from(value) {
            let why = format!("{key}: the value cannot be written as TOML: {error}");
            return Err(Refusal::invalid(key, why));
        }
    }
    toml::to_string(&settings).map_err(|error| Refusal::invalid("settings", error.to_string()))
}
