//! A `[[camera]]` table: where its frames come from, and how it is captioned.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::privacy_mask::{MaskTable, masks};
use super::rules::{at_least, in_range, plain_name, required, toml_error};
use super::source::{self, Source, Transport};
use crate::masks::Mask;

/// The level of MQTT topics at which the daemon publishes its own state.
const RESERVED: &str = "available";

/// Frames sampled per second, unless a camera's table says otherwise.
pub const DEFAULT_FPS: f64 = 1.0;

#[derive(Clone, Debug, PartialEq)]
pub struct Camera {
    /// Name in topics and labels: letters, digits, `-`, `_`.
    pub name: Arc<str>,
    pub source: Source,
    /// Frames sampled per second.
    pub fps: f64,
    pub window: Duration,
    /// Time between the closes of two windows.
    pub caption_interval: Duration,
    /// Maximum time from a window's close to its published caption. A later caption is skipped.
    pub max_caption_delay: Duration,
    /// Maximum change of a window that counts as unchanged; 0 captions every window.
    pub unchanged_threshold: f32,
    /// Prompt for the caption of each window, or `None` for no captions, only answers.
    pub caption_prompt: Option<String>,
    pub decode_frames: DecodeFrames,
    /// Parts of the frames that are black.
    pub masks: Vec<Mask>,
    /// Time without a frame after which a connected camera counts as stalled and is reconnected.
    pub stall_timeout: Duration,
    /// Maximum pause between two attempts to connect.
    pub max_reconnect_delay: Duration,
    /// True if the camera is not connected.
    pub is_paused: bool,
}

impl Camera {
    /// Creates a camera from the keys of a `[[camera]]` table. Relative paths start at the current
    /// folder.
    pub fn of(keys: toml::Table) -> Result<Camera, ConfigError> {
        let table: CameraTable = keys.try_into().map_err(|error: toml::de::Error| {
            ConfigError(format!("[[camera]]: {}", toml_error(error.message())))
        })?;
        table.check(Path::new(""))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeFrames {
    #[default]
    All,
    /// Key frames alone are decoded. This is cheapest, and `fps` is at most the camera's key-frame
    /// rate.
    Keyframes,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CameraTable {
    name: Option<String>,
    url: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    transport: Option<Transport>,
    stream: Option<u16>,
    ca_file: Option<PathBuf>,
    tls_verify: bool,
    fps: f64,
    #[serde(with = "humantime_serde")]
    window: Duration,
    #[serde(with = "humantime_serde")]
    caption_interval: Duration,
    #[serde(with = "humantime_serde")]
    max_caption_delay: Option<Duration>,
    unchanged_threshold: f32,
    caption_prompt: String,
    captions: bool,
    decode_frames: DecodeFrames,
    masks: Vec<MaskTable>,
    #[serde(with = "humantime_serde")]
    stall_timeout: Duration,
    #[serde(with = "humantime_serde")]
    max_reconnect_delay: Duration,
    paused: bool,
}

impl Default for CameraTable {
    fn default() -> CameraTable {
        CameraTable {
            name: None,
            url: None,
            username: None,
            password_file: None,
            transport: None,
            stream: None,
            ca_file: None,
            tls_verify: true,
            fps: DEFAULT_FPS,
            window: Duration::from_secs(50),
            caption_interval: Duration::from_secs(10),
            max_caption_delay: None,
            unchanged_threshold: 0.0,
            caption_prompt: "What is happening?".into(),
            captions: true,
            decode_frames: DecodeFrames::default(),
            masks: Vec::new(),
            stall_timeout: Duration::from_secs(5),
            max_reconnect_delay: Duration::from_secs(8),
            paused: false,
        }
    }
}

impl CameraTable {
    pub fn check(mut self, folder: &Path) -> Result<Camera, ConfigError> {
        let name = required("camera.name", self.name.take(), "a name of its own for each camera")?;
        plain_name("camera.name", &name)?;
        if name == RESERVED {
            return Err(ConfigError(format!(
                "camera.name = {name:?}: this MQTT topic is taken; rename the camera"
            )));
        }
        let of_camera = |e: ConfigError| ConfigError(format!("camera {name:?}: {}", e.0));
        self.check_rest(&name, folder).map_err(of_camera)
    }

    fn check_rest(self, name: &str, folder: &Path) -> Result<Camera, ConfigError> {
        let second = Duration::from_secs(1);
        let fps = in_range("fps", self.fps, 0.01..=60.0)?;
        let window = at_least("window", self.window, second)?;
        if window.as_secs_f64() * fps < 1.0 {
            return Err(ConfigError(format!(
                "fps = {fps}: a window of {} contains less than one frame; raise one of them",
                humantime::format_duration(window)
            )));
        }
        if self.captions && self.caption_prompt.trim().is_empty() {
            return Err(ConfigError(
                "caption_prompt is empty; for no captions set captions = false".into(),
            ));
        }
        let interval = at_least("caption_interval", self.caption_interval, second / 2)?;
        let delay = self.max_caption_delay.unwrap_or(interval);
        let source = source::Keys {
            url: required("url", self.url, "rtsp://…, rtsps://… or file:…")?,
            username: self.username,
            password_file: self.password_file,
            transport: self.transport,
            stream: self.stream,
            ca_file: self.ca_file,
            tls_verify: self.tls_verify,
        };
        Ok(Camera {
            name: name.into(),
            source: source.check(folder)?,
            fps,
            window,
            caption_interval: interval,
            max_caption_delay: at_least("max_caption_delay", delay, second / 2)?,
            unchanged_threshold: in_range(
                "unchanged_threshold",
                self.unchanged_threshold,
                0.0..=1e6,
            )?,
            caption_prompt: self.captions.then_some(self.caption_prompt),
            decode_frames: self.decode_frames,
            masks: masks(self.masks, folder)?,
            stall_timeout: at_least("stall_timeout", self.stall_timeout, second)?,
            max_reconnect_delay: at_least("max_reconnect_delay", self.max_reconnect_delay, second)?,
            is_paused: self.paused,
        })
    }
}
