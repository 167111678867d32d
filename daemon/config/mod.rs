//! Reads and checks the configuration once. A [`Config`] is valid, and nothing checks it again.
//! `configs/example.toml` describes every key.

mod mask;
mod raw;
mod source;
mod values;
mod wires;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

pub use mask::masked;
pub use values::{Bytes, Secret, read_secret_file};

use crate::slowfast::Plan;

#[derive(Clone, Debug)]
pub struct Config {
    pub model: Model,
    pub generate: Generate,
    pub buffer: Buffer,
    pub grpc: Option<Listen>,
    pub http: Option<Listen>,
    pub mqtt: Option<Mqtt>,
    pub cameras: Vec<Camera>,
    /// Maximum time for running work to end after a stop was requested.
    pub stop_timeout: Duration,
    /// Time without progress after which a worker counts as hung.
    pub hang_timeout: Duration,
}

/// The address of an interface and its maximum number of connections.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub addr: SocketAddr,
    /// Maximum number of open connections. Further ones are closed.
    pub connections: usize,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub package: PathBuf,
    pub precision: Precision,
    /// Path of `libonnxruntime.so`, or `None` to search the usual places.
    pub onnxruntime: Option<PathBuf>,
    pub plan: Plan,
    pub wording: Wording,
    pub resize: Resize,
    pub vision_device: Device,
    pub language_device: Device,
    /// Maximum GPU memory of onnxruntime's arena, for each of the two graphs.
    pub gpu_memory: Option<Bytes>,
    pub vision_threads: usize,
    pub language_threads: usize,
    pub prefill_chunk: usize,
}

/// The text around a question.
#[derive(Clone, Debug, Default)]
pub struct Wording {
    /// The prompt, with `<image>` for the video's tokens and `{prompt}` for the question. `None`
    /// selects the package's chat template, or else its family's.
    pub template: Option<String>,
    /// Instruction for the model with every question and caption prompt. It may be empty.
    pub system_prompt: String,
    /// Start of every answer, which the model continues. It may be empty.
    pub answer_prefix: String,
}

/// The graphs of a package to run, by the suffix of their files. `None` selects the only one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    pub vision: Option<String>,
    pub embed: Option<String>,
    pub decoder: Option<String>,
}

impl Model {
    /// Creates the model settings from the keys of a `[model]` table. Relative paths start at the
    /// current folder.
    pub fn of(keys: toml::Table) -> Result<Model, ConfigError> {
        raw::model(keys)?.check(Path::new(""))
    }

    /// Returns the default numbers of threads for vision and language: a quarter and half of the
    /// cores, at least one each. The other cores decode video.
    pub fn usual_threads() -> (usize, usize) {
        threads_of(std::thread::available_parallelism().map_or(1, |cores| cores.get()))
    }
}

fn threads_of(cores: usize) -> (usize, usize) {
    ((cores / 4).clamp(1, 256), (cores / 2).clamp(1, 256))
}

impl Precision {
    /// Selects the same suffix for every graph.
    pub fn all(name: &str) -> Precision {
        let name = Some(name.to_string());
        Precision { vision: name.clone(), embed: name.clone(), decoder: name }
    }
}

/// The way to make a frame square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Stretches the frame to the model's size, as the paper does.
    Stretch,
    /// Puts the frame on a square canvas first.
    Pad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
    /// CUDA if it is available, otherwise the CPU. The choice is reported.
    Auto,
}

#[derive(Clone, Debug)]
pub struct Generate {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub summary: Summary,
    /// Maximum number of questions that wait for the model. Further ones are refused.
    pub max_waiting_questions: usize,
    /// Maximum size of a question's text, in bytes.
    pub question_bytes: usize,
    /// Maximum number of answers and captions that are generated together.
    pub max_concurrent_sequences: usize,
    /// Size of the cache for the common start of a window's prompts.
    pub prefix_cache_bytes: Bytes,
}

