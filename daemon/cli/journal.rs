//! Implements `lookout keep`, `delete`, `frames`, `clip` and `export`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::bail;
use clap::Args;

use super::events::Filter;
use super::stop::stop_signal;
use super::{Client, output};
use crate::client::{self, Deletion, Position};
use crate::exit::Failure;
use crate::frame::Span;
use crate::moment;

#[derive(Args)]
pub struct Keep {
    #[command(flatten)]
    client: Client,
    #[command(flatten)]
    event: Event,
    /// Remove the mark, so that the event is deleted for its age again.
    #[arg(long)]
    clear: bool,
}

#[derive(Args)]
pub struct Frames {
    #[command(flatten)]
    client: Client,
    #[command(flatten)]
    event: Event,
    /// Folder of the files, named CAMERA-RUN-NUMBER.jpg. It is created if it is missing.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

#[derive(Args)]
pub struct Clip {
    #[command(flatten)]
    client: Client,
    #[command(flatten)]
    event: Event,
    /// The MP4 file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Args)]
struct Event {
    /// Sequence number of the event, as printed by `lookout events` and `lookout search`.
    #[arg(value_name = "SEQUENCE")]
    event: u64,
    /// The run of the event, as printed with it. Default: the daemon's current run.
    #[arg(long)]
    run: Option<u64>,
}

impl Event {
    fn position(&self) -> Position {
        Position { run: self.run, sequence: self.event }
    }
}

#[derive(Args)]
pub struct Delete {
    #[command(flatten)]
    client: Client,
    /// Delete events about the time from here on, such as 2026-03-01T14:05:00Z, or from this long
    /// ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    from: SystemTime,
    /// Delete events about the time until here, such as 2026-03-01T14:10:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    to: SystemTime,
    /// Delete only events of this camera; may be repeated.
    #[arg(long, value_name = "NAME")]
    camera: Vec<String>,
    /// Delete kept events, too.
    #[arg(long)]
    include_kept: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    client: Client,
    /// The ZIP file to write. It appears when it is complete.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    filter: Filter,
}

pub async fn keep(args: Keep, out: &mut dyn Write) -> Result<(), Failure> {
    let Client { server, json } = args.client;
    client::keep(&server, args.event.position(), !args.clear, output(json), out).await?;
    Ok(())
}

pub async fn frames(args: Frames, out: &mut dyn Write) -> Result<(), Failure> {
    let Client { server, json } = args.client;
    client::frames(&server, args.event.position(), &args.into, output(json), out).await?;
    Ok(())
}

pub async fn clip(args: Clip, out: &mut dyn Write) -> Result<(), Failure> {
    let Client { server, json } = args.client;
    client::clip(&server, args.event.position(), &args.output, output(json), out).await?;
    Ok(())
}

pub async fn delete(args: Delete, out: &mut dyn Write) -> Result<(), Failure> {
    let Client { server, json } = args.client;
    let Delete { from, to, camera: cameras, include_kept, .. } = args;
    let span = Span { from, to };
    if !args.yes && !is_confirmed(span, &cameras)? {
        return Ok(());
    }
    client::delete(&server, Deletion { span, cameras, include_kept }, output(json), out).await?;
    Ok(())
}

pub async fn export(args: Export, out: &mut dyn Write) -> Result<(), Failure> {
    let (filter, stop) = (args.filter.read(), stop_signal()?);
    client::export(&args.client.server, &filter, &args.file, stop, out).await?;
    Ok(())
}

/// Asks on the terminal whether to delete. Returns true for yes.
fn is_confirmed(span: Span, cameras: &[String]) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("deleting needs a confirmation: run it in a terminal, or with --yes");
    }
    let of = match cameras {
        [] => "all cameras".to_owned(),
        names => names.join(", "),
    };
    eprint!("Delete all events of {of} about {} UTC? [y/N] ", span.clock(true));
    let mut reply = String::new();
    std::io::stdin().read_line(&mut reply)?;
    Ok(matches!(reply.trim().to_lowercase().as_str(), "y" | "yes"))
}
