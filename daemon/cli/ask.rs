//! `lookout ask`: whom, what, and about which time.

use std::io::Write;

use clap::Args;
use tokio::runtime::Runtime;

use super::{Client, Failure};
use crate::client;
use crate::question::{Detail, Draft, Limits, Question, RawLength, RawTime};

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
    max_new_tokens: Option<u64>,
    /// About so much time up to now: 90s, 10m, 1h, 00:10:00, or a number of seconds.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from", "event"])]
    last: Option<String>,
    /// From this time on: 2026-03-01T14:05:00Z, or with another offset, +01:00; without any, UTC.
    #[arg(long, value_name = "TIME", conflicts_with = "event")]
    from: Option<String>,
    /// Until this time; without it, until now.
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<String>,
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
    let draft = Draft {
        text: args.question,
        last: args.last.map(RawLength::Text),
        from: args.from.map(RawTime::Text),
        to: args.to.map(RawTime::Text),
        event: args.event,
        run: args.run,
        detail: Some(args.detail.name().into()),
        conversation: args.conversation,
        max_new_tokens: args.max_new_tokens,
        ..Draft::default()
    };
    let question = |camera| Question::new(Draft { camera, ..draft.clone() }, &Limits::unknown());
    let questions = args.camera.into_iter().map(question).collect::<Result<Vec<_>, _>>()?;
    let Client { server, .. } = &args.client;
    runtime.block_on(client::ask(server, &questions, args.client.output(), out))?;
    Ok(())
}
