//! Reads and checks the configuration once. A [`Config`] is valid, and nothing checks it again.
//! `configs/example.toml` describes every key.
//!
//! Each table of the file has a module: a `…Table` is the table as written, with its defaults, and
//! its `check` returns what the program uses.

mod access;
mod alert_rule;
mod buffer;
mod camera;
mod delivery;
pub mod drop_in;
mod file;
mod generate;
mod journal;
mod language;
mod listen;
mod mask;
mod model;
mod mqtt;
mod privacy_mask;
mod rules;
mod search;
mod source;
mod tls;
mod traces;
mod values;
pub mod written;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use access::{AccessControl, TokenLimits};
pub use alert_rule::{Rule, RuleChanges, RuleClip, Thresholds};
pub use buffer::{Buffer, Disk};
pub use camera::{Camera, DEFAULT_FPS, DecodeFrames};
pub use delivery::{Endpoint, Format, Ntfy, Phase, Picture, Target, Webhook};
pub use drop_in::{DropIn, DropIns};
pub use generate::{Generate, Sampling, Summary};
pub use journal::{Journal, Jpegs};
pub use language::{Language, OpenAi, Scores, Servers};
pub use listen::Listen;
pub use mask::masked;
pub use model::{Device, Model, Precision, Resize, Wording};
pub use mqtt::{ClientCertificate, Mqtt, MqttTls};
pub use search::Search;
pub use source::{Rtsp, RtspTls, Source, Transport};
pub use tls::Tls;
pub use traces::Traces;
pub use values::{Bytes, Secret};

use crate::excerpt::one_line;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub model: Model,
    /// The engine that runs the language model.
    pub language: Language,
    pub wording: Wording,
    pub generate: Generate,
    pub buffer: Buffer,
    /// The journal on disk, or `None` for one in memory.
    pub journal: Option<Journal>,
    /// The search by meaning, or `None` to search for words only.
    pub search: Option<Search>,
    /// The certificate of gRPC and HTTP.
    pub tls: Option<Tls>,
    pub grpc: Option<Listen>,
    pub http: Option<Listen>,
    /// Access control, or `None` if every client of gRPC and HTTP may do everything.
    pub access: Option<AccessControl>,
    pub mqtt: Option<Mqtt>,
    /// The collector of traces, or `None` to make no traces.
    pub traces: Option<Traces>,
    pub cameras: Vec<Camera>,
    pub rules: Vec<Rule>,
    /// The targets to which alerts are delivered.
    pub targets: Vec<Target>,
    /// Maximum time for running work to end after a stop was requested.
    pub stop_timeout: Duration,
    /// Time without progress after which a worker counts as hung.
    pub hang_timeout: Duration,
    /// Folder of the cameras that were added or paused while the daemon ran.
    pub drop_in_folder: PathBuf,
}

/// An error in one sentence: the file, the key, the value found and the value wanted. Credentials of
/// URLs are hidden, because a value at the wrong key may be a URL.
#[derive(Debug, thiserror::Error)]
#[error("{}", one_line(&masked(.0)))]
pub struct ConfigError(String);

impl ConfigError {
    /// Adds a half sentence.
    pub fn with_hint(self, hint: &str) -> ConfigError {
        ConfigError(format!("{}; {hint}", self.0))
    }

    /// Returns the key of a camera that the error is about, if its text begins with one.
    pub fn camera_key(&self) -> Option<&str> {
        let text = match self.0.strip_prefix("camera \"") {
            Some(rest) => rest.split_once("\": ")?.1,
            None => self.0.strip_prefix("camera.")?,
        };
        let is_of_key = |c: char| c.is_ascii_lowercase() || c == '_';
        let key = text.split(|c| !is_of_key(c)).next()?;
        (key == "name" || drop_in::check_key(key).is_ok()).then_some(key)
    }
}

impl Config {
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigError(format!(
                "{}: cannot be read: {e}; pass --config FILE; configs/example.toml shows every key",
                path.display()
            ))
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let of_file = |e: ConfigError| ConfigError(format!("{}: {}", path.display(), e.0));
        let config = Config::parse(&text, folder);
        // Without cameras of its own, the file may be valid with those of the drop-ins.
        let drop_in_folder = file::drop_in_folder(&text, folder).map_err(of_file)?;
        let drop_ins = DropIns::read(&drop_in_folder)?;
        if drop_ins.is_empty() {
            return config.map_err(of_file);
        }
        Config::parse_with(&text, folder, &drop_ins)
            .map_err(|e| drop_ins.name_file(of_file(e), &drop_in_folder))
    }

    /// Parses and checks a config with the cameras of drop-ins.
    pub fn parse_with(
        text: &str,
        folder: &Path,
        drop_ins: &DropIns,
    ) -> Result<Config, ConfigError> {
        file::parse_with(text, folder, drop_ins.merged(file::cameras_as_written(text)?))
    }

    /// Checks what tables require of each other and a change of one of them can break.
    pub fn check_together(&self) -> Result<(), ConfigError> {
        self.buffer.check_windows(&self.cameras)?;
        self.language.check_cameras(&self.cameras)?;
        self.buffer.check_clips(&self.rules, &self.cameras)
    }

    /// Parses and checks a config. Relative paths start at `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, ConfigError> {
        file::parse(text, folder)
    }
}
