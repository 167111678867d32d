//! Implements `lookout bench language`: the cost of further questions, and the time that the daemon
//! adds to onnxruntime.
//!
//! - prefix: eight questions about one window compared with one, one after the other;
//! - rules: the scores of eight rules about a window and its caption, compared with a caption alone;
//! - batch: tokens of sequences generated together compared with one sequence alone, in alternating
//!   steps, at the window's length;
//! - share: a whole answer by the daemon's language model compared with the time of onnxruntime's
//!   own calls in it;
//! - schema: a token of an answer by a JSON Schema compared with one without, and what the schema
//!   itself costs.
//!
//! All figures are CPU time of one process, or wall-clock time if a GPU runs the model; ratios of
//! neighbouring measurements, medians over rounds or steps. The video tokens are noise, because
//! their content does not change the cost. Answers never end early.

mod rules;
mod schema;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::cpu::{cpu_time, wall_time};
use super::median;
use super::package::{DeviceArg, GpuArgs, ModelArgs};
use super::window::{self, Answered, QUESTIONS, Window};
use crate::config;
use crate::exit::Failure;
use crate::language::{Decoder, Embedder, LanguageModel, Lap, Laps};
use crate::model::{Package, Runtime};
use crate::slowfast::VideoTokens;

const ROWS: [usize; 4] = [1, 2, 4, MOST_ROWS];
const MOST_ROWS: usize = 8;

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Device, as `model.device` in a config. With cuda, times are wall-clock times.
    #[arg(long, value_name = "DEVICE", value_enum, default_value_t = DeviceArg::Cpu)]
    device: DeviceArg,
    /// Number of onnxruntime threads.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Prompt tokens read at once, as `model.prefill_chunk` in a config.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    prefill_chunk: Option<u32>,
    /// Number of tokens in each answer.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_new_tokens: u32,
    /// Number of rounds; each figure is their median.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measure the cost of a schema with the vocabulary of this folder's tokenizer.json, without a
    /// model.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// Run only one of the five sections.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Prefix,
    Rules,
    Batch,
    Share,
    Schema,
}

