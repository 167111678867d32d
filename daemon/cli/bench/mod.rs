//! `lookout bench`: figures for `docs/performance.md`, both sides of a comparison in one run.

mod clip;
mod cpu;
#[cfg(feature = "demo")]
mod ingest;
#[cfg(feature = "demo")]
mod loopback;
mod model;
mod parity;
#[cfg(feature = "demo")]
mod stages;
mod streams;
mod which;
mod window;
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::Failure;

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
    /// The model's speed on a device, and whether it says there what it says on the CPU. Also
    /// without its name: `lookout bench --device cuda`.
    Model(model::Options),
    /// How many cameras a device keeps up with: measured with this daemon and RTSP, or simulated.
    Streams(streams::Options),
    /// What more questions about a window cost, and answers that are written together; and what the
    /// daemon adds to onnxruntime's own time.
    Words(words::Options),
    /// What a frame and a caption cost, stage by stage, on the CPU; and each frame encoded once
    /// beside every window encoded anew.
    #[cfg(feature = "demo")]
    Stages(stages::Options),
    /// CPU of receiving, decoding and sampling one camera, beside a bare gst-launch-1.0 pipeline.
    #[cfg(feature = "demo")]
    Ingest(ingest::Ingest),
    /// One side of `ingest`: receives a camera and drops its frames.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    IngestOnly(ingest::IngestOnly),
}

pub fn run(bench: Bench, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    match bench.what {
        None => model::run(&bench.model, out),
        Some(What::Model(options)) => model::run(&options, out),
        Some(What::Streams(options)) => Ok(streams::run(options, out).map(|()| ExitCode::SUCCESS)?),
        Some(What::Words(options)) => words::run(&options, out),
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