/// The way to combine the answers about the parts of a long range when no rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Summary {
    Model,
    /// The answers are listed one after the other.
    List,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    Greedy,
    /// Samples at a temperature > 0 from the smallest set of tokens whose probability reaches
    /// `top_p`.
    Nucleus {
        temperature: f32,
        top_p: f32,
        seed: u64,
    },
}

/// Limits of each camera's rolling buffer.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Limits for frames with tokens.
    pub token_age: Duration,
    pub token_bytes: Bytes,
    /// Limits for frames that have a JPEG but no tokens any more.
    pub jpeg_age: Duration,
    pub jpeg_bytes: Bytes,
    /// Limit for the tokens of re-encoded frames, shared by all cameras.
    pub reencode_cache_bytes: Bytes,
    /// Limit for full-size frames that wait to be encoded, shared by all cameras.
    pub inbox_bytes: Bytes,
    pub disk: Option<Disk>,
    /// Width in pixels of each frame's JPEG.
    pub jpeg_width: u32,
    pub jpeg_quality: u8,
}

/// The disk tier, shared by all cameras: frames that outlive memory and the daemon.
#[derive(Clone, Debug)]
pub struct Disk {
    pub folder: PathBuf,
    pub retention: Duration,
    pub bytes: Bytes,
}

#[derive(Clone, Debug)]
pub struct Mqtt {
    pub host: String,
    pub port: u16,
    pub tls: Option<MqttTls>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub client_id: String,
    /// First level of every topic, `lookout` by default.
    pub topic_prefix: String,
    /// First level of Home Assistant's discovery topics, or `None` for no discovery.
    pub discovery: Option<String>,
}

#[derive(Clone, Debug)]
pub struct MqttTls {
    /// PEM file of the authority that signed the broker's certificate, or `None` for the system's
    /// authorities.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
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
    /// Time without a frame after which a connected camera counts as stalled and is reconnected.
    pub stall_timeout: Duration,
    /// Maximum pause between two attempts to connect.
    pub max_reconnect_delay: Duration,
}

#[derive(Clone, Debug)]
pub enum Source {
    Rtsp(Rtsp),
    /// A file, played at its own speed and repeated at its end.
    File(PathBuf),
}

impl fmt::Display for Source {
    /// Writes the source without users, passwords and tokens, in any part of a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Rtsp(rtsp) => f.write_str(&masked(rtsp.url.as_str())),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

#[derive(Clone)]
pub struct Rtsp {
    /// URL without user and password. Its path and query may contain some, so it is shown only
    /// [`masked`].
    pub url: Url,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub transport: Transport,
    /// Index of the camera's video stream, from 0, or `None` for the first that can be decoded.
    pub stream: Option<usize>,
    pub tls: RtspTls,
}

impl fmt::Debug for Rtsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.url.as_str()))
    }
}

/// The transport protocol of the camera's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP, or UDP if the camera does not send over TCP.
    #[default]
    Auto,
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RtspTls {
    /// The certificate is checked against the system's authorities.
    System,
    /// The certificate is checked against the authority in this PEM file.
    Authority(PathBuf),
    /// The connection is encrypted, but the certificate is not checked: anyone may be at the other
    /// end.
    Unchecked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeFrames {
    All,
    /// Key frames alone are decoded. This is cheapest, and `fps` is at most the camera's key-frame
    /// rate.
    Keyframes,
}

/// An error in one sentence: the file, the key, the value expected and the value found.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            let mend = "name a config by --config; configs/example.toml shows every key";
            ConfigError(format!("{}: cannot be read: {e}; {mend}", path.display()))
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Config::parse(&text, folder)
            .map_err(|e| ConfigError(format!("{}: {}", path.display(), e.0)))
    }

    /// Parses and checks a config. Relative paths start at `folder`.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, ConfigError> {
        raw::parse(text)?.check(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_left_for_decoding_video() {
        let shares = [1, 2, 4, 8, 1024].map(threads_of);
        assert_eq!(shares, [(1, 1), (1, 1), (1, 2), (2, 4), (256, 256)]);
    }
}