pub fn run(options: &Options, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    if let Some(folder) = &options.tokenizer {
        let costs = schema::vocabulary(folder, options.rounds as usize)?;
        if options.json {
            writeln!(out, "{}", serde_json::to_string(&costs)?)?;
        } else {
            write!(out, "{costs}")?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut bench = Bench::new(options).map_err(Failure::cannot_begin)?;
    let report = bench.report(options.rounds as usize, options.only)?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    model: config::Model,
    clock: fn() -> Duration,
    /// The name of the quantity that `clock` measures.
    time: &'static str,
    package: Package,
    runtime: Runtime,
    language: LanguageModel,
    video_tokens: usize,
    tokens: usize,
    windows: u64,
}

/// Medians of the rounds.
#[derive(Serialize)]
struct Report {
    model: String,
    plan: String,
    time: &'static str,
    video_tokens: usize,
    threads: usize,
    tokens: usize,
    rounds: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix: Option<Prefix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<rules::Costs>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    batch: Vec<Together>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<schema::Costs>,
}

#[derive(Serialize)]
struct Prefix {
    first_question_seconds: f64,
    eight_questions_seconds: f64,
    eight_to_one: f64,
    cached_bytes: usize,
    /// True if the first question, asked again behind the cached prefix, got the same tokens.
    same_answer_from_cache: bool,
}

#[derive(Serialize)]
struct Together {
    rows: usize,
    tokens_per_second: f64,
    /// Ratio to the speed of one sequence, in alternating steps.
    ratio: f64,
}

#[derive(Serialize)]
struct Share {
    prompt_tokens: usize,
    /// Speed of onnxruntime's calls alone.
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    onnxruntime_seconds: f64,
    lookout_seconds: f64,
    /// Lookout's time beyond onnxruntime's, as a fraction of onnxruntime's.
    added: f64,
    /// Seconds of what lookout does beyond these calls.
    own: Own,
}

/// Seconds of lookout's own work in an answer.
#[derive(Serialize)]
struct Own {
    prompt: f64,
    inputs: f64,
    logits: f64,
    sampling: f64,
    keys_and_values: f64,
    other: f64,
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Bench> {
        let mut keys = options.model.keys()?;
        keys.insert("device".into(), options.device.name().into());
        options.gpu.add_to(&mut keys);
        let on_cpu = options.device == DeviceArg::Cpu;
        keys.insert("language_threads".into(), i64::from(options.threads).into());
        let chunk = options.prefill_chunk.map(i64::from);
        keys.extend(chunk.map(|chunk| ("prefill_chunk".into(), chunk.into())));
        let model = config::Model::of(keys)?;
        let mut package = Package::of(&model)?;
        let runtime = Runtime::load(&model)?;
        let tokens = options.max_new_tokens as usize;
        let video_tokens =
            model.plan.video_tokens(model.plan.frames, package.vision.grid_tokens)?;
        let language = window::language(&runtime, &mut package, &model, tokens)?;
        let clock: fn() -> Duration = if on_cpu { cpu_time } else { wall_time };
        let time = if on_cpu { "CPU time" } else { "wall-clock time" };
        Ok(Bench {
            model,
            clock,
            time,
            package,
            runtime,
            language,
            video_tokens,
            tokens,
            windows: 0,
        })
    }

    fn report(&mut self, rounds: usize, only: Option<Part>) -> anyhow::Result<Report> {
        let wanted = |part| only.is_none_or(|only| only == part);
        let prefix = wanted(Part::Prefix).then(|| self.prefix(rounds)).transpose()?;
        let rules = wanted(Part::Rules).then(|| self.rules(rounds)).transpose()?;
        let steps = rounds * self.tokens;
        let batch = wanted(Part::Batch).then(|| self.together(steps)).transpose()?;
        let share = wanted(Part::Share).then(|| self.share(rounds)).transpose()?;
        let schema = wanted(Part::Schema).then(|| self.schema(rounds)).transpose()?;
        Ok(Report {
            model: self.package.name.clone(),
            plan: self.model.plan.to_string(),
            time: self.time,
            video_tokens: self.video_tokens,
            threads: self.model.language_threads,
            tokens: self.tokens,
            rounds,
            prefix,
            rules,
            batch: batch.unwrap_or_default(),
            share,
            schema,
        })
    }

    fn prefix(&mut self, rounds: usize) -> anyhow::Result<Prefix> {
        let (mut first, mut eight, mut more) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cached_bytes, mut same) = (0, true);
        for round in 1..=rounds {
            let window = self.window();
            let (seconds, same_now) = self.eight_questions(&window)?;
            same &= same_now;
            first.push(seconds[0]);
            eight.push(seconds.iter().sum());
            more.push(seconds.iter().sum::<f64>() / seconds[0]);
            cached_bytes = self.language.prefix_cache_bytes();
            tracing::info!(
                "round {round} of {rounds}: eight questions in {:.2} s",
                eight[round - 1]
            );
        }
        Ok(Prefix {
            first_question_seconds: median(first),
            eight_questions_seconds: median(eight),
            eight_to_one: median(more),
            cached_bytes,
            same_answer_from_cache: same,
        })
    }

    /// Returns the CPU-seconds of a window's caption.
    fn caption(&mut self, window: &Window) -> anyhow::Result<f64> {
        let (request, clock) = (window.request(0, self.tokens), self.clock);
        let answered = window::ask(&mut self.language, request, |_| clock())?;
        Ok((answered.read + answered.written).as_secs_f64())
    }

    /// Returns a window that no question has been asked about.
    fn window(&mut self) -> Window {
        self.windows += 1;
        let mut random = StdRng::seed_from_u64(self.windows);
        let dim = self.package.text.hidden_size;
        let rows = (0..self.video_tokens * dim).map(|_| random.random_range(-1.0..1.0)).collect();
        Window::new(VideoTokens { rows, dim }, self.windows)
    }

    /// Asks eight questions, one after the other, and the first one again. Returns the seconds of
    /// each of the eight, and true if the first one got the same tokens from the cache.
    fn eight_questions(&mut self, window: &Window) -> anyhow::Result<(Vec<f64>, bool)> {
        let clock = self.clock;
        let (mut seconds, mut answers) = (Vec::new(), Vec::new());
        for at in (0..QUESTIONS.len()).chain([0]) {
            let request = window.request(at, self.tokens);
            let answered = window::ask(&mut self.language, request, |_| clock())?;
            seconds.push((answered.read + answered.written).as_secs_f64());
            let cached = answered.reply.usage.cached_tokens;
            if (cached > 0) == answers.is_empty() {
                bail!("question {at}: {cached} cached tokens");
            }
            answers.push(answered.reply.ids);
        }
        seconds.truncate(QUESTIONS.len());
        Ok((seconds, answers.first() == answers.last()))
    }

    /// Measures steps with each number of sequences in turn, each sequence at the end of a window.
    fn together(&mut self, steps: usize) -> anyhow::Result<Vec<Together>> {
        let (threads, window) = (self.model.language_threads, self.window());
        let capacity = self.video_tokens + 1 + ROWS.len();
        let mut decoder = Decoder::load(&self.runtime, &self.package, threads, capacity)?;
        let mut embedder = Embedder::load(&self.runtime, &self.package, threads)?;
        let mut cache = decoder.cache(MOST_ROWS)?;
        for chunk in window.video.rows.chunks(self.model.prefill_chunk * window.video.dim) {
            decoder.read(&mut cache, 0, chunk)?;
        }
        let mut prefix = decoder.keep(&mut cache, 0)?;
        let clock = self.clock;
        let mut seconds = ROWS.map(|_| Vec::new());
        for _ in 0..steps {
            for row in 0..MOST_ROWS {
                decoder.restore(&mut cache, row, &mut prefix)?;
            }
            // A warm-up step: after this much copying, the first measured step would find the CPU's
            // caches cold.
            decoder.step(&mut cache, MOST_ROWS, &embedder.embed(&[0; MOST_ROWS])?)?;
            for (at, rows) in ROWS.into_iter().enumerate() {
                let begun = clock();
                let embeddings = embedder.embed(&vec![0; rows])?;
                decoder.step(&mut cache, rows, &embeddings)?;
                seconds[at].push((clock() - begun).as_secs_f64());
            }
        }
        let alone = seconds[0].clone();
        let together = |(rows, seconds): (usize, Vec<f64>)| Together {
            rows,
            ratio: median(
                alone.iter().zip(&seconds).map(|(one, all)| rows as f64 * one / all).collect(),
            ),
            tokens_per_second: rows as f64 / median(seconds),
        };
        Ok(ROWS.into_iter().zip(seconds).map(together).collect())
    }

    fn share(&mut self, rounds: usize) -> anyhow::Result<Share> {
        let (mut theirs, mut ours, mut added) = (Vec::new(), Vec::new(), Vec::new());
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        let mut laps: Vec<Laps> = Vec::new();
        let clock = self.clock;
        let prompt_tokens =
            self.language.prompt(&[], QUESTIONS[0])?.text_tokens() + self.video_tokens;
        for _ in 0..rounds {
            let window = self.window();
            let begun = clock();
            self.language.start_laps(clock);
            let request = window.request(0, self.tokens);
            let calls = |language: &LanguageModel| language.laps()[Lap::Call as usize];
            let Answered { read: reading, written: writing, .. } =
                window::ask(&mut self.language, request, calls)?;
            let all = (clock() - begun).as_secs_f64();
            let calls = (reading + writing).as_secs_f64();
            reads.push(prompt_tokens as f64 / reading.as_secs_f64());
            writes.push((self.tokens - 1) as f64 / writing.as_secs_f64());
            laps.push(self.language.laps());
            theirs.push(calls);
            ours.push(all);
            added.push(all / calls - 1.0);
        }
        let lap =
            |lap: Lap| median(laps.iter().map(|laps| laps[lap as usize].as_secs_f64()).collect());
        let other = laps
            .iter()
            .zip(&ours)
            .map(|(laps, all)| all - laps.iter().map(Duration::as_secs_f64).sum::<f64>());
        Ok(Share {
            prompt_tokens,
            prefill_tokens_per_second: median(reads),
            decode_tokens_per_second: median(writes),
            onnxruntime_seconds: median(theirs),
            own: Own {
                prompt: lap(Lap::Prompt),
                inputs: lap(Lap::Inputs),
                logits: lap(Lap::Logits),
                sampling: lap(Lap::Sampling),
                keys_and_values: lap(Lap::KeysAndValues),
                other: median(other.collect()),
            },
            lookout_seconds: median(ours),
            added: median(added),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { model, plan, time, video_tokens, threads, tokens, rounds, .. } = self;
        let Report { prefix, rules, batch, share, schema, .. } = self;
        writeln!(f, "{model}, plan {plan}: {video_tokens} video tokens, answers of {tokens}")?;
        writeln!(
            f,
            "{time}, threads {threads}, medians of {rounds} rounds, batch of {} steps",
            rounds * tokens
        )?;
        if let Some(prefix) = prefix {
            writeln!(
                f,
                "prefix    one question {:.3} s, eight about the same window {:.3} s: {:.2} times; {} kept",
                prefix.first_question_seconds,
                prefix.eight_questions_seconds,
                prefix.eight_to_one,
                bytesize::ByteSize(prefix.cached_bytes as u64)
            )?;
            let same = if prefix.same_answer_from_cache { "the same" } else { "ANOTHER" };
            writeln!(f, "          the first question again, from the cache: {same} answer")?;
        }
        if let Some(rules) = rules {
            write!(f, "{rules}")?;
        }
        for Together { rows, tokens_per_second, ratio } in batch {
            writeln!(f, "batch {rows:<3} {tokens_per_second:.1} tokens/s: {ratio:.2} times one")?;
        }
        if let Some(schema) = schema {
            write!(f, "{schema}")?;
        }
        let Some(share) = share else { return Ok(()) };
        let Share { onnxruntime_seconds, lookout_seconds, added, .. } = share;
        writeln!(
            f,
            "share     onnxruntime's calls {onnxruntime_seconds:.3} s, lookout {lookout_seconds:.3} s: \
             {:+.2} %",
            added * 100.0
        )?;
        writeln!(
            f,
            "          they read {:.1} tokens/s and write {:.1}",
            share.prefill_tokens_per_second, share.decode_tokens_per_second
        )?;
        let Own { prompt, inputs, logits, sampling, keys_and_values, other } = &share.own;
        writeln!(
            f,
            "          milliseconds of lookout: prompt {:.1}, inputs {:.1}, logits {:.1}, sampling \
             {:.1}, keys and values {:.1}, other {:.1}",
            prompt * 1e3,
            inputs * 1e3,
            logits * 1e3,
            sampling * 1e3,
            keys_and_values * 1e3,
            other * 1e3
        )
    }
}
