//! A real daemon, as its own process, that watches so many real RTSP cameras.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, interval, sleep_until};

use super::Row;
use crate::demo::children::Children;
use crate::demo::{CAMERAS, START_TIMEOUT, assets, free_port};

#[derive(Args)]
pub struct Measured {
    /// A model package; the demo's if not given.
    #[arg(long, value_name = "DIR", conflicts_with = "simulate")]
    package: Option<PathBuf>,
    /// As `model.plan` in a config.
    #[arg(long, conflicts_with = "simulate", default_value = crate::assets::PLAN)]
    plan: String,
    /// As `model.device` in a config.
    #[arg(long, conflicts_with = "simulate", default_value = "auto")]
    device: String,
    /// Frames a second that are looked at.
    #[arg(long, conflicts_with = "simulate", default_value_t = 2.0)]
    fps: f64,
    #[arg(long, value_name = "TIME", conflicts_with = "simulate", default_value = "8s",
        value_parser = humantime::parse_duration)]
    window: Duration,
    #[arg(long, value_name = "TIME", conflicts_with = "simulate", default_value = "4s",
        value_parser = humantime::parse_duration)]
    every: Duration,
    /// As `freshness` of a camera in a config; by default as --every.
    #[arg(long, value_name = "TIME", conflicts_with = "simulate",
        value_parser = humantime::parse_duration)]
    freshness: Option<Duration>,
}

impl Measured {
    fn freshness(&self) -> Duration {
        self.freshness.unwrap_or(self.every)
    }
}

/// What ran, and a row for each number of cameras.
pub fn run(
    options: &Measured,
    numbers: Vec<usize>,
    length: Duration,
    quiet: bool,
) -> anyhow::Result<(String, Vec<Row>)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut device, mut rows) = (String::new(), Vec::new());
    for cameras in numbers {
        if !quiet {
            let _ = writeln!(io::stderr(), "{cameras} cameras for {} s", length.as_secs());
        }
        let row;
        (device, row) = runtime.block_on(measure(options, cameras, length))?;
        rows.push(row);
    }
    Ok((device, rows))
}

async fn measure(
    options: &Measured,
    cameras: usize,
    length: Duration,
) -> anyhow::Result<(String, Row)> {
    let assets = assets(None)?;
    let folder = tempfile::Builder::new().prefix("lookout-bench-").tempdir()?;
    let mut children = Children::new(folder.path());
    let rtsp = children.cameras(&assets.join("cameras"), &CAMERAS.map(String::from)).await?;
    let grpc = free_port()?;
    let file = folder.path().join("lookout.toml");
    let package = options.package.clone().unwrap_or_else(|| assets.join("package"));
    let package = package.canonicalize().with_context(|| package.display().to_string())?;
    fs::write(&file, config(options, &package.display().to_string(), cameras, rtsp, grpc))?;
    let server = format!("127.0.0.1:{grpc}");
    children.daemon(&file, &server, 5 * START_TIMEOUT).await?;
    let daemon = children.id("run").ok_or_else(|| anyhow!("the daemon has ended"))?;
    let mut watch = Command::new(std::env::current_exe()?);
    watch.args(["watch", "--json", "--from", "1", "--kind", "caption", "--server", &server]);
    let mut events = children.reader("watch", watch)?;

    // The first windows fill while cameras connect.
    let begin = Instant::now() + options.window + 2 * options.every;
    let end = begin + length;
    let mut memory = interval(Duration::from_secs(1));
    let mut resident = Vec::new();
    let mut device = String::new();
    let (mut row, mut captions) = (Row { cameras, ..Row::default() }, Vec::new());
    let mut of_each: HashMap<String, usize> = HashMap::new();
    loop {
        tokio::select! {
            line = events.next_line() => {
                let line = line?.ok_or_else(|| anyhow!("the reader of events has ended"))?;
                let event: Value = serde_json::from_str(&line).context("an event")?;
                device = ["model", "device"].map(|key| event[key].as_str().unwrap_or("?")).join(", ");
                if Instant::now() < begin {
                    continue;
                }
                let took = event["timing"]["total_seconds"].as_f64().context("total_seconds")?;
                row.skipped += event["skipped"].as_u64().unwrap_or(0) as usize;
                row.late += usize::from(took > options.freshness().as_secs_f64());
                *of_each.entry(event["camera"].as_str().unwrap_or("?").into()).or_default() += 1;
                captions.push(took);
            }
            _ = memory.tick() => resident.push(resident_bytes(daemon)),
            () = sleep_until(end) => break,
            gone = children.any_gone() => return Err(gone),
        }
    }
    children.stop().await;
    // A camera without any caption could not say how many were skipped.
    let silent = cameras - of_each.len().min(cameras);
    row.skipped += silent * (length.as_secs_f64() / options.every.as_secs_f64()) as usize;
    row.windows = captions.len() + row.skipped;
    row.memory_slope = slope(&resident[resident.len() / 2..]).map(|a_second| a_second * 60.0);
    let mut of_each: Vec<usize> = of_each.into_values().collect();
    of_each.resize(cameras, 0);
    if captions.is_empty() {
        bail!("{cameras} cameras: not one caption in {} s; --for takes longer", length.as_secs());
    }
    Ok((device, row.count(&of_each, captions, Vec::new())))
}

fn config(options: &Measured, package: &str, cameras: usize, rtsp: u16, grpc: u16) -> String {
    let Measured { plan, device, fps, window, every, .. } = options;
    let mut text = format!(
        "[model]\npackage = {package:?}\nplan = {plan:?}\ndevice = {device:?}\n\
         [http]\nenabled = false\n[grpc]\nlisten = \"127.0.0.1:{grpc}\"\n"
    );
    let freshness = options.freshness();
    for number in 0..cameras {
        let clip = CAMERAS[number % CAMERAS.len()];
        text += &format!(
            "[[camera]]\nname = \"{clip}-{number}\"\nurl = \"rtsp://127.0.0.1:{rtsp}/{clip}\"\n\
             fps = {fps}\nwindow = {window:?}\nevery = {every:?}\nfreshness = {freshness:?}\n",
            window = humantime::format_duration(*window).to_string(),
            every = humantime::format_duration(*every).to_string(),
            freshness = humantime::format_duration(freshness).to_string(),
        );
    }
    text
}

/// proc(5), statm; 0 for a process that has ended.
fn resident_bytes(process: u32) -> f64 {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    // SAFETY: sysconf only reads.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64
}

/// The least squares' slope of values a second apart.
fn slope(values: &[f64]) -> Option<f64> {
    let n = values.len() as f64;
    let (middle, mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
    let apart = |i: usize| i as f64 - middle;
    let over: f64 = values.iter().enumerate().map(|(i, v)| apart(i) * (v - mean)).sum();
    let under: f64 = (0..values.len()).map(|i| apart(i).powi(2)).sum();
    (values.len() > 1).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line() {
        assert_eq!(slope(&[1.0, 3.0, 5.0, 7.0]), Some(2.0));
        assert_eq!(slope(&[4.0, 4.0, 4.0]), Some(0.0));
        assert_eq!(slope(&[4.0]), None);
    }
}
