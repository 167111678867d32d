//! Implements `lookout token`: makes, lists and revokes tokens. A running daemon follows within a
//! second.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::ConfigFile;
use crate::access::{NewToken, Role, StoredToken, TokenStore};
use crate::config::Config;
use crate::exit::Failure;
use crate::frame::rfc3339;

#[derive(Subcommand)]
pub enum Token {
    /// Make a token and print it. It is stored nowhere, only its hash.
    ///
    /// Example: lookout token add anna --role ask --camera gate --expires 90d
    Add(Add),
    /// List the tokens: name, role, cameras, when they expire.
    List(ConfigFile),
    /// Revoke a token. Its open streams end.
    Revoke(Revoke),
}

#[derive(Args)]
pub struct Add {
    /// Name of the token, for the audit log and for revoking it.
    name: String,
    /// view: cameras, events, frames. ask: also questions. admin: also deletes and configures.
    #[arg(long, value_name = "ROLE")]
    role: Role,
    /// Show only this camera; may be repeated. Default: all cameras.
    #[arg(long, value_name = "NAME")]
    camera: Vec<String>,
    /// Length of time after which the token is no longer valid, such as 90d. Default: never.
    #[arg(long, value_name = "LENGTH", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Args)]
pub struct Revoke {
    /// Name of the token.
    name: String,
    #[command(flatten)]
    config: ConfigFile,
}

pub fn token(command: Token, out: &mut dyn Write) -> Result<(), Failure> {
    run(command, out).map_err(Failure::cannot_begin)
}

fn run(command: Token, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        Token::Add(Add { name, role, camera, expires, config }) => {
            let config = read(&config.config)?;
            let known = |name: &String| config.cameras.iter().any(|camera| *camera.name == **name);
            if let Some(unknown) = camera.iter().find(|name| !known(name)) {
                bail!("no camera is named {unknown:?} in the config");
            }
            let expires_at = match expires {
                Some(length) => {
                    Some(SystemTime::now().checked_add(length).context("--expires is too long")?)
                }
                None => None,
            };
            let cameras = (!camera.is_empty()).then(|| camera.into_iter().collect::<BTreeSet<_>>());
            let new = NewToken { name, role, cameras, expires_at };
            let text = store(&config)?.add(new)?;
            writeln!(out, "{text}")?;
            if std::io::stdout().is_terminal() {
                eprintln!(
                    "This is shown once. Clients of lookout read it from LOOKOUT_TOKEN or --token-file."
                );
            }
        }
        Token::List(config) => {
            let tokens = store(&read(&config.config)?)?.list()?;
            list(&tokens, SystemTime::now(), out)?;
        }
        Token::Revoke(Revoke { name, config }) => {
            store(&read(&config.config)?)?.revoke(&name)?;
            writeln!(out, "revoked {name:?}")?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Config> {
    Ok(Config::read(path)?)
}

fn store(config: &Config) -> anyhow::Result<TokenStore> {
    let Some(access) = &config.access else {
        bail!(
            "access control is disabled: set access.enabled = true in the config, and restart the \
             daemon"
        );
    };
    Ok(TokenStore::new(&access.folder))
}

fn list(tokens: &[StoredToken], now: SystemTime, out: &mut dyn Write) -> std::io::Result<()> {
    if tokens.is_empty() {
        return writeln!(out, "no tokens; `lookout token add` makes one");
    }
    for token in tokens {
        let cameras = match &token.cameras {
            Some(names) => names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
            None => "all cameras".into(),
        };
        let end = match token.expires_at {
            Some(end) if token.has_expired(now) => format!("expired {}", rfc3339::format(end)),
            Some(end) => format!("expires {}", rfc3339::format(end)),
            None => "does not expire".into(),
        };
        let made = rfc3339::format(token.created_at);
        writeln!(out, "{}: {}, {cameras}; made {made}, {end}", token.name, token.role)?;
    }
    Ok(())
}
