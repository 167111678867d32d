//! Reads `config.json` of a model of the LLaVA family.
//!
//! Guarantees: missing values get the defaults of transformers' config classes. An unsupported
//! value is refused with an error that names it.

use serde::Deserialize;
use serde_json::Value;

use super::rope::{Rope, Scaling};

/// A checkpoint's kind, according to its `model_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaVA-1.5, LLaVA-Interleave and similar models.
    Llava,
    /// LLaVA-NeXT. Only its base grid is used, as in SlowFast-LLaVA.
    LlavaNext,
    /// LLaVA-OneVision. Only its base grid is used.
    LlavaOnevision,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Llava => "llava",
            Family::LlavaNext => "llava_next",
            Family::LlavaOnevision => "llava_onevision",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tower {
    Clip,
    Siglip,
}

impl Tower {
    pub fn name(self) -> &'static str {
        match self {
            Tower::Clip => "CLIP",
            Tower::Siglip => "SigLIP",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    Llama,
    Mistral,
    Qwen2,
}

impl TextKind {
    pub fn name(self) -> &'static str {
        match self {
            TextKind::Llama => "Llama",
            TextKind::Mistral => "Mistral",
            TextKind::Qwen2 => "Qwen2",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct VisionModel {
    pub tower: Tower,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Patch tokens per frame, without CLS.
    pub grid_tokens: usize,
}

#[derive(Clone, Debug)]
pub struct TextModel {
    pub kind: TextKind,
    /// Width of an embedding.
    pub hidden_size: usize,
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// The value of `max_position_embeddings`.
    pub max_positions: usize,
    /// Context length in tokens, RoPE scaling included.
    pub context: usize,
    pub rope: Rope,
}

/// The result of [`read`].
pub struct Description {
    pub family: Family,
    pub vision: VisionModel,
    pub text: TextModel,
    /// The text model's `eos_token_id`. Empty if it has none.
    pub end_tokens: Vec<u32>,
}

/// Reads the description from the text of `config.json`.
pub fn read(text: &str) -> Result<Description, String> {
    let raw: Raw = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let family = match raw.model_type.as_deref() {
        Some("llava") => Family::Llava,
        Some("llava_next") => Family::LlavaNext,
        Some("llava_onevision") => Family::LlavaOnevision,
        Some(original @ ("llava_llama" | "llava_mistral" | "llava_qwen")) => {
            return Err(format!(
                "model_type = {original:?} is the layout of the original LLaVA code; take the \
                 converted checkpoint (llava, llava_next or llava_onevision) instead"
            ));
        }
        other => {
            return Err(format!(
                "model_type = {:?}; supported are llava, llava_next and llava_onevision",
                other.unwrap_or_default()
            ));
        }
    };
    let vision = raw.vision_config.unwrap_or_default().check(family)?;
    let strategy = raw.vision_feature_select_strategy.as_deref().unwrap_or(match family {
        Family::LlavaOnevision => "full",
        _ => "default",
    });
    // "default" leaves out the first token, CLIP's CLS. SigLIP has no such token.
    let wanted = match vision.tower {
        Tower::Clip => "default",
        Tower::Siglip => "full",
    };
    if strategy != wanted {
        return Err(format!(
            "vision_feature_select_strategy = {strategy:?}; with {} only {wanted:?} leaves a \
             square grid of patches",
            vision.tower.name()
        ));
    }
    let raw_text = raw.text_config.unwrap_or_default();
    let eos = raw_text.eos_token_id.clone();
    let text = raw_text.check(family)?;
    let end_tokens = match (eos, text.kind) {
        (Some(ids), _) => ids.list(),
        // The id of </s>, which the configs of Llama and Mistral leave out.
        (None, TextKind::Llama | TextKind::Mistral) => vec![2],
        (None, TextKind::Qwen2) => Vec::new(),
    };
    Ok(Description { family, vision, text, end_tokens })
}

#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    vision_feature_select_strategy: Option<String>,
    vision_config: Option<RawVision>,
    text_config: Option<RawText>,
}

#[derive(Default, Deserialize)]
struct RawVision {
    model_type: Option<String>,
    image_size: Option<Value>,
    patch_size: Option<Value>,
}

#[derive(Default, Deserialize)]
struct RawText {
    model_type: Option<String>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    original_max_position_embeddings: Option<usize>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// The key under which transformers 5 writes theta and scaling.
    rope_parameters: Option<RawRope>,
    eos_token_id: Option<Ids>,
}

#[derive(Clone, Default, Deserialize)]
struct RawRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f64>,
}

/// One token id or several, as configs write them.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    pub fn list(self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}

impl RawVision {
    fn check(self, family: Family) -> Result<VisionModel, String> {
        let unstated = self.model_type.is_none() && self.image_size.is_none();
        let tower = match (self.model_type.as_deref(), family) {
            (Some("clip_vision_model"), _) | (None, Family::Llava | Family::LlavaNext) => {
                Tower::Clip
            }
            (Some("siglip_vision_model"), _) | (None, Family::LlavaOnevision) => Tower::Siglip,
            (Some(other), _) => {
                return Err(format!(
                    "vision_config.model_type = {other:?}; supported are clip_vision_model and \
                     siglip_vision_model"
                ));
            }
        };
        // The family's own tower if vision_config is left out, otherwise the class's defaults.
        let (size, patch) = match (tower, unstated) {
            (Tower::Clip, true) => (336, 14),
            (Tower::Siglip, true) => (384, 14),
            (Tower::Clip, false) => (224, 32),
            (Tower::Siglip, false) => (224, 16),
        };
        let image_size = side("image_size", self.image_size, size)?;
        let patch_size = side("patch_size", self.patch_size, patch)?;
        if patch_size == 0 || image_size < patch_size {
            return Err(format!(
                "vision_config: image_size {image_size} holds no patch of {patch_size}"
            ));
        }
        let side = image_size / patch_size;
        Ok(VisionModel { tower, image_size, grid_tokens: side * side })
    }
}

/// Parses a side: `336` or `[336, 336]`.
fn side(key: &str, value: Option<Value>, default: usize) -> Result<usize, String> {
    let Some(value) = value else { return Ok(default) };
    let sides = match &value {
        Value::Array(sides) => &sides[..],
        one => std::slice::from_ref(one),
    };
    let first = sides.first().and_then(Value::as_u64);
    first
        .filter(|_| sides.iter().all(|side| side == &sides[0]))
        .map(|side| side as usize)
        .ok_or(format!("vision_config.{key} = {value}; wanted one number of pixels, for a square"))
}

impl RawText {
    fn check(self, family: Family) -> Result<TextModel, String> {
        let kind = match (self.model_type.as_deref(), family) {
            (Some("llama"), _) | (None, Family::Llava | Family::LlavaNext) => TextKind::Llama,
            (Some("mistral"), _) => TextKind::Mistral,
            (Some("qwen2"), _) | (None, Family::LlavaOnevision) => TextKind::Qwen2,
            (Some(other), _) => {
                return Err(format!(
                    "text_config.model_type = {other:?}; supported are llama, mistral and qwen2"
                ));
            }
        };
        // Defaults of LlamaConfig, MistralConfig and Qwen2Config: KV heads, vocabulary, positions.
        let (kv_heads, vocab_size, max_positions) = match kind {
            TextKind::Llama => (None, 32000, 2048),
            TextKind::Mistral => (Some(8), 32000, 131_072),
            TextKind::Qwen2 => (Some(32), 151_936, 32768),
        };
        let hidden_size = self.hidden_size.unwrap_or(4096);
        let heads = self.num_attention_heads.unwrap_or(32).max(1);
        let max_positions = self.max_position_embeddings.unwrap_or(max_positions);
        let rope = self.rope(max_positions)?;
        Ok(TextModel {
            kind,
            hidden_size,
            layers: self.num_hidden_layers.unwrap_or(32),
            kv_heads: self.num_key_value_heads.or(kv_heads).unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(hidden_size / heads),
            vocab_size: self.vocab_size.unwrap_or(vocab_size),
            max_positions,
            context: rope.scaling.context(max_positions),
            rope,
        })
    }

