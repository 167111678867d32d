//! Implements `lookout bench`: produces the figures of `docs/performance.md`, both sides of a
//! comparison in one run.

mod clip;
mod cpu;
#[cfg(feature = "demo")]
mod ingest;
mod language;
#[cfg(feature = "demo")]
mod loopback;
mod model;
pub mod package;
mod parity;
#[cfg(feature = "demo")]
mod stages;
mod streams;
mod window;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::exit::Failure;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    model: model::Options,
}

#[derive(Subcommand)]
enum What {
    /// Measure the model's speed on a device and compare the device's output with the CPU's. Also
    /// the default without a subcommand: `lookout bench --device cuda`.
    Model(model::Options),
    /// Find how many cameras a device keeps up with: measured with this daemon and RTSP, or
    /// simulated.
    Streams(streams::Options),
    /// Measure the cost of further questions about a window and of answers generated together, and
    /// the time that the daemon adds to onnxruntime's own.
    Words(language::Options),
    /// Measure the cost of a frame and of a caption, stage by stage, on the CPU. Also compare
    /// encoding each frame once with re-encoding the frames of every window.
    #[cfg(feature = "demo")]
    Stages(stages::Options),
    /// Measure the CPU time of receiving, decoding and sampling one camera, compared with a bare
    /// gst-launch-1.0 pipeline.
    #[cfg(feature = "demo")]
    Ingest(ingest::Ingest),
    /// Run one side of `ingest`: receive a camera and drop its frames.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    IngestOnly(ingest::IngestOnly),
}

pub fn run(bench: Bench, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match bench.what {
        None => model::run(&bench.model, out),
        Some(What::Model(options)) => model::run(&options, out),
        Some(What::Streams(options)) => Ok(streams::run(options, out).map(|()| ExitCode::SUCCESS)?),
        Some(What::Words(options)) => language::run(&options, out),
        #[cfg(feature = "demo")]
        Some(What::Stages(options)) => stages::run(&options, out),
        #[cfg(feature = "demo")]
        Some(What::Ingest(ingest)) => Ok(ingest::compare(ingest, out).map(|()| ExitCode::SUCCESS)?),
        #[cfg(feature = "demo")]
        Some(What::IngestOnly(only)) => Ok(ingest::receive(only).map(|()| ExitCode::SUCCESS)?),
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
