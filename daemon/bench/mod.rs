//! Implements `lookout bench`: produces the figures of `docs/performance.md`, both sides of a
//! comparison in one run.

mod clip;
mod cpu;
#[cfg(feature = "demo")]
mod ingest;
mod journal;
mod language;
#[cfg(feature = "demo")]
mod loopback;
mod model;
pub mod package;
mod parity;
mod servers;
#[cfg(feature = "demo")]
mod stages;
mod streams;
mod times;
mod window;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::exit::Failure;

#[derive(Args)]
pub struct Bench {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    /// Measure a model's speed on a device, and compare the device's output with the CPU's.
    Model(model::Options),
    /// Find how many cameras a device keeps up with.
    ///
    /// Measured with this daemon and RTSP cameras, or simulated with the costs of a device.
    Streams(streams::Options),
    /// Measure the cost of further questions and of answers generated together.
    ///
    /// Also measures the time that the daemon adds to onnxruntime's own.
    Language(language::Options),
    /// Measure the time that the daemon adds to the own time of vLLM's servers.
    Servers(servers::Options),
    /// Measure the cost of a frame and of a caption, stage by stage, on the CPU.
    ///
    /// Also compares encoding each frame once with encoding the frames of every window again.
    #[cfg(feature = "demo")]
    Stages(stages::Options),
    /// Measure the journal on disk: appending, replaying, listing and searching events.
    ///
    /// Also compares when readers see an event of a journal on disk and of one in memory.
    Journal(journal::Options),
    /// Measure the CPU time of receiving, decoding and sampling one camera.
    ///
    /// It is compared with a bare gst-launch-1.0 pipeline.
    #[cfg(feature = "demo")]
    Ingest(ingest::Ingest),
    /// Run one side of `ingest`: receive a camera and drop its frames.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    IngestOnly(ingest::IngestOnly),
}

pub fn run(bench: Bench, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match bench.benchmark {
        Benchmark::Model(options) => model::run(&options, out),
        Benchmark::Streams(options) => Ok(streams::run(options, out).map(|()| ExitCode::SUCCESS)?),
        Benchmark::Language(options) => language::run(&options, out),
        Benchmark::Servers(options) => servers::run(&options, out),
        #[cfg(feature = "demo")]
        Benchmark::Stages(options) => stages::run(&options, out),
        Benchmark::Journal(options) => Ok(journal::run(&options, out).map(|()| ExitCode::SUCCESS)?),
        #[cfg(feature = "demo")]
        Benchmark::Ingest(ingest) => Ok(ingest::compare(ingest, out).map(|()| ExitCode::SUCCESS)?),
        #[cfg(feature = "demo")]
        Benchmark::IngestOnly(only) => Ok(ingest::receive(only).map(|()| ExitCode::SUCCESS)?),
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
