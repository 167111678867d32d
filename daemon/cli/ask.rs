//! `lookout ask`: whom, what, and about which time.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::runtime::Runtime;

use super::{Client, Failure};
use crate::client;
use crate::service::{Detail, Range};

#[derive(Args)]
pub struct Ask {
    #[command(flatten)]
    client: Client,
    /// Its name in the config; `lookout cameras` lists them. Several, with commas between: each
    /// answers for itself.
    #[arg(value_delimiter = ',', required = true)]
    camera: Vec<String>,
    /// In words, in quotes.
    question: String,
    /// At most so many new tokens; as configured if not given.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<u32>,
    /// About so much time up to now: 90s, 10m, 1h.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[arg(conflicts_with_all = ["from", "event"])]
    last: Option<Duration>,
    /// From this time on, UTC: 2026-03-01T14:05:00.
    #[arg(long, value_name = "UTC", value_parser = humantime::parse_rfc3339_weak)]
    #[arg(conflicts_with = "event")]
    from: Option<SystemTime>,
    /// Until this time, UTC; without it, until now.
    #[arg(long, value_name = "UTC", value_parser = humantime::parse_rfc3339_weak)]
    #[arg(requires = "from")]
    to: Option<SystemTime>,
    /// About the window of this event, by its sequence, as `lookout watch --json` prints it.
    #[arg(long, value_name = "SEQUENCE")]
    event: Option<u64>,
    /// The run of that event, as its JSON has it; the daemon's own by default.
    #[arg(long, requires = "event")]
    run: Option<u64>,
    /// One look at the range, or part by part, or by itself the parts where one look would leave
    /// out too much.
    #[arg(long, value_enum, default_value_t = Detail::Auto)]
    detail: Detail,
    /// Goes on with the conversation of this name, about the same frames; or begins it. The JSON of
    /// every answer has one.
    #[arg(long, value_name = "NAME")]
    conversation: Option<String>,
}

pub fn ask(runtime: &Runtime, args: Ask, out: &mut dyn Write) -> Result<(), Failure> {
    let range = Range::of(args.last, args.from, args.to, args.event, args.run);
    let range = range.map_err(|why| Failure::cannot_begin(anyhow::anyhow!(why)))?;
    let question = client::Question {
        cameras: args.camera,
        text: args.question,
        range,
        detail: args.detail,
        conversation: args.conversation,
        max_new_tokens: args.max_new_tokens,
    };
    let Client { server, .. } = &args.client;
    runtime.block_on(client::ask(server, question, args.client.output(), out))?;
    Ok(())
}
