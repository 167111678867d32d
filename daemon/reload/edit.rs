//! Changes the drop-in of a camera.

use std::time::Duration;

use toml::{Table, Value};

use super::{Plan, Reloader, Target, invalid};
use crate::camera;
use crate::config::{Config, ConfigError, DropIn, drop_in};
use crate::service::{CameraEdit, ReloadError};

/// Maximum time for the first frame of a camera that is added.
const FIRST_FRAME: Duration = Duration::from_secs(10);

impl Reloader {
    /// Checks a change of a camera and stores it. Nothing has changed if this fails.
    pub(super) fn edit(
        &self,
        name: &str,
        edit: &CameraEdit,
    ) -> Result<(Plan, Vec<Target>), ReloadError> {
        drop_in::check_name(name).map_err(bad_camera)?;
        let text = std::fs::read_to_string(&self.file)
            .map_err(|e| invalid(format!("{}: cannot be read: {e}", self.file.display())))?;
        let present = self.read()?;
        let mut drop_ins = present.drop_ins().map_err(invalid)?;
        let of_file = drop_in::camera_in(&text, name).map_err(invalid)?;
        let before = drop_ins.get(name).map(|DropIn(keys)| keys.clone());
        if of_file.is_none() && before.is_none() && !matches!(edit, CameraEdit::Add { .. }) {
            return Err(ReloadError::CameraNotFound(name.into()));
        }
        let in_config = || {
            let line = drop_in::line_in(&text, name);
            let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
            let place = format!("{}{line}", self.file.display());
            Err(ReloadError::CameraInConfig { camera: name.into(), place })
        };
        let after = match edit {
            CameraEdit::Add { .. } if of_file.is_some() || before.is_some() => {
                return Err(ReloadError::CameraExists(name.into()));
            }
            CameraEdit::Update { .. } | CameraEdit::Remove if of_file.is_some() => {
                return in_config();
            }
            CameraEdit::Add { settings, .. } => {
                let mut keys = named(name);
                keys.extend(drop_in::settings(settings).map_err(bad_camera)?);
                Some(keys)
            }
            CameraEdit::Update { settings, reset } => {
                let mut keys = before.unwrap_or_else(|| named(name));
                for key in reset {
                    drop_in::check_key(key).map_err(bad_camera)?;
                    keys.remove(key);
                }
                keys.extend(drop_in::settings(settings).map_err(bad_camera)?);
                Some(keys)
            }
            CameraEdit::Remove => None,
            CameraEdit::Pause => paused(name, of_file.as_ref(), before, true),
            CameraEdit::Resume => paused(name, of_file.as_ref(), before, false),
        };
        let after = after.map(DropIn);
        drop_ins.set(name, after.clone());
        let folder = self.file.parent().unwrap_or(std::path::Path::new("."));
        let config = Config::parse_with(&text, folder, &drop_ins).map_err(bad_camera)?;
        if let CameraEdit::Add { force: false, .. } = edit {
            answers(&config, name)?;
        }
        let prepared = self.prepare(config)?;
        drop_in::store(&present.drop_in_folder, name, after.as_ref()).map_err(|e| {
            let folder = present.drop_in_folder.display();
            ReloadError::NotWritten(format!("drop_in_folder {folder}: {e}"))
        })?;
        Ok(prepared)
    }
}

/// Returns the drop-in of a camera that is paused or not. `None` if the config file says the same.
fn paused(name: &str, of_file: Option<&Table>, before: Option<Table>, is: bool) -> Option<Table> {
    let mut keys = before.unwrap_or_else(|| named(name));
    keys.insert("paused".into(), Value::Boolean(is));
    let Some(of_file) = of_file else { return Some(keys) };
    let in_file = of_file.get("paused").and_then(Value::as_bool).unwrap_or(false);
    if in_file == is {
        keys.remove("paused");
    }
    (keys.len() > 1).then_some(keys)
}

fn named(name: &str) -> Table {
    Table::from_iter([("name".to_owned(), Value::String(name.into()))])
}

/// Returns an error if a camera sends no frame.
fn answers(config: &Config, name: &str) -> Result<(), ReloadError> {
    let Some(camera) = config.cameras.iter().find(|camera| *camera.name == *name) else {
        return Ok(());
    };
    camera::probe(camera, FIRST_FRAME).map(drop).map_err(|error| ReloadError::CameraUnreachable {
        camera: name.into(),
        why: error.to_string(),
    })
}

fn bad_camera(error: ConfigError) -> ReloadError {
    let key = error.camera_key().map(str::to_owned);
    ReloadError::InvalidCamera { key, why: error.to_string() }
}
