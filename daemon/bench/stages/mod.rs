//! Implements `lookout bench stages`: the cost of a frame and of a caption, stage by stage, which
//! shows where a camera's time goes; and the saving from encoding each frame only once.
//!
//! A clip is played over RTSP on loopback and watched as by the daemon. Its frames then pass
//! through all other stages, one stage after the other. A round is the work of one caption. All
//! figures are CPU time of this process, medians of the rounds; nothing else runs at the same time.

mod camera;
mod vision;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use toml::{Table, Value};

use self::camera::Received;
use self::vision::{EncodedOnce, Vision, VisionCost};
use super::cpu::cpu_time;
use super::loopback::Served;
use super::median;
use super::package::ModelArgs;
use super::window::{self, Window};
use crate::config::Config;
use crate::demo;
use crate::exit::Failure;
use crate::frame::Frame;
use crate::language::LanguageModel;
use crate::model::{Package, Runtime};
use crate::slowfast::{FrameTokens, assemble};

/// Smallest number of windows that shows the saving from encoding once.
const WINDOWS_MIN: usize = 5;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelArgs,
    /// Clip to play: H.264 or H.265 in MP4, over RTSP on loopback. Default: the demo's gate.
    #[arg(long, value_name = "FILE")]
    clip: Option<PathBuf>,
    /// Frames sampled per second.
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    fps: f64,
    /// Length of the window that a caption describes.
    #[arg(long, value_name = "DURATION", default_value = "8s", value_parser = humantime::parse_duration)]
    window: Duration,
    /// Time from one caption to the next.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = humantime::parse_duration)]
    caption_interval: Duration,
    /// Number of tokens in a caption, without its end token.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_new_tokens: u32,
    /// Number of onnxruntime threads.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Number of rounds; each figure is their median. The clip plays for --caption-interval
    /// in each.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let bench = Bench::new(options).map_err(Failure::cannot_begin)?;
    let report = bench.report(options)?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    clip: PathBuf,
    served: Served,
    config: Config,
    package: Package,
    vision: Vision,
    language: LanguageModel,
}

#[derive(Serialize)]
struct Report {
    model: String,
    plan: String,
    clip: String,
    /// Width and height of its frames.
    resolution: [u32; 2],
    threads: usize,
    rounds: usize,
    fps: f64,
    window_seconds: f64,
    caption_interval_seconds: f64,
    /// Number of frames in a caption's window.
    frames: usize,
    video_tokens: usize,
    text_tokens: u32,
    tokens: usize,
    stages: Vec<Stage>,
    caption_cpu_ms: f64,
    /// Share of one core that this camera keeps busy.
    share_of_core: f64,
    encoded_once: EncodedOnce,
}

#[derive(Serialize)]
struct Stage {
    stage: &'static str,
    /// The unit of work: `frame`, `window`, `token` or `question`.
    per: &'static str,
    /// CPU-milliseconds per unit.
    cpu_ms: f64,
    /// Number of units per caption.
    per_caption: f64,
    caption_cpu_ms: f64,
    /// Share of a caption's total cost.
    share: f64,
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Bench> {
        let clip = match &options.clip {
            Some(clip) => clip.clone(),
            None => demo::assets(None)?.join("cameras/gate.mp4"),
        };
        let served = Served::clip(&clip)?;
        let config = config(options, &served.url)?;
        let mut package = Package::of(&config.model)?;
        let runtime = Runtime::load(&config.model)?;
        let vision = Vision::load(&runtime, &package, &config)?;
        // One more than in a caption: the end token.
        let tokens = options.max_new_tokens as usize + 1;
        let language = window::language(&runtime, &mut package, &config.model, tokens)?;
        Ok(Bench { clip, served, config, package, vision, language })
    }