    fn rope(&self, max_positions: usize) -> Result<Rope, String> {
        let raw = self.rope_parameters.clone().or(self.rope_scaling.clone()).unwrap_or_default();
        let theta = raw.rope_theta.or(self.rope_theta).unwrap_or(10000.0);
        if !theta.is_finite() || theta <= 1.0 {
            return Err(format!("rope_theta = {theta}; wanted more than 1"));
        }
        let partial = raw.partial_rotary_factor.or(self.partial_rotary_factor).unwrap_or(1.0);
        if partial != 1.0 {
            return Err(format!("partial_rotary_factor = {partial}; only 1 is supported"));
        }
        let kind = raw.rope_type.as_deref().unwrap_or("default");
        let number = |key: &str, value: Option<f64>| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(format!("rope_scaling.{key} = {value}; wanted more than 0")),
            None => Err(format!("rope_scaling: {kind} without {key}")),
        };
        let factor = || match number("factor", raw.factor)? {
            factor if factor >= 1.0 => Ok(factor),
            factor => Err(format!("rope_scaling.factor = {factor}; wanted at least 1")),
        };
        let original = self
            .original_max_position_embeddings
            .or(raw.original_max_position_embeddings)
            .unwrap_or(max_positions);
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear { factor: factor()? },
            "dynamic" => Scaling::Dynamic { factor: factor()?, trained: max_positions },
            "llama3" => Scaling::Llama3 {
                factor: factor()?,
                low_freq_factor: number("low_freq_factor", raw.low_freq_factor)?,
                high_freq_factor: number("high_freq_factor", raw.high_freq_factor)?,
                original,
            },
            "yarn" => {
                let factor = match raw.factor {
                    None => max_positions as f64 / original as f64,
                    Some(_) => factor()?,
                };
                Scaling::Yarn {
                    factor,
                    original,
                    attention_factor: raw.attention_factor(factor),
                    beta_fast: raw.beta_fast.unwrap_or(32.0),
                    beta_slow: raw.beta_slow.unwrap_or(1.0),
                    truncate: raw.truncate.unwrap_or(true),
                }
            }
            other => {
                return Err(format!(
                    "rope_scaling type {other:?}; supported are default, linear, dynamic, llama3 \
                     and yarn"
                ));
            }
        };
        Ok(Rope { theta, scaling })
    }
}

