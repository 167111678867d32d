//! Inspects a model package: its contents, what it takes to run it under a plan, and any reason
//! why it cannot run.
//!
//! Guarantees: reports everything that can be read from a package, even a broken one. An error
//! ends only the checks that depend on it. The package is loaded as the daemon would load it, to
//! find out if it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config;
use crate::language::Budget;
use crate::loaded::LoadedModel;
use crate::model::{Graph, GraphFacts, GraphKind, ModelError, Package, Placement};
use crate::slowfast::TokenShape;

#[derive(Debug, Serialize)]
pub struct Inspection {
    pub folder: PathBuf,
    pub graphs: Vec<GraphFile>,
    /// The model's description, or `None` if the package cannot be read.
    pub model: Option<Model>,
    pub plan: Option<Plan>,
    pub running: Option<Running>,
    /// Reasons why the package cannot run, one sentence each. Empty if it can run.
    pub refusals: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct GraphFile {
    pub kind: &'static str,
    pub file: PathBuf,
    pub precision: String,
    /// Size of the file and of its weight files.
    pub bytes: u64,
    /// True if this is the file that runs.
    pub chosen: bool,
}

#[derive(Debug, Serialize)]
pub struct Model {
    pub name: String,
    pub family: &'static str,
    pub vision: &'static str,
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Patch tokens per frame.
    pub grid_tokens: usize,
    pub language: &'static str,
    pub layers: usize,
    pub hidden_size: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Context length in tokens.
    pub context: usize,
    pub rope: &'static str,
    pub rope_theta: f64,
}

/// Sizes of a window and of a camera's buffer under the plan.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub plan: String,
    pub frames: usize,
    pub slow_frames: usize,
    pub video_tokens: usize,
    /// Bytes that the buffer keeps per frame, without its JPEG.
    pub frame_bytes: usize,
    /// Frames that the buffer keeps per camera.
    pub camera_frames: usize,
    pub camera_bytes: usize,
}

#[derive(Debug, Serialize)]
pub struct Running {
    pub vision: RunsOn,
    pub language: RunsOn,
    /// Origin of the prompt around a question.
    pub prompts: String,
    /// Maximum number of tokens in a sequence: video, text and answer.
    pub sequence_tokens: usize,
    /// Bytes of the KV cache for one sequence of that length.
    pub kv_cache_bytes: usize,
    pub load_seconds: f64,
    /// Resident memory of this process with everything loaded, or `None` if it is unknown.
    pub resident_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct RunsOn {
    pub device: &'static str,
    /// Reason for the device. Empty if the config names the device.
    pub reason: String,
}

/// A camera's load on the buffer.
#[derive(Clone, Copy, Debug)]
pub struct CameraLoad {
    /// Frames per second.
    pub fps: f64,
    pub token_age: Duration,
}

impl Inspection {
    pub fn of(model: &config::Model, max_new_tokens: usize, camera: CameraLoad) -> Inspection {
        let folder = model.package.clone().unwrap_or_default();
        let mut found = Inspection {
            folder: folder.clone(),
            graphs: Vec::new(),
            model: None,
            plan: None,
            running: None,
            refusals: Vec::new(),
        };
        let whole = found.accept(Package::of(model));
        let can_run = whole.is_some();
        // A package without a decoder does not run in this process, but it can be described.
        let package = whole.or_else(|| Package::of_without_decoder(model).ok());
        found.list_graphs(&folder, package.as_ref());
        if let Some(package) = package {
            found.plan = found.accept(plan(model, &package, camera));
            found.model = Some(describe(&package));
            if can_run {
                found.running = found.accept(run(model, max_new_tokens));
            }
        }
        found
    }

    /// Returns the value, or adds the error to the refusals.
    fn accept<T>(&mut self, outcome: Result<T, ModelError>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let why = error.to_string();
                if !self.refusals.contains(&why) {
                    self.refusals.push(why);
                }
                None
            }
        }
    }

    fn list_graphs(&mut self, folder: &Path, package: Option<&Package>) {
        for kind in GraphKind::ALL {
            for Graph { file, precision } in Graph::all(folder, kind).unwrap_or_default() {
                let graph = package.and_then(|package| package.graph(kind).ok());
                let chosen = graph.is_some_and(|graph| graph.file == file);
                let facts = GraphFacts::read(&file);
                // Errors of graphs that will not run are ignored.
                let facts = if chosen { self.accept(facts) } else { facts.ok() };
                let data_files = facts.map(|facts| facts.data_files).unwrap_or_default();
                let size = |file: &PathBuf| fs::metadata(file).map_or(0, |meta| meta.len());
                let bytes = size(&file) + data_files.iter().map(size).sum::<u64>();
                self.graphs.push(GraphFile { kind: kind.name(), file, precision, bytes, chosen });
            }
        }
    }
}

fn describe(package: &Package) -> Model {
    let (vision, text) = (&package.vision, &package.text);
    Model {
        name: package.name.clone(),
        family: package.family.name(),
        vision: vision.tower.name(),
        image_size: vision.image_size,
        grid_tokens: vision.grid_tokens,
        language: text.kind.name(),
        layers: text.layers,
        hidden_size: text.hidden_size,
        kv_heads: text.kv_heads,
        head_dim: text.head_dim,
        vocab_size: text.vocab_size,
        context: text.context,
        rope: text.rope.scaling.name(),
        rope_theta: text.rope.theta,
    }
}

fn plan(model: &config::Model, package: &Package, camera: CameraLoad) -> Result<Plan, ModelError> {
    let plan = &model.plan;
    let wrong = |e| ModelError(format!("model.plan {plan}: {e}"));
    let grid = package.vision.grid_tokens;
    let shape = TokenShape::of(plan, grid, package.text.hidden_size).map_err(wrong)?;
    let camera_frames = (camera.fps * camera.token_age.as_secs_f64()).ceil() as usize;
    Ok(Plan {
        plan: plan.to_string(),
        frames: plan.frames,
        slow_frames: plan.slow_frames,
        video_tokens: plan.video_tokens(plan.frames, grid).map_err(wrong)?,
        frame_bytes: shape.frame_bytes(),
        camera_frames,
        camera_bytes: camera_frames * shape.frame_bytes(),
    })
}

fn run(model: &config::Model, max_new_tokens: usize) -> Result<Running, ModelError> {
    let begun = Instant::now();
    let loaded =
        LoadedModel::load(model, &config::Wording::default(), Budget::one_by_one(max_new_tokens))?;
    let (devices, language) = (loaded.devices(), &loaded.language);
    Ok(Running {
        vision: runs_on(devices.vision),
        language: runs_on(devices.language),
        prompts: language.template().to_string(),
        sequence_tokens: language.capacity(),
        kv_cache_bytes: language.slot_bytes(),
        load_seconds: begun.elapsed().as_secs_f64(),
        resident_bytes: resident_bytes(),
    })
}

fn runs_on(placement: Placement) -> RunsOn {
    RunsOn { device: placement.processor.name(), reason: placement.reason }
}

/// Returns the resident memory in bytes, as Linux reports it.
pub fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
