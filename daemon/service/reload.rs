//! The requests to read the config again or to change a camera of it, and their results.

use std::fmt;
use std::pin::Pin;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::Code;

/// A change of the config while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Reads the config file again.
    Reload,
    /// Changes the drop-in of a camera.
    Camera { name: String, edit: CameraEdit },
}

/// A change of one camera. Settings are keys of its table, in TOML.
#[derive(Clone, PartialEq, Eq)]
pub enum CameraEdit {
    /// Adds the camera. Unless `force` is set, it must send a frame.
    Add {
        settings: String,
        force: bool,
    },
    /// Changes settings, and removes the keys in `reset`, so that their defaults apply.
    Update {
        settings: String,
        reset: Vec<String>,
    },
    Pause,
    Resume,
    Remove,
}

impl CameraEdit {
    /// Returns the name of the change in the audit log.
    pub fn action(&self) -> &'static str {
        match self {
            CameraEdit::Add { .. } => "add_camera",
            CameraEdit::Update { .. } => "update_camera",
            CameraEdit::Pause => "pause_camera",
            CameraEdit::Resume => "resume_camera",
            CameraEdit::Remove => "remove_camera",
        }
    }
}

impl fmt::Debug for CameraEdit {
    /// Writes the kind only: a URL may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CameraEdit::Add { .. } => "Add",
            CameraEdit::Update { .. } => "Update",
            CameraEdit::Pause => "Pause",
            CameraEdit::Resume => "Resume",
            CameraEdit::Remove => "Remove",
        })
    }
}

/// The changes that a reload made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reloaded {
    /// One sentence per change that was applied.
    pub changes: Vec<String>,
    /// The keys whose new values need a restart. The running daemon keeps the old values.
    pub needs_restart: Vec<String>,
}

impl fmt::Display for Reloaded {
    /// Writes one line per change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() && self.needs_restart.is_empty() {
            return f.write_str("no change");
        }
        let keeps = |key| format!("{key} needs a restart; the running daemon keeps the old value");
        let lines = self.changes.iter().cloned().chain(self.needs_restart.iter().map(keeps));
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// A camera as the config has it, for those who may change it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ConfiguredCamera {
    pub name: String,
    /// The file and the line of a camera of the config file: it can be paused, but not changed or
    /// removed. `null` for a camera that was added.
    pub config_place: Option<String>,
    /// The keys of its `[[camera]]` table, without its name, a user name and the user and the
    /// password of its URL.
    pub settings: Map<String, Value>,
    /// True if there are credentials that `settings` does not show.
    pub hides_credentials: bool,
}

/// A future of the cameras of the config.
pub type ConfiguredCameras =
    Pin<Box<dyn Future<Output = Result<Vec<ConfiguredCamera>, ReloadError>> + Send>>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The new config is not valid. Nothing has changed.
    #[error("nothing was changed: {0}")]
    InvalidConfig(String),
    #[error("{why}")]
    InvalidCamera {
        /// The key that is not valid, if it is known.
        key: Option<String>,
        why: String,
    },
    #[error("the config cannot be read: {0}")]
    UnreadableConfig(String),
    #[error("no camera is named {0:?}")]
    CameraNotFound(String),
    #[error("a camera is named {0:?} already")]
    CameraExists(String),
    /// The camera is in the config file, which the daemon never writes.
    #[error("camera {camera:?} is in {place}: change it there, then reload")]
    CameraInConfig { camera: String, place: String },
    #[error("camera {camera:?}: {why}; it was not added; force adds it anyway")]
    CameraUnreachable { camera: String, why: String },
    #[error("nothing was changed: {0}")]
    NotWritten(String),
    #[error("changing the config needs a token that sees all cameras")]
    NotAllCameras,
    #[error("too many reloads wait; try again")]
    Busy,
    #[error("the daemon is starting or stopping")]
    Stopping,
}

impl ReloadError {
    pub fn code(&self) -> Code {
        match self {
            ReloadError::InvalidConfig(_)
            | ReloadError::UnreadableConfig(_)
            | ReloadError::CameraExists(_)
            | ReloadError::CameraInConfig { .. } => Code::FailedPrecondition,
            ReloadError::InvalidCamera { .. } => Code::InvalidArgument,
            ReloadError::CameraNotFound(_) => Code::NotFound,
            ReloadError::CameraUnreachable { .. } | ReloadError::NotWritten(_) => Code::Unavailable,
            ReloadError::NotAllCameras => Code::PermissionDenied,
            ReloadError::Busy => Code::ResourceExhausted,
            ReloadError::Stopping => Code::Unavailable,
        }
    }

    /// Returns the key of the camera, or `name`, that is not valid.
    pub fn key(&self) -> Option<&str> {
        match self {
            ReloadError::InvalidCamera { key, .. } => key.as_deref(),
            ReloadError::CameraExists(_) => Some("name"),
            ReloadError::CameraUnreachable { .. } => Some("url"),
            _ => None,
        }
    }

    /// Returns the reason that programs can compare.
    pub fn reason(&self) -> &'static str {
        match self {
            ReloadError::InvalidConfig(_) | ReloadError::UnreadableConfig(_) => "INVALID_CONFIG",
            ReloadError::InvalidCamera { .. } => "INVALID_CAMERA",
            ReloadError::CameraNotFound(_) => "CAMERA_NOT_FOUND",
            ReloadError::CameraExists(_) => "CAMERA_EXISTS",
            ReloadError::CameraInConfig { .. } => "CAMERA_IN_CONFIG",
            ReloadError::CameraUnreachable { .. } => "CAMERA_UNREACHABLE",
            ReloadError::NotWritten(_) => "CONFIG_NOT_WRITTEN",
            ReloadError::NotAllCameras => "NOT_ALL_CAMERAS",
            ReloadError::Busy => "TOO_MANY_RELOADS",
            ReloadError::Stopping => "STOPPING",
        }
    }
}

/// A change, and the sender of its result.
pub type ReloadRequest = (ConfigChange, oneshot::Sender<Result<Reloaded, ReloadError>>);

/// A future of a reload's result. Dropping it does not stop the reload.
pub type Reloading = Pin<Box<dyn Future<Output = Result<Reloaded, ReloadError>> + Send>>;