impl RawRope {
    /// Returns YaRN's attention factor, which multiplies cosines and sines.
    fn attention_factor(&self, factor: f64) -> f64 {
        let scale =
            |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(given), _, _) => given,
            (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                scale(mscale) / scale(all)
            }
            _ => scale(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_config_leaves_out_is_its_familys() {
        let read = |text| read(text).expect("a model");
        let llava = read(r#"{"model_type": "llava"}"#);
        assert_eq!((llava.vision.tower, llava.vision.grid_tokens), (Tower::Clip, 576));
        assert_eq!((llava.text.kind, llava.text.kv_heads), (TextKind::Llama, 32));
        assert_eq!(llava.end_tokens, [2]);
        let onevision = read(r#"{"model_type": "llava_onevision"}"#);
        assert_eq!((onevision.vision.tower, onevision.vision.grid_tokens), (Tower::Siglip, 729));
        assert_eq!((onevision.text.kind, onevision.text.vocab_size), (TextKind::Qwen2, 151_936));
        let mistral =
            read(r#"{"model_type": "llava_next", "text_config": {"model_type": "mistral"}}"#);
        assert_eq!((mistral.text.kv_heads, mistral.text.head_dim), (8, 128));
    }

    #[test]
    fn rope_is_read_where_old_and_new_configs_have_it() {
        let rope = |keys: &str| {
            let config = format!(r#"{{"model_type": "llava", "text_config": {{{keys}}}}}"#);
            read(&config).map(|model| (model.text.rope, model.text.context))
        };
        let linear = Rope { theta: 5e6, scaling: Scaling::Linear { factor: 2.0 } };
        for keys in [
            r#""rope_theta": 5e6, "rope_scaling": {"type": "linear", "factor": 2.0}"#,
            r#""rope_parameters": {"rope_theta": 5e6, "rope_type": "linear", "factor": 2.0}"#,
        ] {
            assert_eq!(rope(keys), Ok((linear, 4096)));
        }
        let yarn = rope(
            r#""max_position_embeddings": 32768, "rope_scaling": {"type": "yarn", "factor": 4.0}"#,
        );
        let (Rope { scaling: Scaling::Yarn { attention_factor, .. }, .. }, 131_072) =
            yarn.expect("yarn")
        else {
            panic!("not yarn of 131,072 tokens");
        };
        assert!((attention_factor - 1.138_629_4).abs() < 1e-6, "{attention_factor}");
        for (keys, wanted) in [
            (r#""rope_scaling": {"type": "longrope", "factor": 2.0}"#, "longrope"),
            (r#""rope_scaling": {"type": "linear"}"#, "linear without factor"),
            (r#""rope_scaling": {"type": "linear", "factor": 0.5}"#, "factor = 0.5"),
            (r#""rope_scaling": {"type": "llama3", "factor": 8}"#, "without low_freq_factor"),
            (r#""partial_rotary_factor": 0.5"#, "partial_rotary_factor = 0.5"),
        ] {
            let error = rope(keys).expect_err(wanted);
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_grid_of_patches_that_is_not_square_is_refused() {
        for (config, wanted) in [
            (r#"{"model_type": "llava_llama"}"#, "original LLaVA code"),
            (r#"{"model_type": "qwen2_vl"}"#, "\"qwen2_vl\""),
            (r#"{"model_type": "llava", "vision_feature_select_strategy": "full"}"#, "\"full\""),
            (
                r#"{"model_type": "llava_onevision", "vision_feature_select_strategy": "default"}"#,
                "\"default\"",
            ),
            (r#"{"model_type": "llava", "vision_config": {"image_size": [336, 224]}}"#, "square"),
            (r#"{"model_type": "llava", "vision_config": {"image_size": 10}}"#, "no patch"),
            (r#"{"model_type": "llava", "text_config": {"model_type": "phi"}}"#, "\"phi\""),
        ] {
            let error = read(config).err().expect(wanted);
            assert!(error.contains(wanted), "{error}");
        }
    }
}
