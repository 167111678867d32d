//! The `[model]` table: the model package, and how and where it runs.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::rules::{in_range, required, size_at_least, toml_error};
use super::{Bytes, ConfigError};
use crate::slowfast::Plan;

/// Maximum number of threads of a session.
const THREADS: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub package: PathBuf,
    pub precision: Precision,
    /// Path of `libonnxruntime.so`, or `None` to search the usual places.
    pub onnxruntime: Option<PathBuf>,
    pub plan: Plan,
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
#[derive(Clone, Debug, Default, PartialEq)]
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

/// The way to make a frame square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Stretches the frame to the model's size, as the paper does.
    #[default]
    Stretch,
    /// Puts the frame on a square canvas first.
    Pad,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    Cpu,
    Cuda,
    /// CUDA if it is available, otherwise the CPU. The choice is reported.
    #[default]
    Auto,
}

impl Model {
    /// Creates the model settings from the keys of a `[model]` table. Relative paths start at the
    /// current folder.
    pub fn of(keys: toml::Table) -> Result<Model, ConfigError> {
        let table: ModelTable = keys.try_into().map_err(|error: toml::de::Error| {
            ConfigError(format!("[model]: {}", toml_error(error.message())))
        })?;
        table.check(Path::new(""))
    }

    /// Returns the default numbers of threads for vision and language: a quarter and half of the
    /// cores, at least one each. The other cores decode video.
    pub fn usual_threads() -> (usize, usize) {
        threads_of(std::thread::available_parallelism().map_or(1, |cores| cores.get()))
    }
}

fn threads_of(cores: usize) -> (usize, usize) {
    ((cores / 4).clamp(1, THREADS), (cores / 2).clamp(1, THREADS))
}

impl Precision {
    /// Selects the same suffix for every graph.
    pub fn all(name: &str) -> Precision {
        let name = Some(name.to_string());
        Precision { vision: name.clone(), embed: name.clone(), decoder: name }
    }
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    package: Option<PathBuf>,
    precision: Option<Suffixes>,
    onnxruntime: Option<PathBuf>,
    plan: String,
    pub template: Option<String>,
    pub system_prompt: String,
    resize: Resize,
    device: Device,
    vision_device: Option<Device>,
    language_device: Option<Device>,
    gpu_memory: Option<Bytes>,
    vision_threads: usize,
    language_threads: usize,
    prefill_chunk: usize,
}

/// One suffix for all graphs, or one for each.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "wanted one name for all graphs, or vision, embed and decoder = NAME"
)]
enum Suffixes {
    One(String),
    Each(SuffixTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuffixTable {
    vision: Option<String>,
    embed: Option<String>,
    decoder: Option<String>,
}

impl Default for ModelTable {
    fn default() -> ModelTable {
        let (vision_threads, language_threads) = Model::usual_threads();
        ModelTable {
            package: None,
            precision: None,
            onnxruntime: None,
            plan: "paper".into(),
            template: None,
            system_prompt: String::new(),
            resize: Resize::default(),
            device: Device::default(),
            vision_device: None,
            language_device: None,
            gpu_memory: None,
            vision_threads,
            language_threads,
            prefill_chunk: 512,
        }
    }
}

impl ModelTable {
    pub fn check(self, folder: &Path) -> Result<Model, ConfigError> {
        let package = required("model.package", self.package, "the folder of a model package")?;
        let plan = self.plan.parse().map_err(|e| ConfigError(format!("model.plan: {e}")))?;
        for (template, place) in
            self.template.iter().flat_map(|text| [(text, "<image>"), (text, "{prompt}")])
        {
            let count = template.matches(place).count();
            if count != 1 {
                return Err(ConfigError(format!(
                    "model.template: {place} occurs {count} times; wanted once"
                )));
            }
        }
        if let Some(bytes) = self.gpu_memory {
            size_at_least("model.gpu_memory", bytes, Bytes::mib(64))?;
        }
        let threads = |key: &str, value| in_range(key, value, 1..=THREADS);
        Ok(Model {
            package: folder.join(package),
            precision: self.precision.map(Suffixes::precision).unwrap_or_default(),
            onnxruntime: self.onnxruntime.map(|path| folder.join(path)),
            plan,
            resize: self.resize,
            vision_device: self.vision_device.unwrap_or(self.device),
            language_device: self.language_device.unwrap_or(self.device),
            gpu_memory: self.gpu_memory,
            vision_threads: threads("model.vision_threads", self.vision_threads)?,
            language_threads: threads("model.language_threads", self.language_threads)?,
            prefill_chunk: in_range("model.prefill_chunk", self.prefill_chunk, 1..=65536)?,
        })
    }
}

impl Suffixes {
    fn precision(self) -> Precision {
        match self {
            Suffixes::One(name) => Precision::all(&name),
            Suffixes::Each(SuffixTable { vision, embed, decoder }) => {
                Precision { vision, embed, decoder }
            }
        }
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
