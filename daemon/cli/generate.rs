//! Implements `lookout generate`: writes the manual pages and the completions of shells, both made
//! of the commands' definitions. Packages and `make install` contain them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Command, ValueEnum};
use clap_complete::Shell;

use super::command;
use crate::exit::Failure;

#[derive(Args)]
pub struct Generate {
    /// Kind of the files.
    #[arg(value_enum)]
    files: Files,
    /// Folder of the files. It is created if it is missing.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Files {
    /// Manual pages of the program and of each command: lookout.1, lookout-ask.1 and so on.
    Man,
    /// Completions for bash (lookout.bash), zsh (_lookout) and fish (lookout.fish).
    Completions,
}

pub fn generate(args: &Generate) -> Result<(), Failure> {
    let Generate { files, folder } = args;
    let written = fs::create_dir_all(folder).and_then(|()| match files {
        Files::Man => clap_mangen::generate_to(command(), folder),
        Files::Completions => completions(folder),
    });
    written.with_context(|| format!("writing to {}", folder.display())).map_err(Failure::from)
}

fn completions(folder: &Path) -> std::io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut visible(), "lookout", folder)?;
    }
    Ok(())
}

/// Returns the program's definition without its hidden commands, which clap_complete would offer.
fn visible() -> Command {
    let all = command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("lookout")
        .about(all.get_about().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .args(all.get_arguments().cloned())
        .subcommands(shown)
}
