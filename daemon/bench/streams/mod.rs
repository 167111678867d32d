//! Implements `lookout bench streams`: the number of cameras that a device keeps up with, as a
//! table with a row per number of cameras, as JSON and as a chart. The numbers are measured with a
//! real daemon, real RTSP and real questions, or simulated: the same scheduler with the costs of a
//! profile.

mod chart;
#[cfg(feature = "demo")]
mod measure;
mod memory;
#[cfg(feature = "demo")]
mod questions;
mod scrape;
mod simulate;

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::times::Times;
use memory::Memory;

#[derive(Args)]
pub struct Options {
    /// Numbers of cameras, one row each.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4,8",
        value_parser = clap::value_parser!(u32).range(1..=10_000))]
    cameras: Vec<u32>,
    /// Simulate instead of measuring, with the device costs of this file.
    ///
    /// The daemon's scheduler runs with these costs. configs/profiles/h100.toml is such a file.
    #[arg(long, value_name = "FILE")]
    simulate: Option<PathBuf>,
    /// Duration for each number of cameras. A simulation finishes at once.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration,
        default_value = "2m")]
    length: Duration,
    #[cfg(feature = "demo")]
    #[command(flatten)]
    measured: measure::MeasureArgs,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Write a chart as SVG: the time from a window's close to its caption, and the share of skipped
    /// windows.
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

/// Smallest share of frames that counts as complete. A camera's own frame rate sometimes takes a
/// frame from a window; a lower share means that frames were dropped.
const ENOUGH_FRAMES: f64 = 0.95;

/// Results for one number of cameras.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    pub cameras: usize,
    /// Windows that closed.
    pub windows: usize,
    pub published: usize,
    /// Windows without a caption, because it would have been late.
    pub skipped: usize,
    /// Captions that were published after their deadline.
    pub late: usize,
    /// Share of the wanted frames that captions used, if measured.
    pub frames: Option<f64>,
    /// Questions answered.
    pub answered: usize,
    /// Questions refused because the queue was full.
    pub refused: usize,
    /// Questions without an answer for another reason.
    pub unanswered: usize,
    /// Time from a window's close to its caption.
    pub captions: Option<Times>,
    /// Time from a question to the end of its answer.
    pub answers: Option<Times>,
    /// Captions of the camera with the fewest, divided by the mean of all cameras.
    pub worst_camera_share: Option<f64>,
    /// Shares of the device's time, if known.
    pub vision_load: Option<f64>,
    pub language_load: Option<f64>,
    /// Share of the time for which the network to the language model's servers was busy.
    pub wire_load: Option<f64>,
    /// Requests that were sent to another server, because theirs failed.
    pub sent_again: usize,
    /// Memory of the daemon at the end, if measured.
    pub memory: Option<Memory>,
}

impl Row {
    fn count(mut self, of_each: &[usize], captions: Vec<f64>, answers: Vec<f64>) -> Row {
        (self.published, self.answered) = (captions.len(), answers.len());
        let mean = self.published as f64 / of_each.len().max(1) as f64;
        let fewest = of_each.iter().min().copied().unwrap_or(0) as f64;
        self.worst_camera_share = (mean > 0.0).then(|| fewest / mean);
        self.captions = Times::of(captions);
        self.answers = Times::of(answers);
        self
    }

    /// Returns true if nothing was skipped or late, and something was published, with nearly all
    /// frames.
    fn keeps_up(&self) -> bool {
        let seen = self.frames.is_none_or(|share| share >= ENOUGH_FRAMES);
        self.skipped == 0 && self.late == 0 && self.published > 0 && seen
    }
}

#[derive(Serialize)]
struct Report {
    /// The model and device that ran, or the simulated profile.
    device: String,
    simulated: bool,
    seconds: f64,
    rows: Vec<Row>,
    /// The largest number of cameras in the table for which every window got its caption in time,
    /// with nearly all its frames.
    keeps_up: Option<usize>,
}

