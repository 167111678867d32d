//! Implements `lookout fetch`: downloads a model package from a hub, and inspects it.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;

use super::inspect::{self, Choices, Inspect};
use crate::exit::Failure;
use crate::hub::{self, FetchError, Hub, Progress, Repository};

#[derive(Args)]
pub struct Fetch {
    /// Repository with the package, and one of its branches, tags or commits. Default: `main`.
    #[arg(value_name = "ORGANISATION/NAME[@REVISION]")]
    repository: Repository,
    /// Folder of the package. Default: the repository's name, in the current folder.
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// URL of the hub, or of a mirror.
    #[arg(
        long,
        value_name = "URL",
        env = "HF_ENDPOINT",
        hide_env_values = true,
        default_value = "https://huggingface.co"
    )]
    endpoint: String,
    /// PEM file of the authority that signed the hub's certificate. Default: the system's.
    #[arg(long, value_name = "FILE", env = "LOOKOUT_CA")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    choices: Choices,
}

pub async fn fetch(args: Fetch, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let Fetch { repository, folder, endpoint, ca, choices } = args;
    let folder = folder.unwrap_or_else(|| repository.short_name().into());
    let model = choices.model(&folder)?;
    let hub = Hub::new(&endpoint, hub::token().as_deref(), ca.as_deref());
    let hub = hub.map_err(|why| Failure::cannot_begin(anyhow!(why)))?;
    let stderr = io::stderr();
    let is_terminal = stderr.is_terminal();
    let mut progress = Progress::new(Box::new(stderr), is_terminal);
    let fetched = hub::fetch(&hub, &repository, &folder, &model.precision, &mut progress).await;
    fetched.map_err(|error| match error {
        FetchError::Refused(_) => Failure::cannot_begin(error),
        FetchError::Unreachable(_) => Failure::from(error),
    })?;
    progress.note(&format!("{} is complete", folder.display()));
    inspect::inspect(Inspect { package: folder, choices }, out)
}
