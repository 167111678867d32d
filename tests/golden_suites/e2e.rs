//! Tests pixels to tokens, with checkpoints exported by the project's own exporter.
//!
//! `make golden` creates the packages, with both kinds of decoder: with GroupQueryAttention (one KV
//! buffer, written in place) and without it (position_ids, a KV cache that grows).

use std::path::PathBuf;
use std::sync::OnceLock;

use lookout::config::{Model, Precision, Resize, Sampling, Wording};
use lookout::language::tokenizer::Prompt;
use lookout::language::{Budget, Decoder, LanguageModel, Limits};
use lookout::model::{Package, Runtime};
use lookout::slowfast::{Aggregation, VideoTokens, aggregate};
use lookout::vision::Encoder;
use lookout::vision::preprocess::{Preprocess, Scratch};
use serde::Deserialize;
use serde_json::Value;

use super::{Golden, equal, parse};

const TOLERANCE_FEATURES: f32 = 5e-4;
const TOLERANCE_LOGITS: f32 = 5e-3;
/// Small and odd, so that prompts are prefilled in many chunks.
const PREFILL_CHUNK: i64 = 61;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "id")]
    _id: String,
    checkpoint: String,
    /// Set unless the case is recorded for information only.
    required: bool,
    #[serde(rename = "rope_scaling")]
    _rope_scaling: Option<Value>,
    max_position_embeddings: usize,
    frames: Vec<String>,
    frame_size: [u32; 2],
    image_size: usize,
    image_aspect_ratio: String,
    aggregation: String,
    input_ids_with_marker: Vec<i64>,
    marker: i64,
    marker_position: usize,
    video_tokens: usize,
    text_tokens: usize,
    embeds_len: usize,
    max_new_tokens: usize,
    ids: Vec<u32>,
    text: String,
    tensors: Tensors,
    #[serde(rename = "margins")]
    _margins: Value,
    #[serde(rename = "min_margin")]
    _min_margin: Value,
    #[serde(rename = "runner_up")]
    _runner_up: Value,
    #[serde(rename = "same_without_kv_cache")]
    _same_without_kv_cache: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensors {
    video_tokens: String,
    first_logits: String,
    inputs_embeds: Option<String>,
    vision_features: Option<String>,
    pixel_values_frame0: Option<String>,
}

/// Returns the shared runtime, because onnxruntime allows one environment per process.
fn runtime(model: &Model) -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::load(model).expect("onnxruntime"))
}

/// Returns the package that `make golden` creates for a checkpoint.
fn package_of(packages: &str, checkpoint: &str) -> PathBuf {
    let name = checkpoint.rsplit('/').next().unwrap_or(checkpoint);
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(packages).join(name);
    assert!(folder.is_dir(), "{} is missing: run `make golden`", folder.display());
    folder
}

pub fn gqa_decoder(golden: &Golden, kind: &str, json: Value) -> Result<(), String> {
    check(golden, kind, json, "target/golden-packages")
}

pub fn plain_decoder(golden: &Golden, kind: &str, json: Value) -> Result<(), String> {
    check(golden, kind, json, "target/golden-packages-plain")
}

fn check(golden: &Golden, kind: &str, json: Value, packages: &str) -> Result<(), String> {
    equal("kind", &kind, &"cases")?;
    let case: Case = parse(json)?;
    if !case.required {
        return Ok(());
    }
    let package = Package::read(&package_of(packages, &case.checkpoint), &Precision::default())
        .map_err(|e| e.to_string())?;
    let model = model_config(&package, &case);
    let runtime = runtime(&model);
    equal("positions", &package.text.max_positions, &case.max_position_embeddings)?;

    let features = features(golden, runtime, &package, &case)?;
    let dim = package.text.hidden_size;
    let aggregation: Aggregation = case.aggregation.parse().map_err(|e| format!("{e}"))?;
    let tokens = package.vision.grid_tokens;
    let rows = aggregate(&features, tokens, dim, aggregation).map_err(|e| e.to_string())?;
    near(golden, "video_tokens", &rows, &case.tensors.video_tokens, TOLERANCE_FEATURES)?;
    let video = VideoTokens { rows, dim };
    equal("video_tokens", &video.len(), &case.video_tokens)?;

    let prompt = prompt(&case)?;
    let budget = Budget::one_by_one(case.max_new_tokens);
    let mut language = LanguageModel::load(runtime, &package, &model, &Wording::default(), budget)
        .map_err(|e| e.to_string())?;
    let embeddings = language.embeddings(&prompt, &video).map_err(|e| e.to_string())?;
    equal("embeds_len", &(embeddings.len() / dim), &case.embeds_len)?;
    if let Some(file) = &case.tensors.inputs_embeds {
        near(golden, "inputs_embeds", &embeddings.clone().into_f32(), file, TOLERANCE_FEATURES)?;
    }
    let decoder = Decoder::load(runtime, &package, 1, case.embeds_len);
    let mut decoder = decoder.map_err(|e| e.to_string())?;
    let mut cache = decoder.cache(1).map_err(|e| e.to_string())?;
    let logits = decoder.read(&mut cache, 0, &embeddings).map_err(|e| e.to_string())?;
    near(golden, "first_logits", &logits, &case.tensors.first_logits, TOLERANCE_LOGITS)?;

    let limits = Limits { max_new_tokens: case.max_new_tokens, sampling: Sampling::Greedy };
    let mut streamed = String::new();
    let reply = language.complete(&prompt, &video, limits, |piece| {
        streamed.push_str(piece);
    });
    let reply = reply.map_err(|e| e.to_string())?;
    equal("ids", &reply.ids, &case.ids)?;
    equal("text", &reply.text.as_str(), &case.text.trim())?;
    equal("streamed text", &streamed.trim_end(), &case.text.trim())?;
    equal("text_tokens", &(reply.usage.text_tokens as usize), &case.text_tokens)
}

