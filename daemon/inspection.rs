//! What a model package holds, what it takes to run it by a plan, and why it cannot be run, if so.
//!
//! Says all that it can find out of a package, however broken: a refusal ends only what depends on
//! it. To know whether a package runs, it is loaded as the daemon would load it.

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
    /// `None`: the package cannot be read so far.
    pub model: Option<Model>,
    pub plan: Option<Plan>,
    pub running: Option<Running>,
    /// Why it cannot be run, a sentence each; empty: it can.
    pub refusals: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct GraphFile {
    pub kind: &'static str,
    pub file: PathBuf,
    pub precision: String,
    /// With the weights beside it.
    pub bytes: u64,
    /// Whether it is the one that runs.
    pub chosen: bool,
}

#[derive(Debug, Serialize)]
pub struct Model {
    pub name: String,
    pub family: &'static str,
    pub vision: &'static str,
    /// Pixels a side.
    pub image_size: usize,
    /// Patch tokens a frame.
    pub grid_tokens: usize,
    pub language: &'static str,
    pub layers: usize,
    pub hidden_size: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Tokens.
    pub context: usize,
    pub rope: &'static str,
    pub rope_theta: f64,
}

/// A window's size under the plan.
#[derive(Debug, Serialize)]
pub struct Plan {
    pub plan: String,
    pub frames: usize,
    pub slow_frames: usize,
    pub video_tokens: usize,
    /// What the buffer keeps of one frame, beside its JPEG.
    pub frame_bytes: usize,
    /// Frames of a camera that the buffer keeps.
    pub camera_frames: usize,
    pub camera_bytes: usize,
}

#[derive(Debug, Serialize)]
pub struct Running {
    pub vision: RunsOn,
    pub language: RunsOn,
    /// Where the prompt around a question comes from.
    pub prompts: String,
    /// Tokens of video, words and answer that a sequence may have.
    pub sequence_tokens: usize,
    /// Of one sequence of that length.
    pub kv_cache_bytes: usize,
    pub load_seconds: f64,
    /// Of this process, with everything loaded.
    pub resident_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct RunsOn {
    pub device: &'static str,
    /// Why; empty when it was chosen by name.
    pub reason: String,
}

/// What a camera asks of the buffer.
#[derive(Clone, Copy, Debug)]
pub struct Footage {
    /// Frames a second.
    pub fps: f64,
    pub age: Duration,
}

impl Inspection {
    pub fn of(model: &config::Model, max_new_tokens: usize, footage: Footage) -> Inspection {
        let mut found = Inspection {
            folder: model.package.clone(),
            graphs: Vec::new(),
            model: None,
            plan: None,
            running: None,
            refusals: Vec::new(),
        };
        let package = Package::read(&model.package, &model.precision);
        found.list_graphs(&model.package, package.as_ref().ok());
        match package {
            Ok(package) => {
                found.plan = found.hear(plan(model, &package, footage));
                found.model = Some(describe(&package));
                found.running = found.hear(run(model, max_new_tokens));
            }
            Err(error) => found.refusals.push(error.to_string()),
        }
        found
    }

    fn hear<T>(&mut self, outcome: Result<T, ModelError>) -> Option<T> {
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
                let chosen = package.is_some_and(|package| package.graph(kind).file == file);
                let facts = GraphFacts::read(&file);
                // Of those that are not run nobody needs to know.
                let facts = if chosen { self.hear(facts) } else { facts.ok() };
                let beside = facts.map(|facts| facts.data_files).unwrap_or_default();
                let size = |file: &PathBuf| fs::metadata(file).map_or(0, |meta| meta.len());
                let bytes = size(&file) + beside.iter().map(size).sum::<u64>();
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

fn plan(model: &config::Model, package: &Package, footage: Footage) -> Result<Plan, ModelError> {
    let plan = &model.plan;
    let wrong = |e| ModelError(format!("model.plan {plan}: {e}"));
    let grid = package.vision.grid_tokens;
    let shape = TokenShape::of(plan, grid, package.text.hidden_size).map_err(wrong)?;
    let camera_frames = (footage.fps * footage.age.as_secs_f64()).ceil() as usize;
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
    let loaded = LoadedModel::load(model, Budget::one_by_one(max_new_tokens))?;
    let (devices, language) = (loaded.devices(), &loaded.language);
    Ok(Running {
        vision: runs_on(devices.vision),
        language: runs_on(devices.language),
        prompts: language.template().to_string(),
        sequence_tokens: language.capacity(),
        kv_cache_bytes: language.row_bytes(),
        load_seconds: begun.elapsed().as_secs_f64(),
        resident_bytes: resident_bytes(),
    })
}

fn runs_on(placement: Placement) -> RunsOn {
    RunsOn { device: placement.processor.name(), reason: placement.reason }
}

/// Linux's own count.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
