//! Which model a bench runs.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use toml::{Table, Value};

use crate::assets;
use crate::cli::precision;

#[derive(Args)]
pub struct Which {
    /// A model package; the demo's if not given.
    #[arg(long, value_name = "DIR")]
    package: Option<PathBuf>,
    /// As `model.plan` in a config; "paper", or the demo's for the demo's package.
    #[arg(long)]
    plan: Option<String>,
    /// Which graphs, by their files' suffix: one for all, or vision=S,embed=S,decoder=S.
    #[arg(long, value_name = "SUFFIX", value_parser = precision)]
    precision: Option<Value>,
}

impl Which {
    /// The keys of a config's `[model]` that say so.
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

/// In fp16, which runs everywhere: onnxruntime's CUDA has no GroupQueryAttention in fp32.
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
