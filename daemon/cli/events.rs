//! Implements `lookout events` and `lookout search`.

use std::io::Write;
use std::time::SystemTime;

use clap::Args;

use super::{Client, output};
use crate::client;
use crate::event::EventKind;
use crate::exit::Failure;
use crate::journal::{EventFilter, SearchMode};
use crate::moment;

#[derive(Args)]
pub struct Events {
    #[command(flatten)]
    client: Client,
    #[command(flatten)]
    filter: Filter,
    /// Maximum number of events; the newest are printed.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
}

#[derive(Args)]
pub struct Search {
    #[command(flatten)]
    client: Client,
    /// Words or a description, such as "red car".
    ///
    /// A word finds its forms, such as car and cars. Words in double quotes must follow each other.
    query: String,
    /// Search for words, by meaning, or both. Default: both if the daemon has a model for it.
    ///
    /// `words` finds texts that contain all words. `meaning` finds texts that say something similar
    /// in other words. `fused` merges the results of both.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    #[command(flatten)]
    filter: Filter,
    /// Maximum number of results; the best are printed.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
}

#[derive(Args)]
pub struct Filter {
    /// Include only this camera; may be repeated.
    #[arg(long, value_name = "NAME")]
    camera: Vec<String>,
    /// Include only events of this kind; may be repeated.
    #[arg(long)]
    kind: Vec<EventKind>,
    /// Include this much time up to now, such as 24h. Default: all.
    #[arg(long, value_name = "DURATION", conflicts_with = "since", value_parser = moment::ago)]
    last: Option<SystemTime>,
    /// Include events published from this time on, such as 2026-03-01T14:05:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    since: Option<SystemTime>,
    /// Include events published before this time.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    until: Option<SystemTime>,
}

/// A mode of the search.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Mode {
    Fused,
    Words,
    Meaning,
}

impl Mode {
    fn read(self) -> SearchMode {
        match self {
            Mode::Fused => SearchMode::Fused,
            Mode::Words => SearchMode::Words,
            Mode::Meaning => SearchMode::Meaning,
        }
    }
}

impl Filter {
    pub fn read(self) -> EventFilter {
        EventFilter {
            cameras: self.camera,
            kinds: self.kind,
            since: self.since.or(self.last),
            until: self.until,
        }
    }
}

pub async fn events(args: Events, out: &mut dyn Write) -> Result<(), Failure> {
    let Client { server, json } = args.client;
    let (filter, limit) = (args.filter.read(), args.limit as usize);
    client::list_events(&server, &filter, limit, output(json), out).await?;
    Ok(())
}

pub async fn search(args: Search, out: &mut dyn Write) -> Result<(), Failure> {
    let Client { server, json } = args.client;
    let (filter, limit) = (args.filter.read(), args.limit as usize);
    let mode = args.mode.map(Mode::read);
    client::search_events(&server, &args.query, mode, &filter, limit, output(json), out).await?;
    Ok(())
}
