//! A model package: a folder in the layout of the transformers.js community.
//!
//! ```text
//! config.json  preprocessor_config.json  tokenizer.json  generation_config.json
//! onnx/vision_encoder.onnx  onnx/embed_tokens.onnx  onnx/decoder_model_merged.onnx
//! ```
//!
//! Reads what the daemon must know and refuses by name what it cannot honour. Not yet: other
//! families than LLaVA with CLIP and Llama, and graphs with a suffix (`_fp16`, `_q4`, …).

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ModelError;

#[derive(Clone, Debug)]
pub struct Package {
    pub folder: PathBuf,
    /// The folder's name: what events call the model.
    pub name: String,
    pub vision: VisionModel,
    pub text: TextModel,
    /// The text of preprocessor_config.json, which `vision/` reads.
    pub preprocessor: String,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
pub struct VisionModel {
    /// Pixels a side.
    pub image_size: usize,
    /// Patch tokens a frame, without CLS.
    pub grid_tokens: usize,
}

#[derive(Clone, Debug)]
pub struct TextModel {
    /// Width of an embedding.
    pub hidden_size: usize,
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Tokens that the model was trained for.
    pub context: usize,
    pub rope: Rope,
}

/// Rotary position embedding as `config.json` asks for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// Positions are divided by this (linear scaling); 1 without scaling.
    pub linear_factor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphKind {
    Vision,
    Embed,
    Decoder,
}

impl GraphKind {
    fn file(self) -> &'static str {
        match self {
            GraphKind::Vision => "vision_encoder.onnx",
            GraphKind::Embed => "embed_tokens.onnx",
            GraphKind::Decoder => "decoder_model_merged.onnx",
        }
    }
}

impl Package {
    pub fn read(folder: &Path) -> Result<Package, ModelError> {
        if !folder.is_dir() {
            return Err(ModelError(format!("model package {}: no such folder", folder.display())));
        }
        let config_file = folder.join("config.json");
        let config: RawConfig = parse(&config_file)?;
        let wrong = |why: String| ModelError(format!("{}: {why}", config_file.display()));
        if config.model_type != "llava" {
            return Err(wrong(format!(
                "model_type = {:?}; only \"llava\" is supported so far",
                config.model_type
            )));
        }
        if config.vision_feature_select_strategy.as_deref().unwrap_or("default") != "default" {
            return Err(wrong(
                "vision_feature_select_strategy: only \"default\" is supported".into(),
            ));
        }
        let generation = folder.join("generation_config.json");
        let generation: RawGeneration =
            if generation.exists() { parse(&generation)? } else { RawGeneration::default() };
        let end = generation.eos_token_id.or(config.text_config.eos_token_id.clone());
        let package = Package {
            folder: folder.into(),
            name: package_name(folder),
            vision: config.vision_config.check().map_err(wrong)?,
            text: config.text_config.check().map_err(wrong)?,
            preprocessor: read(&folder.join("preprocessor_config.json"))?,
            // 2 is </s> of Llama, which its configs leave out.
            end_tokens: end.map_or(vec![2], Ids::list),
        };
        for kind in [GraphKind::Vision, GraphKind::Embed, GraphKind::Decoder] {
            let file = package.graph(kind);
            if !file.is_file() {
                return Err(ModelError(format!("model file {} is missing", file.display())));
            }
        }
        Ok(package)
    }

    pub fn graph(&self, kind: GraphKind) -> PathBuf {
        self.folder.join("onnx").join(kind.file())
    }
}

/// The last part of the path that is a name; `package` says nothing, so then its parent's.
fn package_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match name(&whole) {
        Some(own) if own == "package" => whole.parent().and_then(name).unwrap_or(own),
        Some(own) => own,
        None => "model".into(),
    }
}

fn read(file: &Path) -> Result<String, ModelError> {
    fs::read_to_string(file).map_err(|e| ModelError(format!("model file {}: {e}", file.display())))
}

fn parse<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T, ModelError> {
    serde_json::from_str(&read(file)?)
        .map_err(|e| ModelError(format!("model file {}: {e}", file.display())))
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    vision_feature_select_strategy: Option<String>,
    vision_config: RawVision,
    text_config: RawText,
}

#[derive(Deserialize)]
struct RawVision {
    model_type: String,
    image_size: usize,
    patch_size: usize,
}

#[derive(Deserialize)]
struct RawText {
    model_type: String,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// Where transformers 5 writes theta and scaling.
    rope_parameters: Option<RawRope>,
    eos_token_id: Option<Ids>,
}

#[derive(Clone, Default, Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    rope_theta: Option<f64>,
}

#[derive(Default, Deserialize)]
struct RawGeneration {
    eos_token_id: Option<Ids>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn list(self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}

impl RawVision {
    fn check(self) -> Result<VisionModel, String> {
        if self.model_type != "clip_vision_model" {
            return Err(format!(
                "vision_config.model_type = {:?}; only \"clip_vision_model\" is supported so far",
                self.model_type
            ));
        }
        if self.patch_size == 0 || self.image_size < self.patch_size {
            return Err(format!(
                "vision_config: image_size {} holds no patch of {}",
                self.image_size, self.patch_size
            ));
        }
        let side = self.image_size / self.patch_size;
        Ok(VisionModel { image_size: self.image_size, grid_tokens: side * side })
    }
}

impl RawText {
    /// What a config leaves out has the value of transformers' `LlamaConfig`.
    fn check(self) -> Result<TextModel, String> {
        if self.model_type != "llama" {
            return Err(format!(
                "text_config.model_type = {:?}; only \"llama\" is supported so far",
                self.model_type
            ));
        }
        let hidden_size = self.hidden_size.unwrap_or(4096);
        let heads = self.num_attention_heads.unwrap_or(32).max(1);
        let rope = self.rope_parameters.or(self.rope_scaling).unwrap_or_default();
        let theta = rope.rope_theta.or(self.rope_theta).unwrap_or(10000.0);
        let linear_factor = match rope.rope_type.as_deref() {
            None | Some("default") => 1.0,
            Some("linear") => rope.factor.ok_or("rope_scaling: linear without a factor")?,
            Some(other) => {
                return Err(format!(
                    "rope_scaling type {other:?}; only \"default\" and \"linear\" are supported so far"
                ));
            }
        };
        if linear_factor.is_nan() || linear_factor < 1.0 {
            return Err(format!("rope_scaling: factor = {linear_factor}; wanted at least 1"));
        }
        Ok(TextModel {
            hidden_size,
            layers: self.num_hidden_layers.unwrap_or(32),
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(hidden_size / heads),
            vocab_size: self.vocab_size.unwrap_or(32000),
            context: self.max_position_embeddings.unwrap_or(2048),
            rope: Rope { theta, linear_factor },
        })
    }
}