    fn report(mut self, options: &Options) -> anyhow::Result<Report> {
        let (rounds, tokens) = (options.rounds as usize, options.max_new_tokens as usize);
        let Options { fps, window, caption_interval, .. } = *options;
        // Number of frames between two captions, and number of frames in a caption's window.
        let new_frames = fps * caption_interval.as_secs_f64();
        let a_round = (new_frames.round() as usize).max(1);
        let plan = self.config.model.plan;
        let in_window = (fps * window.as_secs_f64()).round() as usize;
        let in_window = in_window.clamp(1, plan.frames);

        let Some(camera) = self.config.cameras.pop() else { bail!("no camera") };
        let Received { frames, cpu_ms: decode } = camera::receive(camera, rounds, a_round)?;
        drop(self.served);
        let repeated = |count| (0..count).map(|number| &frames[number % frames.len()]);
        let (mut vision_costs, mut seen) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let (tokens, cost) = self.vision.encode_frames(repeated(a_round))?;
            vision_costs.push(cost);
            seen = tokens;
            tracing::info!("vision, round {round} of {rounds}: {:.2} ms a frame", cost.encode);
        }
        let encoded_once = self.vision.encoded_once(&frames, rounds.max(WINDOWS_MIN))?;

        let seen: Vec<&FrameTokens> = (0..in_window).map(|at| &seen[at % seen.len()]).collect();
        let dim = self.package.text.hidden_size;
        let mut costs = LanguageCosts::default();
        for round in 1..=rounds {
            let (video, ms) = spent(|| assemble(&seen, &plan, dim));
            costs.assemble.push(ms);
            let window = Window::new(video, round as u64);
            costs.round(&mut self.language, &window, tokens)?;
            let read = costs.prefill[round - 1];
            tracing::info!("language, round {round} of {rounds}: {read:.1} ms to read a window");
        }

        let vision = |of: fn(&VisionCost) -> f64| vision_costs.iter().map(of).collect();
        let mut stages = vec![
            Stage::new("decode", "frame", new_frames, decode),
            Stage::new("resize", "frame", new_frames, vision(|cost| cost.resize)),
            Stage::new("jpeg", "frame", new_frames, vision(|cost| cost.jpeg)),
            Stage::new("encode", "frame", new_frames, vision(|cost| cost.encode)),
            Stage::new("pool", "frame", new_frames, vision(|cost| cost.pool)),
            Stage::new("assemble", "window", 1.0, costs.assemble),
            Stage::new("prefill", "window", 1.0, costs.prefill),
            Stage::new("token", "token", tokens as f64, costs.token),
        ];
        // This stage is absent where the graph cannot continue from a prefix.
        if !costs.question.is_empty() {
            stages.push(Stage::new("question", "question", 0.0, costs.question));
        }
        let caption_cpu_ms: f64 = stages.iter().map(|stage| stage.caption_cpu_ms).sum();
        for stage in &mut stages {
            stage.share = stage.caption_cpu_ms / caption_cpu_ms;
        }
        let Frame { width, height, .. } = frames[0];
        Ok(Report {
            model: self.package.name.clone(),
            plan: plan.to_string(),
            clip: self.clip.display().to_string(),
            resolution: [width, height],
            threads: self.config.model.language_threads,
            rounds,
            fps,
            window_seconds: window.as_secs_f64(),
            caption_interval_seconds: caption_interval.as_secs_f64(),
            frames: in_window,
            video_tokens: plan.video_tokens(in_window, self.package.vision.grid_tokens)?,
            text_tokens: costs.text_tokens,
            tokens,
            stages,
            caption_cpu_ms,
            share_of_core: caption_cpu_ms / (caption_interval.as_secs_f64() * 1e3),
            encoded_once,
        })
    }
}

/// Builds a config from the options; the config's checks apply to them.
fn config(options: &Options, url: &str) -> anyhow::Result<Config> {
    let threads = Value::from(i64::from(options.threads));
    let mut model = options.model.keys()?;
    model.insert("device".into(), "cpu".into());
    model.insert("vision_threads".into(), threads.clone());
    model.insert("language_threads".into(), threads);
    let time = |time| Value::from(humantime::format_duration(time).to_string());
    let camera = [
        ("name", "bench".into()),
        ("url", url.into()),
        ("fps", options.fps.into()),
        ("window", time(options.window)),
        ("caption_interval", time(options.caption_interval)),
    ];
    let camera = camera.map(|(key, value): (_, Value)| (key.to_string(), value));
    let cameras = vec![Table::from_iter(camera).into()];
    let config = [("model", model.into()), ("camera", Value::Array(cameras))];
    let config = Table::from_iter(config.map(|(key, value)| (key.to_string(), value)));
    Ok(Config::parse(&toml::to_string(&config)?, Path::new(""))?)
}