/// Runs every frame through preprocessing and the vision graph; returns `[T, N, D]`.
fn features(
    golden: &Golden,
    runtime: &Runtime,
    package: &Package,
    case: &Case,
) -> Result<Vec<f32>, String> {
    let resize = match case.image_aspect_ratio.as_str() {
        "resize" => Resize::Stretch,
        "pad" => Resize::Pad,
        other => return Err(format!("image_aspect_ratio {other:?} is not known")),
    };
    let preprocess = Preprocess::from_config(&package.preprocessor, resize)?;
    equal("image_size", &preprocess.size, &case.image_size)?;
    let mut encoder = Encoder::load(runtime, package, 1).map_err(|e| e.to_string())?;
    let (mut scratch, mut features) = (Scratch::default(), Vec::new());
    let mut pixels = vec![0.0; encoder.frame_len()];
    for (at, file) in case.frames.iter().enumerate() {
        let picture = golden.png(file)?;
        equal("frame_size", &[picture.width, picture.height], &case.frame_size)?;
        preprocess
            .pixels(&mut scratch, &picture.bgrx(), picture.width, picture.height, &mut pixels)
            .map_err(|e| e.to_string())?;
        if let (0, Some(file)) = (at, &case.tensors.pixel_values_frame0) {
            near(golden, "pixel_values_frame0", &pixels, file, 1e-6)?;
        }
        features.extend(encoder.encode(&pixels).map_err(|e| e.to_string())?.features);
    }
    if let Some(file) = &case.tensors.vision_features {
        near(golden, "vision_features", &features, file, TOLERANCE_FEATURES)?;
    }
    Ok(features)
}

fn prompt(case: &Case) -> Result<Prompt, String> {
    equal("marker", &case.input_ids_with_marker.get(case.marker_position), &Some(&case.marker))?;
    let piece = |ids: &[i64]| ids.iter().map(|id| *id as u32).collect();
    let pieces = case.input_ids_with_marker.split(|id| *id == case.marker).map(piece).collect();
    Ok(Prompt { pieces })
}

/// Builds the model's config. Its plan only determines the size of the KV cache.
fn model_config(package: &Package, case: &Case) -> Model {
    let frames = case.video_tokens.div_ceil(package.vision.grid_tokens);
    let plan = format!("{frames}:slowfast-slow_{frames}frms_concat-fast_1x1");
    let keys = toml::toml! { device = "cpu" vision_threads = 1 language_threads = 1 };
    let more = [
        ("package", package.folder.display().to_string().into()),
        ("plan", plan.into()),
        ("prefill_chunk", PREFILL_CHUNK.into()),
    ];
    let more = more.map(|(key, value): (&str, toml::Value)| (key.to_string(), value));
    Model::of(keys.into_iter().chain(more).collect()).expect("a model's settings")
}

fn near(
    golden: &Golden,
    what: &str,
    found: &[f32],
    file: &str,
    tolerance: f32,
) -> Result<(), String> {
    let wanted = golden.npy(file)?;
    equal(&format!("{what}: numbers"), &found.len(), &wanted.values.len())?;
    let off = found.iter().zip(&wanted.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if off <= tolerance {
        return Ok(());
    }
    Err(format!("{what}: off by {off}, tolerance {tolerance}"))
}
