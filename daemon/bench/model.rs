//! Implements `lookout bench model`: shows in one command how a model package runs on a device.
//!
//! The same clip, generated from a seed, is processed by the CPU and by the device. The report
//! gives the time of each and how far the device is from the CPU in a frame's features, in the
//! first logits and in the greedy tokens that follow. The text itself is irrelevant: generation
//! does not stop early, so that both sides generate the same number of tokens. Features and logits
//! are compared separately: the language model gets the CPU's video tokens on both sides.
//!
//! Without a GPU both sides are the CPU, and the report says so. With `--device-only` the CPU runs
//! nothing and nothing is compared, because a model of real size takes minutes on it.

use std::fmt;
use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::clip::{self, Scene};
use super::median;
use super::package::{DeviceArg, GpuArgs, ModelArgs};
use super::parity::{Parity, Tolerance};
use crate::config::{self, Sampling};
use crate::exit::Failure;
use crate::language::template::ChatTemplate;
use crate::language::tokenizer::Tokenizer;
use crate::language::{Decoder, Embedder, Sampler};
use crate::loaded;
use crate::model::{GraphKind, Package, Placement, Processor, Runtime};
use crate::slowfast::{FrameTokens, Grid, VideoTokens, assemble, pool_frame};
use crate::vision::Encoder;
use crate::vision::preprocess::Scratch;

const QUESTION: &str = "What is happening?";
const SEED: u64 = 1;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    /// The device to compare with the CPU.
    #[arg(long, value_name = "DEVICE", value_enum, default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
    /// Measure only the device: skip the CPU and the comparison with it.
    #[arg(long)]
    device_only: bool,
    /// Number of new tokens in each round.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    max_new_tokens: u32,
    /// Number of rounds; each figure is their median.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Runs the benchmark. Exit code 0: the device agrees with the CPU; 1: it does not, or a part of
