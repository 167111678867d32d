//! Options that select the model of a benchmark.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use toml::{Table, Value};

use crate::assets;

#[derive(Args)]
pub struct ModelArgs {
    /// Model package to run. Default: the demo's.
    #[arg(long, value_name = "DIR")]
    package: Option<PathBuf>,
    /// Plan, as `model.plan` in a config. Default: "paper", or the demo's plan for the demo's
    /// package.
    #[arg(long, value_name = "PLAN")]
    plan: Option<String>,
    /// Graphs to use, by the suffix of their files.
    ///
    /// One suffix for all graphs (q4), or one for each: vision=int8,embed=fp16,decoder=q4.
    #[arg(long, value_name = "SUFFIX", value_parser = precision)]
    precision: Option<Value>,
}

/// The limit of memory on a GPU.
#[derive(Args)]
pub struct GpuArgs {
    /// Maximum GPU memory of onnxruntime's arena, as `model.gpu_memory` in a config: "6 GiB".
    #[arg(long, value_name = "BYTES")]
    gpu_memory: Option<String>,
}

impl GpuArgs {
    /// Adds the corresponding key of a config's `[model]`.
    pub fn add_to(&self, keys: &mut Table) {
        keys.extend(self.gpu_memory.clone().map(|bytes| ("gpu_memory".into(), bytes.into())));
    }
}

/// A device, as `model.device` in a config.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum DeviceArg {
    Cpu,
    Cuda,
    Auto,
}

impl DeviceArg {
    /// Returns the value of `model.device`.
    pub fn name(self) -> &'static str {
        match self {
            DeviceArg::Cpu => "cpu",
            DeviceArg::Cuda => "cuda",
            DeviceArg::Auto => "auto",
        }
    }
}

impl ModelArgs {
    /// Returns the corresponding keys of a config's `[model]`.
    pub fn keys(&self) -> anyhow::Result<Table> {
        let (folder, usual_plan) = match &self.package {
            Some(folder) => (folder.clone(), "paper"),
            None => (demo_package()?, assets::PLAN),
        };
        let mut keys = Table::from_iter([
            ("package".to_string(), Value::from(folder.display().to_string())),
            ("plan".into(), self.plan.as_deref().unwrap_or(usual_plan).into()),
        ]);
        keys.extend(self.precision.clone().map(|precision| ("precision".into(), precision)));
        Ok(keys)
    }
}

/// Parses a precision as in the config: `q4`, or `vision=int8,embed=fp16,decoder=q4`.
pub fn precision(text: &str) -> Result<Value, String> {
    if !text.contains('=') {
        return Ok(text.into());
    }
    let pair = |pair: &str| {
        let (graph, suffix) = pair
            .split_once('=')
            .ok_or("wanted SUFFIX, or GRAPH=SUFFIX,… with the graphs vision, embed and decoder")?;
        Ok((graph.to_string(), Value::from(suffix)))
    };
    text.split(',').map(pair).collect::<Result<Table, String>>().map(Value::Table)
}

/// Returns the demo's package in fp16, which runs everywhere: onnxruntime's CUDA has no
/// GroupQueryAttention in fp32.
fn demo_package() -> anyhow::Result<PathBuf> {
    let places: Vec<PathBuf> =
        assets::places().into_iter().map(|folder| folder.join("package-fp16")).collect();
    match places.iter().find(|folder| folder.is_dir()) {
        Some(found) => found.canonicalize().context("the demo's package"),
        None => {
            let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
            bail!("the demo's package is at none of {}; name one by --package", places.join(", "))
        }
    }
}
