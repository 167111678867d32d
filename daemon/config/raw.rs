//! The config file's tables as serde reads them, and their checks, which produce a [`Config`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::wires::{RawListen, RawMqtt};
use super::*;
use crate::slowfast::Plan;

pub fn parse(text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        // A value at the wrong key may be a URL.
        ConfigError(format!("line {line}: {}", masked(&explain(error.message()))))
    })
}

/// Parses only the `[model]` table.
pub fn model(keys: toml::Table) -> Result<RawModel, ConfigError> {
    keys.try_into().map_err(|error: toml::de::Error| ConfigError(masked(&explain(error.message()))))
}

/// Shortens serde's message about an unknown key: names the nearest known key instead of all.
fn explain(message: &str) -> String {
    let message = message.replace('\n', " ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if !message.starts_with("unknown field") || quoted.len() < 2 {
        return message;
    }
    let (unknown, known) = (quoted[0], &quoted[1..]);
    let nearest = known.iter().max_by(|a, b| {
        strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b))
    });
    match nearest {
        Some(nearest) => format!("unknown key `{unknown}`; the nearest known one is `{nearest}`"),
        None => message.clone(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    model: RawModel,
    #[serde(default)]
    generate: RawGenerate,
    #[serde(default)]
    buffer: RawBuffer,
    #[serde(default)]
    grpc: RawListen,
    #[serde(default)]
    http: RawListen,
    mqtt: Option<RawMqtt>,
    #[serde(default)]
    camera: Vec<RawCamera>,
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    stop_timeout: Duration,
    #[serde(default = "two_minutes", with = "humantime_serde")]
    hang_timeout: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawModel {
    package: PathBuf,
    precision: Option<RawPrecision>,
    onnxruntime: Option<PathBuf>,
    #[serde(default = "paper")]
    plan: String,
    template: Option<String>,
    #[serde(default)]
    system_prompt: String,
    #[serde(default)]
    resize: RawResize,
    #[serde(default)]
    device: RawDevice,
    vision_device: Option<RawDevice>,
    language_device: Option<RawDevice>,
    gpu_memory: Option<Bytes>,
    vision_threads: Option<usize>,
    language_threads: Option<usize>,
    #[serde(default = "chunk")]
    prefill_chunk: usize,
}

/// One suffix for all graphs, or one for each.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "wanted one name for all graphs, or vision, embed and decoder = NAME"
)]
enum RawPrecision {
    One(String),
    Each(RawPrecisions),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPrecisions {
    vision: Option<String>,
    embed: Option<String>,
    decoder: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawResize {
    #[default]
    Stretch,
    Pad,
}

#[derive(Clone, Copy, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawDevice {
    #[default]
    Auto,
    Cpu,
    Cuda,
}

impl From<RawDevice> for Device {
    fn from(raw: RawDevice) -> Device {
        match raw {
            RawDevice::Auto => Device::Auto,
            RawDevice::Cpu => Device::Cpu,
            RawDevice::Cuda => Device::Cuda,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGenerate {
    max_new_tokens: usize,
    temperature: f32,
    top_p: f32,
    seed: u64,
    answer_prefix: String,
    summary: Summary,
    max_waiting_questions: usize,
    question_bytes: Bytes,
    max_concurrent_sequences: usize,
    prefix_cache_bytes: Bytes,
}

impl Default for RawGenerate {
    fn default() -> Self {
        RawGenerate {
            max_new_tokens: 128,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            answer_prefix: String::new(),
            summary: Summary::Model,
            max_waiting_questions: 16,
            question_bytes: Bytes::kib(8),
            max_concurrent_sequences: 4,
            prefix_cache_bytes: Bytes::gib(1),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBuffer {
    #[serde(with = "humantime_serde")]
    token_age: Duration,
    token_bytes: Bytes,
    #[serde(with = "humantime_serde")]
    jpeg_age: Duration,
    jpeg_bytes: Bytes,
    reencode_cache_bytes: Bytes,
    inbox_bytes: Bytes,
    jpeg_width: u32,
    jpeg_quality: u8,
    disk: RawDisk,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDisk {
    folder: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    retention: Duration,
    bytes: Bytes,
}

impl Default for RawDisk {
    fn default() -> Self {
        let retention = Duration::from_secs(24 * 3600);
        RawDisk { folder: None, retention, bytes: Bytes::gib(10) }
    }
}

impl Default for RawBuffer {
    fn default() -> Self {
        RawBuffer {
            disk: RawDisk::default(),
            token_age: Duration::from_secs(600),
            token_bytes: Bytes::gib(1),
            jpeg_age: Duration::from_secs(3600),
            jpeg_bytes: Bytes::mib(256),
            reencode_cache_bytes: Bytes::mib(256),
            inbox_bytes: Bytes::mib(512),
            jpeg_width: 640,
            jpeg_quality: 80,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCamera {
    name: String,
    url: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    transport: Option<Transport>,
    stream: Option<u16>,
    ca_file: Option<PathBuf>,
    #[serde(default = "yes")]
    tls_verify: bool,
    #[serde(default = "one_f64")]
    fps: f64,
    #[serde(default = "window", with = "humantime_serde")]
    window: Duration,
    #[serde(default = "ten_seconds", with = "humantime_serde")]
    caption_interval: Duration,
    #[serde(default, with = "humantime_serde")]
    max_caption_delay: Option<Duration>,
    #[serde(default)]
    unchanged_threshold: f32,
    #[serde(default = "prompt")]
    caption_prompt: String,
    #[serde(default = "yes")]
    captions: bool,
    #[serde(default)]
    decode_frames: RawDecode,
    #[serde(default = "five_seconds", with = "humantime_serde")]
    stall_timeout: Duration,
    #[serde(default = "eight_seconds", with = "humantime_serde")]
    max_reconnect_delay: Duration,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum RawDecode {
    #[default]
    All,
    Keyframes,
}

fn paper() -> String {
    "paper".into()
}
fn prompt() -> String {
    "What is happening?".into()
}
pub(super) fn yes() -> bool {
    true
}
fn one_f64() -> f64 {
    1.0
}
fn chunk() -> usize {
    512
}
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}
fn eight_seconds() -> Duration {
    Duration::from_secs(8)
}
fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}
fn two_minutes() -> Duration {
    Duration::from_secs(120)
}
fn window() -> Duration {
    Duration::from_secs(50)
}

pub(super) fn wrong<T>(sentence: String) -> Result<T, ConfigError> {
    Err(ConfigError(sentence))
}

/// Checks that a number is within its limits. The error names its key.
pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    from: T,
    to: T,
) -> Result<T, ConfigError> {
    if value >= from && value <= to {
        return Ok(value);
    }
    wrong(format!("{key} = {value}: wanted {from} to {to}"))
}

/// Maximum duration of a key, ten years. Sums of several stay within the range of every clock.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Checks that a duration is at least `least` and at most [`LONGEST`].
fn lasting(key: &str, value: Duration, least: Duration) -> Result<Duration, ConfigError> {
    let show = humantime::format_duration;
    let wanted = match value {
        _ if value < least => format!("at least \"{}\"", show(least)),
        _ if value > LONGEST => format!("at most \"{} days\"", LONGEST.as_secs() / 86_400),
        _ => return Ok(value),
    };
    wrong(format!("{key} = \"{}\": wanted {wanted}", show(value)))
}

/// Checks that a name is valid in an MQTT topic, a metric label and a gRPC request.
pub(super) fn plain_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fits) {
        return Ok(());
    }
    wrong(format!("{key} = {name:?}: wanted 1 to 64 letters, digits, `-` or `_`"))
}

impl Raw {
    pub fn check(self, folder: &Path) -> Result<Config, ConfigError> {
        if self.camera.is_empty() {
            return wrong("no [[camera]]: wanted at least one".into());
        }
        let mut names = HashSet::new();
        for camera in &self.camera {
            if !names.insert(camera.name.clone()) {
                return wrong(format!("two cameras are named {:?}", camera.name));
            }
        }
        if names.contains("available") {
            return wrong(
                "a camera cannot be named \"available\": that MQTT topic is taken".into(),
            );
        }
        let cameras: Vec<Camera> =
            self.camera.into_iter().map(|c| c.check(folder)).collect::<Result<_, _>>()?;
        let buffer = self.buffer.check(&cameras, folder)?;
        let mut model = self.model.check(folder)?;
        model.wording.answer_prefix = self.generate.answer_prefix.clone();
        Ok(Config {
            model,
            generate: self.generate.check()?,
            buffer,
            grpc: self.grpc.check("grpc", 50051, 256)?,
            http: self.http.check("http", 9090, 64)?,
            mqtt: self.mqtt.map(|mqtt| mqtt.check(folder)).transpose()?,
            cameras,
            stop_timeout: lasting("stop_timeout", self.stop_timeout, Duration::ZERO)?,
            hang_timeout: lasting("hang_timeout", self.hang_timeout, Duration::from_secs(2))?,
        })
    }
}

impl RawModel {
    pub fn check(self, folder: &Path) -> Result<Model, ConfigError> {
        let plan: Plan = self.plan.parse().map_err(|e| ConfigError(format!("model.plan: {e}")))?;
        for (template, part) in
            self.template.iter().flat_map(|text| [(text, "<image>"), (text, "{prompt}")])
        {
            let count = template.matches(part).count();
            if count != 1 {
                return wrong(format!(
                    "model.template: {part} stands there {count} times; wanted once"
                ));
            }
        }
        if let Some(bytes) = self.gpu_memory
            && bytes < Bytes::mib(64)
        {
            return wrong(format!("model.gpu_memory = \"{bytes}\": wanted at least \"64 MiB\""));
        }
        let usual = Model::usual_threads();
        Ok(Model {
            package: folder.join(self.package),
            precision: self.precision.map(RawPrecision::check).unwrap_or_default(),
            onnxruntime: self.onnxruntime.map(|path| folder.join(path)),
            plan,
            wording: Wording {
                template: self.template,
                system_prompt: self.system_prompt,
                answer_prefix: String::new(),
            },
            resize: match self.resize {
                RawResize::Stretch => Resize::Stretch,
                RawResize::Pad => Resize::Pad,
            },
            vision_device: self.vision_device.unwrap_or(self.device).into(),
            language_device: self.language_device.unwrap_or(self.device).into(),
            gpu_memory: self.gpu_memory,
            vision_threads: within(
                "model.vision_threads",
                self.vision_threads.unwrap_or(usual.0),
                1,
                256,
            )?,
            language_threads: within(
                "model.language_threads",
                self.language_threads.unwrap_or(usual.1),
                1,
                256,
            )?,
            prefill_chunk: within("model.prefill_chunk", self.prefill_chunk, 1, 65536)?,
        })
    }
}

impl RawPrecision {
    fn check(self) -> Precision {
        match self {
            RawPrecision::One(name) => Precision::all(&name),
            RawPrecision::Each(RawPrecisions { vision, embed, decoder }) => {
                Precision { vision, embed, decoder }
            }
        }
    }
}

impl RawGenerate {
    fn check(self) -> Result<Generate, ConfigError> {
        let temperature = within("generate.temperature", self.temperature, 0.0, 5.0)?;
        let top_p = within("generate.top_p", self.top_p, 0.01, 1.0)?;
        if self.question_bytes < Bytes::b(1) || self.question_bytes > Bytes::kib(64) {
            return wrong(format!(
                "generate.question_bytes = \"{}\": wanted \"1 B\" to \"64 KiB\"",
                self.question_bytes
            ));
        }
        Ok(Generate {
            max_new_tokens: within("generate.max_new_tokens", self.max_new_tokens, 1, 4096)?,
            summary: self.summary,
            max_waiting_questions: within(
                "generate.max_waiting_questions",
                self.max_waiting_questions,
                1,
                1024,
            )?,
            question_bytes: self.question_bytes.as_u64() as usize,
            max_concurrent_sequences: within(
                "generate.max_concurrent_sequences",
                self.max_concurrent_sequences,
                1,
                64,
            )?,
            prefix_cache_bytes: self.prefix_cache_bytes,
            sampling: match temperature {
                0.0 => Sampling::Greedy,
                _ => Sampling::Nucleus { temperature, top_p, seed: self.seed },
            },
        })
    }
}

impl RawBuffer {
    fn check(self, cameras: &[Camera], folder: &Path) -> Result<Buffer, ConfigError> {
        for camera in cameras {
            if self.token_age < camera.window + camera.caption_interval {
                return wrong(format!(
                    "buffer.token_age = \"{}\": camera {:?} needs its window and one step more, \"{}\"",
                    humantime::format_duration(self.token_age),
                    camera.name,
                    humantime::format_duration(camera.window + camera.caption_interval),
                ));
            }
        }
        if self.token_bytes < Bytes::mib(1) {
            return wrong(format!(
                "buffer.token_bytes = \"{}\": wanted at least \"1 MiB\"",
                self.token_bytes
            ));
        }
        if self.inbox_bytes < Bytes::mib(8) {
            return wrong(format!(
                "buffer.inbox_bytes = \"{}\": wanted at least \"8 MiB\", a frame of 1920 × 1080",
                self.inbox_bytes
            ));
        }
        let RawDisk { folder: kept_in, retention, bytes } = self.disk;
        if bytes < Bytes::mib(1) {
            return wrong(format!("buffer.disk.bytes = \"{bytes}\": wanted at least \"1 MiB\""));
        }
        let retention = lasting("buffer.disk.retention", retention, Duration::from_secs(1))?;
        let disk = |kept_in| Disk { folder: folder.join(kept_in), retention, bytes };
        Ok(Buffer {
            token_age: lasting("buffer.token_age", self.token_age, Duration::ZERO)?,
            token_bytes: self.token_bytes,
            jpeg_age: lasting("buffer.jpeg_age", self.jpeg_age, Duration::ZERO)?,
            jpeg_bytes: self.jpeg_bytes,
            reencode_cache_bytes: self.reencode_cache_bytes,
            inbox_bytes: self.inbox_bytes,
            disk: kept_in.map(disk),
            jpeg_width: within("buffer.jpeg_width", self.jpeg_width, 32, 8192)?,
            jpeg_quality: within("buffer.jpeg_quality", self.jpeg_quality, 1, 100)?,
        })
    }
}

impl RawCamera {
    fn check(self, folder: &Path) -> Result<Camera, ConfigError> {
        plain_name("camera.name", &self.name)?;
        let name = self.name.clone();
        let of_this = |e: ConfigError| ConfigError(format!("camera {name:?}: {}", e.0));
        self.check_rest(folder).map_err(of_this)
    }

    fn check_rest(self, folder: &Path) -> Result<Camera, ConfigError> {
        let second = Duration::from_secs(1);
        let fps = within("fps", self.fps, 0.01, 60.0)?;
        let window = lasting("window", self.window, second)?;
        if window.as_secs_f64() * fps < 1.0 {
            return wrong(format!("window and fps = {fps}: a window holds less than one frame"));
        }
        if self.captions && self.caption_prompt.trim().is_empty() {
            return wrong("caption_prompt is empty; for no captions set captions = false".into());
        }
        let caption_interval = lasting("caption_interval", self.caption_interval, second / 2)?;
        let source = source::Keys {
            url: self.url,
            username: self.username,
            password_file: self.password_file,
            transport: self.transport,
            stream: self.stream,
            ca_file: self.ca_file,
            tls_verify: self.tls_verify,
        };
        let source = source.check(folder)?;
        Ok(Camera {
            name: self.name.as_str().into(),
            fps,
            window,
            caption_interval,
            max_caption_delay: lasting(
                "max_caption_delay",
                self.max_caption_delay.unwrap_or(caption_interval),
                second / 2,
            )?,
            unchanged_threshold: within("unchanged_threshold", self.unchanged_threshold, 0.0, 1e6)?,
            caption_prompt: self.captions.then_some(self.caption_prompt),
            decode_frames: match self.decode_frames {
                RawDecode::All => DecodeFrames::All,
                RawDecode::Keyframes => DecodeFrames::Keyframes,
            },
            stall_timeout: lasting("stall_timeout", self.stall_timeout, second)?,
            max_reconnect_delay: lasting("max_reconnect_delay", self.max_reconnect_delay, second)?,
            source,
        })
    }
}
