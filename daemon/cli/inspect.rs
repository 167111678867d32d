//! Implements `lookout inspect`: prints a package's contents, its memory requirements, and any reason
//! it cannot run.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use toml::{Table, Value};

use crate::bench::package::precision;
use crate::config;
use crate::exit::Failure;
use crate::inspection::{CameraLoad, GraphFile, Inspection, Model, Plan, Running, RunsOn};

#[derive(Args)]
pub struct Inspect {
    /// Model package: the folder with config.json, tokenizer.json and onnx/.
    #[arg(value_name = "DIR")]
    pub package: PathBuf,
    #[command(flatten)]
    pub choices: Choices,
}

/// The settings under which a package is inspected.
#[derive(Args)]
pub struct Choices {
    /// Plan that turns a window into tokens, as `model.plan` in a config.
    #[arg(long, value_name = "PLAN", default_value = "paper")]
    plan: String,
    /// Graphs to use, by the suffix of their files.
    ///
    /// One suffix for all graphs (q4), or one for each: vision=int8,embed=fp16,decoder=q4.
    #[arg(long, value_name = "SUFFIX", value_parser = precision)]
    precision: Option<Value>,
    /// Device to run on: cpu, cuda or auto, as `model.device` in a config.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// Maximum number of tokens in an answer, as `generate.max_new_tokens` in a config.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// Frames sampled per second of a camera, for the memory of a camera.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    fps: f64,
    /// Age up to which frames keep their tokens, as `buffer.token_age` in a config, for the memory
    /// of a camera.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    token_age: Duration,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Choices {
    /// Returns the corresponding `[model]` of a config.
    pub fn model(&self, package: &Path) -> Result<config::Model, Failure> {
        let mut keys = Table::from_iter([
            ("package".to_string(), Value::from(package.display().to_string())),
            ("plan".into(), self.plan.as_str().into()),
            ("device".into(), self.device.as_str().into()),
        ]);
        keys.extend(self.precision.clone().map(|precision| ("precision".into(), precision)));
        config::Model::of(keys).map_err(Failure::cannot_begin)
    }
}

pub fn inspect(args: Inspect, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let model = args.choices.model(&args.package)?;
    let args = args.choices;
    let camera = CameraLoad { fps: args.fps, token_age: args.token_age };
    let found = Inspection::of(&model, args.max_new_tokens, camera);
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&found)?)?;
    } else {
        print(&found, camera, out)?;
    }
    Ok(if found.refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn print(found: &Inspection, camera: CameraLoad, out: &mut dyn Write) -> io::Result<()> {
    let mut line = |item: &str, text: String| writeln!(out, "{item:<10}  {text}");
    if let Some(Model { name, family, vision, image_size, grid_tokens, .. }) = &found.model {
        line("model", format!("{name} ({family})"))?;
        line(
            "vision",
            format!("{vision}, {image_size}×{image_size} pixels, {grid_tokens} tokens a frame"),
        )?;
    }
    if let Some(model) = &found.model {
        let Model { language, layers, hidden_size, kv_heads, head_dim, vocab_size, .. } = model;
        line(
            "language",
            format!(
                "{language}, {layers} layers of {hidden_size}, {kv_heads} key heads of {head_dim}, \
                 {vocab_size} tokens in the vocabulary"
            ),
        )?;
        let Model { context, rope, rope_theta, .. } = model;
        line("context", format!("{context} tokens (RoPE {rope}, theta {rope_theta})"))?;
    }
    for (at, graph) in found.graphs.iter().enumerate() {
        let GraphFile { file, precision, bytes, chosen, .. } = graph;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let mark = if *chosen { "" } else { "  (not chosen)" };
        line(
            if at == 0 { "graphs" } else { "" },
            format!("{name}: {precision}, {}{mark}", size(*bytes)),
        )?;
    }
    if let Some(plan) = &found.plan {
        let Plan { plan, frames, slow_frames, video_tokens, .. } = plan;
        line("plan", plan.clone())?;
        line(
            "window",
            format!("{frames} frames, {slow_frames} of them slow: {video_tokens} video tokens"),
        )?;
    }
    if let Some(Plan { frame_bytes, camera_frames, camera_bytes, .. }) = &found.plan {
        line(
            "a camera",
            format!(
                "{} for {camera_frames} frames of {} ({} frames/s, {}), and their JPEGs",
                size(*camera_bytes as u64),
                size(*frame_bytes as u64),
                camera.fps,
                humantime::format_duration(camera.token_age),
            ),
        )?;
    }
    if let Some(running) = &found.running {
        let Running { sequence_tokens, kv_cache_bytes, vision, language, .. } = running;
        line(
            "a sequence",
            format!("{sequence_tokens} tokens at most, KV cache {}", size(*kv_cache_bytes as u64)),
        )?;
        line("prompts", format!("by {}", running.prompts))?;
        for (what, RunsOn { device, reason }) in [("device", vision), ("", language)] {
            let part = if what.is_empty() { "language" } else { "vision" };
            let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            line(what, format!("{part} on {device}{why}"))?;
        }
        let resident = running.resident_bytes.map(|bytes| format!(", {} resident", size(bytes)));
        let resident = resident.unwrap_or_default();
        line("runs", format!("yes; loaded in {:.1} s{resident}", running.load_seconds))?;
    }
    for refusal in &found.refusals {
        line("cannot run", refusal.clone())?;
    }
    Ok(())
}

fn size(bytes: u64) -> config::Bytes {
    config::Bytes::b(bytes)
}
