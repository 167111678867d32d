//! Changes of the config and of cameras.

use tonic::Status;

use super::errors;
use crate::access::Entry;
use crate::service::{CameraEdit, ConfigChange, Reloaded};

pub async fn apply(entry: &Entry, change: ConfigChange) -> Result<Reloaded, Status> {
    let changed = entry.service.change_config(change).await;
    changed.map_err(|error| errors::of_reload(&error))
}

/// Changes a camera. Returns the changes, one sentence each.
pub async fn edit(entry: &Entry, name: String, edit: CameraEdit) -> Result<Vec<String>, Status> {
    Ok(apply(entry, ConfigChange::Camera { name, edit }).await?.changes)
}