pub fn run(options: Options, out: &mut dyn Write) -> anyhow::Result<()> {
    let seconds = options.length.as_secs_f64();
    let numbers = options.cameras.iter().map(|n| *n as usize);
    let (device, rows): (String, Vec<Row>) = match &options.simulate {
        Some(file) => {
            let profile = simulate::Profile::read(file)?;
            let rows = numbers.map(|n| simulate::simulate(&profile, n, seconds, 1)).collect();
            (profile.name.clone(), rows)
        }
        #[cfg(feature = "demo")]
        None => measure::run(&options.measured, numbers.collect(), options.length, options.json)?,
        #[cfg(not(feature = "demo"))]
        None => {
            anyhow::bail!("this program is built without the feature `demo`: pass --simulate FILE")
        }
    };
    let keeps_up = rows.iter().filter(|row: &&Row| row.keeps_up()).map(|row| row.cameras).max();
    let simulated = options.simulate.is_some();
    let report = Report { device, simulated, seconds, rows, keeps_up };
    if let Some(file) = &options.chart {
        let svg = chart::svg(&report.device, &report.rows).context("chart")?;
        fs::write(file, svg).with_context(|| file.display().to_string())?;
    }
    match options.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{}", table(&report))?,
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let kind = if report.simulated { "simulated" } else { "measured" };
    let mut text = format!("{}, {kind}, {:.0} s each\n\n", report.device, report.seconds);
    text += "| cameras | captions/s | close → caption mean |   p50 |   p95 |   p99 | skipped | late | frames | \
             worst camera | answers |   p50 |   p95 | refused | vision | language |\n";
    text += "|--------:|-----------:|---------------------:|------:|------:|------:|--------:|-----:|-------:|\
             -------------:|--------:|------:|------:|--------:|-------:|---------:|\n";
    for row in &report.rows {
        let seconds = |times: &Option<Times>, pick: fn(&Times) -> f64| {
            times.as_ref().map_or("–".into(), |times| format!("{:.2} s", pick(times)))
        };
        let percent = |share: Option<f64>| {
            share.map_or("–".into(), |share| format!("{:.0} %", share * 100.0))
        };
        let skipped = (row.windows > 0).then(|| row.skipped as f64 / row.windows as f64);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {:7} | {:10.2} | {:>20} | {:>5} | {:>5} | {:>5} | {:>7} | {:>4} | {:>6} | {:>12} | {:>7} | {:>5} | {:>5} \
             | {:>7} | {:>6} | {:>8} |",
            row.cameras,
            row.published as f64 / report.seconds,
            seconds(&row.captions, |t| t.mean),
            seconds(&row.captions, |t| t.p50),
            seconds(&row.captions, |t| t.p95),
            seconds(&row.captions, |t| t.p99),
            percent(skipped),
            row.late,
            percent(row.frames),
            percent(row.worst_camera_share),
            row.answered,
            seconds(&row.answers, |t| t.p50),
            seconds(&row.answers, |t| t.p95),
            row.refused,
            percent(row.vision_load),
            percent(row.language_load),
        );
    }
    text += &match report.keeps_up {
        Some(cameras) => {
            format!(
                "\nEvery window got its caption in time, of nearly all its frames, with up to {cameras} of these.\n"
            )
        }
        None => {
            "\nWith none of these did every window get its caption in time, of nearly all its frames.\n".into()
        }
    };
    text += &servers(&report.rows);
    text += &memory::table(&report.rows);
    text
}

/// Returns the table of the language model's servers, if it ran on any.
fn servers(rows: &[Row]) -> String {
    let loads = rows.iter().filter_map(|row| Some((row, row.wire_load?)));
    let lines: String = loads
        .map(|(row, load)| {
            let (cameras, load) = (row.cameras, load * 100.0);
            format!(
                "| {cameras:7} | {load:5.1} % | {:10} | {:10} |\n",
                row.sent_again, row.unanswered
            )
        })
        .collect();
    if lines.is_empty() {
        return lines;
    }
    "\n| cameras | network | sent again | unanswered |\n|--------:|--------:|-----------:|-----------:|\n"
        .to_owned()
        + &lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_frames_mean_not_keeping_up() {
        let row = Row { windows: 9, published: 9, ..Row::default() };
        assert!(row.keeps_up());
        assert!(Row { frames: Some(0.97), ..row.clone() }.keeps_up());
        for less in [
            Row { frames: Some(0.7), ..row.clone() },
            Row { late: 1, ..row.clone() },
            Row { skipped: 1, ..row.clone() },
            Row { published: 0, ..row },
        ] {
            assert!(!less.keeps_up(), "{less:?}");
        }
    }
}
