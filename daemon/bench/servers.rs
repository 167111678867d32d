//! Implements `lookout bench servers`: the time that lookout adds to that of vLLM.
//!
//! Each round asks two questions about a window of noise: one while it is new to the servers, and
//! one while its rows are in their cache. vLLM's metrics give its own time for an answer, from the
//! arrival of the prompt at its engine to the last token. All other time is what lookout adds: the
//! prompt's rows and their base64, the network, the server's HTTP and JSON, and the words. The
//! rows and the base64 are measured apart.
//!
//! While others use the servers as well, their metrics do not belong to one answer: the benchmark
//! ends with an error.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;
use tokio::runtime;

use super::median;
use super::window::Window;
use crate::config::{self, Config, Language};
use crate::exit::Failure;
use crate::language::{Budget, LanguageBackend, Output, Reply, Request, ServerHttp, VllmModel};
use crate::loaded::read_package;
use crate::model::Runtime;
use crate::slowfast::VideoTokens;

/// The histogram of the times from a request's arrival to its last token.
const OWN_TIME: &str = "vllm:e2e_request_latency_seconds";

/// Maximum time until the metrics contain an answer.
const METRICS_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct Options {
    /// Config file with `[language] backend = "vllm"`.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Maximum number of tokens in each answer.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_new_tokens: u32,
    /// Number of windows; each figure is their median.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

pub fn run(options: &Options, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let mut bench = Bench::new(options).map_err(Failure::cannot_begin)?;
    let report = bench.report(options.rounds as usize)?;
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    Ok(ExitCode::SUCCESS)
}

struct Bench {
    model: VllmModel,
    metrics: Metrics,
    name: String,
    plan: String,
    video_tokens: usize,
    width: usize,
    tokens: usize,
}

/// Medians of the rounds.
#[derive(Serialize)]
struct Report {
    model: String,
    plan: String,
    video_tokens: usize,
    width: usize,
    rounds: usize,
    /// Questions about windows that are new to the servers.
    new: Costs,
    /// Questions about windows that are in the servers' cache.
    cached: Costs,
}

#[derive(Serialize)]
struct Costs {
    prompt_tokens: u32,
    cached_tokens: u32,
    new_tokens: u32,
    /// Time from the request to the end of its answer.
    answer_seconds: f64,
    /// The part of it that is the server's own.
    server_seconds: f64,
    /// All other time.
    added_seconds: f64,
    longest_added_seconds: f64,
    /// The part of the added time in which lookout makes the request.
    request_seconds: f64,
}

/// One answer and its times, in seconds.
struct Answered {
    reply: Reply,
    request: f64,
    answer: f64,
    server: f64,
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Bench> {
        let config = Config::read(&options.config)?;
        let Language::Vllm(servers) = &config.language else {
            bail!("{}: wanted [language] backend = \"vllm\"", options.config.display());
        };
        let package = read_package(&config)?;
        let plan = &config.model.plan;
        let video_tokens = plan.video_tokens(plan.frames, package.vision.grid_tokens)?;
        let tokens = options.max_new_tokens as usize;
        let budget = Budget { max_new_tokens: tokens, slots: 1, prefix_bytes: 0 };
        let runtime = Runtime::load(&config.model)?;
        let model =
            VllmModel::load(&runtime, &package, &config.model, &config.wording, budget, servers)?;
        let troubles = model.health().troubles();
        if !troubles.is_empty() {
            bail!("{}", troubles.join("; "));
        }
        Ok(Bench {
            model,
            metrics: Metrics::new(servers)?,
            name: servers.model.clone(),
            plan: plan.to_string(),
            video_tokens,
            width: package.text.hidden_size,
            tokens,
        })
    }

    fn report(&mut self, rounds: usize) -> anyhow::Result<Report> {
        // The first requests of a server take longer.
        let warm_up = self.window(0);
        self.ask(warm_up.request(0, self.tokens))?;
        let (mut new, mut cached) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let window = self.window(round as u64);
            new.push(self.ask(window.request(0, self.tokens))?);
            cached.push(self.ask(window.request(1, self.tokens))?);
            tracing::info!("round {round} of {rounds}: {:.2} s", new[round - 1].answer);
        }
        Ok(Report {
            model: self.name.clone(),
            plan: self.plan.clone(),
            video_tokens: self.video_tokens,
            width: self.width,
            rounds,
            new: Costs::of(&new),
            cached: Costs::of(&cached),
        })
    }

    /// Returns a window that no question has been asked about.
    fn window(&self, number: u64) -> Window {
        // Another seed in each run, so that the server does not know the window.
        let mut random = StdRng::seed_from_u64(rand::random());
        let dim = self.width;
        let rows = (0..self.video_tokens * dim).map(|_| random.random_range(-1.0..1.0)).collect();
        Window::new(VideoTokens { rows, dim }, number)
    }

    fn ask(&mut self, request: Request<'_>) -> anyhow::Result<Answered> {
        let before = self.metrics.read()?;
        let begun = Instant::now();
        self.model.submit(request)?;
        let request = begun.elapsed();
        let mut end = None;
        while end.is_none() {
            self.model.poll(&mut |_, output| match output {
                Output::Text(_) => {}
                Output::Finished(reply) => end = Some(Ok(reply)),
                Output::Failed(failure) => end = Some(Err(anyhow!("{failure}"))),
                Output::Scored(_) => end = Some(Err(anyhow!("scores in place of an answer"))),
            })?;
        }
        let answer = begun.elapsed();
        let reply = end.context("no answer")??;
        Ok(Answered {
            reply,
            request: request.as_secs_f64(),
            answer: answer.as_secs_f64(),
            server: self.metrics.after_one_more(before)?,
        })
    }
}