/// CPU-milliseconds of the language model, for each round.
#[derive(Default)]
struct LanguageCosts {
    assemble: Vec<f64>,
    /// Reading the caption's whole prompt.
    prefill: Vec<f64>,
    token: Vec<f64>,
    /// Reading another prompt about the same window.
    question: Vec<f64>,
    text_tokens: u32,
}

impl LanguageCosts {
    fn round(
        &mut self,
        language: &mut LanguageModel,
        window: &Window,
        tokens: usize,
    ) -> anyhow::Result<()> {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        // The prompt yields the first token.
        let caption = window::ask(language, window.request(0, tokens + 1), |_| cpu_time())?;
        self.prefill.push(ms(caption.read));
        self.token.push(ms(caption.written) / tokens as f64);
        self.text_tokens = caption.reply.usage.text_tokens;
        let question = window::ask(language, window.request(1, 1), |_| cpu_time())?;
        if question.reply.usage.cached_tokens > 0 {
            self.question.push(ms(question.read));
        }
        Ok(())
    }
}

impl Stage {
    fn new(stage: &'static str, per: &'static str, per_caption: f64, cpu_ms: Vec<f64>) -> Stage {
        let cpu_ms = median(cpu_ms);
        Stage { stage, per, cpu_ms, per_caption, caption_cpu_ms: cpu_ms * per_caption, share: 0.0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { model, plan, clip, resolution: [width, height], threads, rounds, .. } = self;
        let Report { fps, window_seconds, caption_interval_seconds, frames, .. } = self;
        let Report { video_tokens, text_tokens, tokens, .. } = self;
        writeln!(f, "{model}, plan {plan}; {clip}, {width}x{height}")?;
        writeln!(
            f,
            "a caption every {caption_interval_seconds} s, of {window_seconds} s at {fps} frames/s: {frames} \
             frames, {video_tokens} + {text_tokens} tokens read, {tokens} written"
        )?;
        writeln!(f, "CPU time, threads {threads}, medians of {rounds} rounds")?;
        writeln!(f, "\nstage        ms each     a caption takes           ms     share")?;
        for Stage { stage, per, cpu_ms, per_caption, caption_cpu_ms, share } in &self.stages {
            write!(f, "{stage:<9} {cpu_ms:>10.3}   ")?;
            match *per_caption {
                0.0 => writeln!(f, "one more about the same window")?,
                _ => writeln!(
                    f,
                    "{per_caption:>6} {:<8} {caption_cpu_ms:>14.2}   {:>5.1} %",
                    if *per_caption == 1.0 { per.to_string() } else { format!("{per}s") },
                    share * 100.0
                )?,
            }
        }
        let (all, core) = (self.caption_cpu_ms, self.share_of_core * 100.0);
        writeln!(f, "a caption {:>42.2}           {core:.1} % of one core", all)?;
        let EncodedOnce {
            frames,
            stride,
            windows,
            new_frames_cpu_ms,
            all_frames_cpu_ms,
            ratio,
            same_tokens,
        } = &self.encoded_once;
        writeln!(
            f,
            "\nencoded once: {windows} windows of {frames} frames, {stride} of them new: \
             {new_frames_cpu_ms:.1} ms a window; all {frames} again: {all_frames_cpu_ms:.1} ms; {ratio:.3} of it, \
             {}",
            if *same_tokens { "for the same tokens" } else { "but OTHER TOKENS" }
        )
    }
}

/// Runs `work`. Returns its result and its CPU-milliseconds.
fn spent<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = cpu_time();
    let done = work();
    (done, (cpu_time() - begun).as_secs_f64() * 1e3)
}
