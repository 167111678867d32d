//! What the user wrote, made into what the program needs, once: after [`Config`] nobody checks
//! again. Every key is described in `configs/example.toml`.

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
    /// How long running work may take to end after a stop was asked for.
    pub stop_timeout: Duration,
    /// A worker that has not moved for so long hangs.
    pub hang_timeout: Duration,
}

/// Address and number of connections of a wire that listens.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub addr: SocketAddr,
    /// The most connections at once; one more is closed.
    pub connections: usize,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub package: PathBuf,
    pub precision: Precision,
    /// `libonnxruntime.so`; `None`: where it is usually found.
    pub onnxruntime: Option<PathBuf>,
    pub plan: Plan,
    pub wording: Wording,
    pub aspect: Aspect,
    pub vision_device: Device,
    pub language_device: Device,
    /// Of the GPU's memory: what onnxruntime's arena may take for each of the two graphs.
    pub gpu_memory: Option<Bytes>,
    pub vision_threads: usize,
    pub language_threads: usize,
    pub prefill_chunk: usize,
}

/// What stands around a question.
#[derive(Clone, Debug, Default)]
pub struct Wording {
    /// The prompt, with `<image>` where the video's tokens go and `{prompt}` for the question;
    /// `None`: by the package's chat template, or by that of its family.
    pub template: Option<String>,
    /// Said to the model with every question and caption prompt; may be empty.
    pub instruction: String,
    /// What every answer begins with, put into the model's mouth; may be empty.
    pub answer_prefix: String,
}

/// Which of a package's graphs are run, by the suffix of their files; `None`: the only one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precision {
    pub vision: Option<String>,
    pub embed: Option<String>,
    pub decoder: Option<String>,
}

impl Model {
    /// As a config's `[model]` table with just these keys; paths begin at the current folder.
    pub fn of(keys: toml::Table) -> Result<Model, ConfigError> {
        raw::model(keys)?.check(Path::new(""))
    }

    /// Threads for (pictures, words) where the config says nothing: a quarter and half of the
    /// cores, at least one each. The rest decodes video.
    pub fn usual_threads() -> (usize, usize) {
        threads_of(std::thread::available_parallelism().map_or(1, |cores| cores.get()))
    }
}

fn threads_of(cores: usize) -> (usize, usize) {
    ((cores / 4).clamp(1, 256), (cores / 2).clamp(1, 256))
}

impl Precision {
    /// The same of every graph.
    pub fn all(name: &str) -> Precision {
        let name = Some(name.to_string());
        Precision { vision: name.clone(), embed: name.clone(), decoder: name }
    }
}

/// How a frame is made square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// Squashed to the model's size, as the paper does.
    Resize,
    /// Put on a square canvas first.
    Pad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
    /// CUDA where it can be had, else the CPU, and says which.
    Auto,
}

#[derive(Clone, Debug)]
pub struct Generate {
    pub max_new_tokens: usize,
    pub sampling: Sampling,
    pub summary: Summary,
    pub queue: usize,
    /// What a question's text has at most.
    pub question_bytes: usize,
    /// Answers and captions that are written together.
    pub batch: usize,
    /// For what the prompts of a window have in common.
    pub prefix_cache: Bytes,
}

/// What is made of the answers about a long range's parts, where no rule puts them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Summary {
    Model,
    /// They are told one after the other.
    List,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    Greedy,
    /// Temperature > 0, then the smallest set of tokens whose probability reaches `top_p`.
    Nucleus {
        temperature: f32,
        top_p: f32,
        seed: u64,
    },
}

/// Bounds of the rolling buffer of each camera.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Of frames with their tokens.
    pub age: Duration,
    pub bytes: Bytes,
    /// Of frames whose tokens have left, but not their JPEGs.
    pub jpeg_age: Duration,
    pub jpeg_bytes: Bytes,
    /// Of tokens of frames encoded again, of all cameras.
    pub recall_bytes: Bytes,
    /// Bound on the full-size frames of all cameras that wait to be encoded.
    pub inbox_bytes: Bytes,
    pub disk: Option<Disk>,
    /// Width in pixels of the JPEG kept of each frame.
    pub evidence_width: u32,
    pub evidence_quality: u8,
}

/// Frames of all cameras that outlive memory and the daemon.
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
    /// The first level of every topic, `lookout` by default.
    pub prefix: String,
    /// The first level of Home Assistant's discovery topics; `None`: not announced.
    pub discovery: Option<String>,
}

#[derive(Clone, Debug)]
pub struct MqttTls {
    /// PEM of the authority that signed the broker's certificate; `None`: the system's.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Camera {
    /// Used in topics and labels: letters, digits, `-`, `_`.
    pub name: Arc<str>,
    pub source: Source,
    /// Frames a second that are looked at.
    pub fps: f64,
    pub window: Duration,
    pub every: Duration,
    /// A caption is published within so long of its window's close, or not made.
    pub freshness: Duration,
    /// Change of a window up to which nothing has happened; 0: every window is described.
    pub unchanged: f32,
    /// What the model is asked about each window; `None`: no captions, questions only.
    pub prompt: Option<String>,
    pub decode: Decode,
    /// Connected and no frame for so long: stalled, and connected anew.
    pub stall_timeout: Duration,
    /// The longest pause between two attempts to connect.
    pub reconnect_max: Duration,
}

#[derive(Clone, Debug)]
pub enum Source {
    Rtsp(Rtsp),
    /// Played at its own speed, from the start again at its end.
    File(PathBuf),
}

impl fmt::Display for Source {
    /// Without users, passwords and tokens, wherever in a URL they stand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Rtsp(rtsp) => f.write_str(&masked(rtsp.url.as_str())),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

#[derive(Clone)]
pub struct Rtsp {
    /// Without user and password, but its path and query may hold some: shown only [`masked`].
    pub url: Url,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub transport: Transport,
    /// Which of the camera's video streams, from 0; `None`: the first that can be decoded.
    pub stream: Option<usize>,
    pub tls: RtspTls,
}

impl fmt::Debug for Rtsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.url.as_str()))
    }
}

/// How the camera sends its pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Over TCP; over UDP where the camera does not send over TCP.
    #[default]
    Auto,
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RtspTls {
    /// Certificate checked against the system's authorities.
    System,
    /// Certificate checked against the authority in this PEM file.
    Authority(PathBuf),
    /// Encrypted, but anyone may be at the other end.
    Unchecked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    All,
    /// Only key frames are decoded: cheapest, and `fps` is at most the camera's key-frame rate.
    Keyframes,
}

/// One sentence that names the file, the key, what was wanted and what was found.
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

    /// `folder` is where relative paths begin.
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