impl Costs {
    fn of(answers: &[Answered]) -> Costs {
        let of = |value: fn(&Answered) -> f64| median(answers.iter().map(value).collect());
        let tokens = |value: fn(&Reply) -> u32| {
            median(answers.iter().map(|answered| f64::from(value(&answered.reply))).collect())
                as u32
        };
        let added = |answered: &Answered| answered.answer - answered.server;
        Costs {
            prompt_tokens: tokens(|reply| reply.usage.video_tokens + reply.usage.text_tokens),
            cached_tokens: tokens(|reply| reply.usage.cached_tokens),
            new_tokens: tokens(|reply| reply.usage.new_tokens),
            answer_seconds: of(|answered| answered.answer),
            server_seconds: of(|answered| answered.server),
            added_seconds: of(added),
            longest_added_seconds: answers.iter().map(added).fold(0.0, f64::max),
            request_seconds: of(|answered| answered.request),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { model, plan, video_tokens, width, rounds, new, cached } = self;
        writeln!(f, "{model}, plan {plan}: {video_tokens} video tokens of width {width}")?;
        writeln!(f, "wall-clock time, medians of {rounds} rounds")?;
        for (name, costs) in [("new", new), ("cached", cached)] {
            writeln!(
                f,
                "{name:<9} {} prompt tokens ({} cached), {} new ones: {:.3} s, of which vLLM {:.3} s, \
                 added {:.3} s (at most {:.3} s; {:.3} s to make the request)",
                costs.prompt_tokens,
                costs.cached_tokens,
                costs.new_tokens,
                costs.answer_seconds,
                costs.server_seconds,
                costs.added_seconds,
                costs.longest_added_seconds,
                costs.request_seconds,
            )?;
        }
        Ok(())
    }
}

/// Reads the metrics of the servers.
struct Metrics {
    runtime: runtime::Runtime,
    http: ServerHttp,
    addresses: Vec<String>,
}

/// All answers of all servers since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Answers {
    count: f64,
    seconds: f64,
}

impl Metrics {
    fn new(servers: &config::Servers) -> anyhow::Result<Metrics> {
        Ok(Metrics {
            runtime: runtime::Builder::new_current_thread().enable_all().build()?,
            http: ServerHttp::new(servers).map_err(anyhow::Error::msg)?,
            addresses: servers.endpoints.clone(),
        })
    }

    fn read(&self) -> anyhow::Result<Answers> {
        let mut all = Answers::default();
        for address in &self.addresses {
            let url = format!("{address}/metrics");
            let text = self.http.text(&url, METRICS_PATIENCE);
            let text =
                self.runtime.block_on(text).map_err(|problem| anyhow!("{url}: {problem}"))?;
            let answers = Answers::parse(&text)
                .with_context(|| format!("{url} has no {OWN_TIME}: wanted the metrics of vLLM"))?;
            all.count += answers.count;
            all.seconds += answers.seconds;
        }
        Ok(all)
    }

    /// Waits until the metrics contain one more answer. Returns the seconds that it took.
    fn after_one_more(&self, before: Answers) -> anyhow::Result<f64> {
        let begun = Instant::now();
        loop {
            let now = self.read()?;
            match now.count - before.count {
                0.0 if begun.elapsed() < METRICS_PATIENCE => {}
                1.0 => return Ok(now.seconds - before.seconds),
                count => bail!(
                    "the servers counted {count} answers during one; measure while nobody else \
                     uses them"
                ),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Answers {
    /// Parses the text of `/metrics`, which has a line for each engine. `None` without the metric.
    fn parse(text: &str) -> Option<Answers> {
        let sum = |suffix: &str| {
            let name = format!("{OWN_TIME}_{suffix}");
            let values = text.lines().filter_map(|line| {
                let (labels, value) = line.strip_prefix(&name)?.rsplit_once(' ')?;
                (labels.is_empty() || labels.starts_with('{')).then_some(value)?.parse().ok()
            });
            values.reduce(|a: f64, b| a + b)
        };
        Some(Answers { count: sum("count")?, seconds: sum("sum")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_of_a_server_are_summed() {
        let text = "# TYPE vllm:e2e_request_latency_seconds histogram\n\
            vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"0.3\"} 7.0\n\
            vllm:e2e_request_latency_seconds_count{engine=\"0\",model_name=\"a b\"} 2.0\n\
            vllm:e2e_request_latency_seconds_sum{engine=\"0\",model_name=\"a b\"} 0.5\n\
            vllm:e2e_request_latency_seconds_count{engine=\"1\",model_name=\"a b\"} 3.0\n\
            vllm:e2e_request_latency_seconds_sum{engine=\"1\",model_name=\"a b\"} 0.25\n\
            vllm:e2e_request_latency_seconds_sum_created{engine=\"1\"} 1.7e+09\n";
        assert_eq!(Answers::parse(text), Some(Answers { count: 5.0, seconds: 0.75 }));
        assert_eq!(Answers::parse("lookout_up 1\n"), None);
    }
}
