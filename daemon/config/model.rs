//! The `[model]` table: the model package, and how and where it runs.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::rules::{in_range, required, size_at_least, toml_error};
use super::{Bytes, ConfigError, Language};
use crate::slowfast::Plan;

/// Maximum number of threads of a session.
const THREADS: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The folder of the package, or `None` if servers run the whole model.
    pub package: Option<PathBuf>,
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
        table.check(Path::new(""), &Language::Onnxruntime, false)
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
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    package: Option<PathBuf>,
    precision: Option<Suffixes>,
    onnxruntime: Option<PathBuf>,
    plan: Option<String>,
    pub template: Option<String>,
    pub system_prompt: String,
    resize: Option<Resize>,
    device: Option<Device>,
    vision_device: Option<Device>,
    language_device: Option<Device>,
    gpu_memory: Option<Bytes>,
    vision_threads: Option<usize>,
    language_threads: Option<usize>,
    prefill_chunk: Option<usize>,
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

impl ModelTable {
    /// Checks the table. `has_search` is true if onnxruntime runs a model of the search.
    pub fn check(
        self,
        folder: &Path,
        language: &Language,
        has_search: bool,
    ) -> Result<Model, ConfigError> {
        let (package, plan) = match language {
            Language::OpenAi(openai) => {
                self.check_no_effect(has_search)?;
                (None, Plan::whole_frames(openai.max_images))
            }
            Language::Onnxruntime | Language::Vllm(_) => {
                let package = self.package.clone();
                let package = required("model.package", package, "the folder of a model package")?;
                let plan = self.plan.as_deref().unwrap_or("paper").parse();
                (Some(package), plan.map_err(|e| ConfigError(format!("model.plan: {e}")))?)
            }
        };
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
        let (vision_threads, language_threads) = Model::usual_threads();
        let device = self.device.unwrap_or_default();
        Ok(Model {
            package: package.map(|package| folder.join(package)),
            precision: self.precision.map(Suffixes::precision).unwrap_or_default(),
            onnxruntime: self.onnxruntime.map(|path| folder.join(path)),
            plan,
            resize: self.resize.unwrap_or_default(),
            vision_device: self.vision_device.unwrap_or(device),
            language_device: self.language_device.unwrap_or(device),
            gpu_memory: self.gpu_memory,
            vision_threads: threads(
                "model.vision_threads",
                self.vision_threads.unwrap_or(vision_threads),
            )?,
            language_threads: threads(
                "model.language_threads",
                self.language_threads.unwrap_or(language_threads),
            )?,
            prefill_chunk: in_range(
                "model.prefill_chunk",
                self.prefill_chunk.unwrap_or(512),
                1..=65536,
            )?,
        })
    }

    /// Refuses the keys that have no effect without a model package.
    fn check_no_effect(&self, has_search: bool) -> Result<(), ConfigError> {
        let keys = [
            ("package", self.package.is_some()),
            ("precision", self.precision.is_some()),
            ("onnxruntime", self.onnxruntime.is_some() && !has_search),
            ("plan", self.plan.is_some()),
            ("template", self.template.is_some()),
            ("resize", self.resize.is_some()),
            ("device", self.device.is_some()),
            ("vision_device", self.vision_device.is_some()),
            ("language_device", self.language_device.is_some()),
            ("gpu_memory", self.gpu_memory.is_some()),
            ("vision_threads", self.vision_threads.is_some()),
            ("language_threads", self.language_threads.is_some()),
            ("prefill_chunk", self.prefill_chunk.is_some()),
        ];
        let set = keys.into_iter().filter(|(_, is_set)| *is_set);
        let set: Vec<String> = set.map(|(key, _)| format!("model.{key}")).collect();
        if set.is_empty() {
            return Ok(());
        }
        Err(ConfigError(format!(
            "{}: without effect, because with language.backend = \"openai\" the servers run the \
             whole model; remove them",
            set.join(", ")
        )))
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