/// the model cannot run on it; 2: the device is not available at all.
pub fn run(options: &Options, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let bench = Bench::new(options).map_err(Failure::cannot_begin)?;
    let device = Runtime::load(&bench.model).map_err(Failure::cannot_begin)?;
    let report = bench.measure(&device)?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    Ok(if report.pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The input of both sides.
struct Bench {
    model: config::Model,
    package: Package,
    tokens: usize,
    rounds: usize,
    device_only: bool,
    /// `pixel_values` of every frame, `[3, size, size]` each.
    frames: Vec<Vec<f32>>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    onnxruntime: String,
    plan: String,
    frames: usize,
    rounds: usize,
    parts: Vec<PartReport>,
    /// Peak memory of the process, both sides together; GPU memory is not counted.
    peak_memory_bytes: u64,
    /// True if the device was the CPU as well.
    only_cpu: bool,
    pass: bool,
}

#[derive(Serialize)]
struct PartReport {
    part: &'static str,
    /// The CPU's speed, or `None` if only the device was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Speed>,
    /// The device's results, or `None` if this part cannot run there; `refused` gives the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    pass: bool,
}

#[derive(Serialize)]
struct DeviceReport {
    device: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    device_reason: String,
    speed: Speed,
    /// The distance from the CPU's results, or `None` if only the device was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    parity: Option<Parity>,
}

/// The output of a part of the model, the device that ran it, and its speed.
type Ran<T> = (T, Placement, Speed);

/// Speed of one part of the model: medians of the rounds.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Speed {
    Vision { encode_seconds_per_frame: f64 },
    Language { prefill_tokens_per_second: f64, decode_tokens_per_second: f64 },
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Bench> {
        // All other settings have the defaults of a config.
        let mut keys = options.model.keys()?;
        keys.insert("device".into(), options.device.name().into());
        options.gpu.add_to(&mut keys);
        let model = config::Model::of(keys)?;
        let package = Package::of(&model)?;
        let frames = pixels(&model, &package)?;
        let (tokens, rounds) = (options.max_new_tokens as usize, options.rounds as usize);
        let device_only = options.device_only;
        Ok(Bench { model, package, tokens, rounds, device_only, frames })
    }

    fn measure(&self, device: &Runtime) -> anyhow::Result<Report> {
        let cpu = device.on_the_cpu();
        let reference = self.reference(|| self.encode(&cpu))?;
        let ran = self.encode(device);
        let features = match (&reference, &ran) {
            (Some((features, ..)), _) | (None, Ok((features, ..))) => features.clone(),
            (None, Err(refused)) => bail!("vision: {refused}"),
        };
        let tolerance = Tolerance::of(self.package.graph(GraphKind::Vision)?);
        let vision = PartReport::of("vision", reference, ran, |wanted, found| {
            Parity::new("features", wanted, found, None, tolerance)
        });
        let video = self.video_tokens(&features)?;
        let reference = self.reference(|| self.answer(&cpu, &video))?;
        let tolerance = Tolerance::of(self.package.graph(GraphKind::Decoder)?);
        let ran = self.answer(device, &video);
        let language = PartReport::of("language", reference, ran, |wanted, found| {
            let ids = Some((&wanted.ids[..], &found.ids[..]));
            Parity::new("first logits", &wanted.logits, &found.logits, ids, tolerance)
        });
        let parts = vec![vision, language];
        let mut ran = parts.iter().filter_map(|part| part.device.as_ref()).peekable();
        Ok(Report {
            model: self.package.name.clone(),
            onnxruntime: device.file.display().to_string(),
            plan: self.model.plan.to_string(),
            frames: self.frames.len(),
            rounds: self.rounds,
            peak_memory_bytes: peak_memory(),
            only_cpu: ran.peek().is_some() && ran.all(|ran| ran.device == Processor::Cpu.name()),
            pass: parts.iter().all(|part| part.pass),
            parts,
        })
    }

    /// Runs the CPU's side, unless only the device is measured.
    fn reference<T>(&self, run: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        if self.device_only { Ok(None) } else { run().map(Some) }
    }

    /// Encodes all frames. Returns their features one after the other, `[T, N, D]`.
    fn encode(&self, runtime: &Runtime) -> anyhow::Result<Ran<Vec<f32>>> {
        let mut encoder = Encoder::load(runtime, &self.package, self.model.vision_threads)?;
        let mut features = Vec::new();
        let mut seconds = Vec::new();
        for round in 0..self.rounds {
            let begun = Instant::now();
            for frame in &self.frames {
                let encoded = encoder.encode(frame)?;
                if round == 0 {
                    features.extend(encoded.features);
                }
            }
            seconds.push(begun.elapsed().as_secs_f64() / self.frames.len() as f64);
        }
        let speed = Speed::Vision { encode_seconds_per_frame: median(seconds) };
        Ok((features, encoder.placement().clone(), speed))
    }

    /// Pools and assembles the video tokens as the daemon does for a window.
    fn video_tokens(&self, features: &[f32]) -> anyhow::Result<VideoTokens> {
        let (tokens, dim) = (self.package.vision.grid_tokens, self.package.text.hidden_size);
        let pooled: Vec<FrameTokens> = features
            .chunks(tokens * dim)
            .map(|rows| pool_frame(Grid { rows, tokens, dim }, &self.model.plan))
            .collect::<Result<_, _>>()?;
        let pooled: Vec<&FrameTokens> = pooled.iter().collect();
        Ok(assemble(&pooled, &self.model.plan, dim))
    }

    fn answer(&self, runtime: &Runtime, video: &VideoTokens) -> anyhow::Result<Ran<Generated>> {
        let threads = self.model.language_threads;
        let tokenizer = Tokenizer::load(&self.package.folder).map_err(|e| anyhow!("{e}"))?;
        let mut embedder = Embedder::load(runtime, &self.package, threads)?;
        let (family, kind) = (self.package.family, self.package.text.kind);
        let wording = &config::Wording::default();
        let template = ChatTemplate::of(&self.package.folder, family, kind, &tokenizer, wording)?;
        let text = template.render(&[], QUESTION)?;
        let prompt = tokenizer.encode_around_image(&text).map_err(|e| anyhow!("{e}"))?;
        let mut embeddings = Vec::new();
        for (at, piece) in prompt.pieces.iter().enumerate() {
            if at > 0 {
                embeddings.extend_from_slice(&video.rows);
            }
            embeddings.extend(embedder.embed(piece)?);
        }
        let dim = self.package.text.hidden_size;
        let (read, context) = (embeddings.len() / dim, self.package.text.context);
        if read + self.tokens > context {
            bail!(
                "plan {} and {} tokens need {} places; the model's context has {context}",
                self.model.plan,
                self.tokens,
                read + self.tokens
            );
        }
        let mut decoder = Decoder::load(runtime, &self.package, threads, read + self.tokens)?;
        let mut cache = decoder.cache(1)?;
        // Some graphs accept several tokens only with an empty cache. They get the whole prompt in
        // one piece.
        decoder.read(&mut cache, 0, &embeddings[..dim])?;
        let chunk = match decoder.read(&mut cache, 0, &embeddings[..2 * dim]) {
            Ok(_) => self.model.prefill_chunk,
            Err(_) => read,
        };
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        let mut generated = Generated::default();
        for _ in 0..self.rounds {
            generated = Generated::default();
            decoder.clear(&mut cache, 0)?;
            let begun = Instant::now();
            let mut logits = Vec::new();
            for chunk in embeddings.chunks(chunk * dim) {
                logits = decoder.read(&mut cache, 0, chunk)?;
            }
            prefill.push(read as f64 / begun.elapsed().as_secs_f64());
            generated.logits = logits.clone();
            let mut sampler = Sampler::new(Sampling::Greedy);
            let begun = Instant::now();
            for _ in 0..self.tokens {
                let id = sampler.next(&logits).context("the decoder's logits are not finite")?;
                generated.ids.push(id);
                logits = decoder.read(&mut cache, 0, &embedder.embed(&[id])?)?;
            }
            decode.push(self.tokens as f64 / begun.elapsed().as_secs_f64());
        }
        let speed = Speed::Language {
            prefill_tokens_per_second: median(prefill),
            decode_tokens_per_second: median(decode),
        };
        Ok((generated, decoder.placement().clone(), speed))
    }
}

/// The output of the language model.
#[derive(Default)]
struct Generated {
    /// Logits after the prompt.
    logits: Vec<f32>,
    ids: Vec<u32>,
}

impl PartReport {
    /// Reports a part that ran on the device, or the reason why it could not. `compare` compares the
    /// CPU's output with the device's.
    fn of<T>(
        part: &'static str,
        reference: Option<Ran<T>>,
        ran: anyhow::Result<Ran<T>>,
        compare: impl FnOnce(&T, &T) -> Parity,
    ) -> PartReport {
        let cpu = reference.as_ref().map(|(_, _, speed)| *speed);
        let (found, Placement { processor, reason }, speed) = match ran {
            Ok(ran) => ran,
            Err(why) => {
                let refused = Some(why.to_string());
                return PartReport { part, cpu, device: None, refused, pass: false };
            }
        };
        let parity = reference.map(|(wanted, ..)| compare(&wanted, &found));
        let pass = parity.as_ref().is_none_or(|parity| parity.pass);
        let device =
            DeviceReport { device: processor.name(), device_reason: reason, speed, parity };
        PartReport { part, cpu, device: Some(device), refused: None, pass }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { model, onnxruntime, plan, frames, rounds, .. } = self;
        writeln!(f, "{model}, plan {plan}, {frames} frames; medians of {rounds} rounds")?;
        writeln!(f, "{onnxruntime}")?;
        for part in &self.parts {
            let mut name = part.part;
            if let Some(cpu) = &part.cpu {
                writeln!(f, "{name:<9} on cpu    {cpu}")?;
                name = "";
            }
            if let Some(ran) = &part.device {
                let device = format!("on {}", ran.device);
                write!(f, "{name:<9} {device:<9} {}", ran.speed)?;
                match ran.device_reason.as_str() {
                    "" => writeln!(f)?,
                    reason => writeln!(f, "   ({reason})")?,
                }
                if let Some(parity) = &ran.parity {
                    writeln!(f, "{:<9} parity    {parity}", "")?;
                }
            }
            if let Some(refused) = &part.refused {
                writeln!(f, "{:<9} FAIL      {refused}", "")?;
            }
        }
        writeln!(f, "peak memory of this process: {}", bytesize::ByteSize(self.peak_memory_bytes))?;
        if self.only_cpu {
            writeln!(f, "only the CPU ran: this says nothing about a GPU")?;
        }
        writeln!(f, "{}", if self.pass { "PASS" } else { "FAIL" })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Speed::Vision { encode_seconds_per_frame: seconds } => {
                write!(f, "{seconds:.4} s a frame")
            }
            Speed::Language { prefill_tokens_per_second, decode_tokens_per_second } => write!(
                f,
                "reads {prefill_tokens_per_second:.0} tokens/s, writes \
                 {decode_tokens_per_second:.1} tokens/s"
            ),
        }
    }
}

/// Returns the `pixel_values` of a generated clip with as many frames as the plan requires.
fn pixels(model: &config::Model, package: &Package) -> anyhow::Result<Vec<Vec<f32>>> {
    let preprocess = loaded::preprocess(package, model.resize)?;
    let scene = Scene::new(SEED);
    let mut scratch = Scratch::default();
    let frame = |number: usize| {
        let mut pixels = vec![0.0; 3 * preprocess.size * preprocess.size];
        let bgrx = scene.bgrx(number);
        preprocess.pixels(&mut scratch, &bgrx, clip::WIDTH, clip::HEIGHT, &mut pixels)?;
        Ok(pixels)
    };
    (0..model.plan.frames).map(frame).collect()
}

/// Returns the peak resident memory of this process, in bytes (proc(5), VmHWM).
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
