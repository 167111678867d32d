//! Implements `lookout ask`: parses the cameras, the question and the time range.

use std::io::Write;

use clap::Args;
use tokio::runtime::Runtime;

use super::Client;
use crate::client;
use crate::exit::Failure;
use crate::question::{Detail, Draft, Limits, Question, RawLength, RawTime};

#[derive(Args)]
pub struct Ask {
    #[command(flatten)]
    client: Client,
    /// Name of the camera in the config; `lookout cameras` lists them. Separate several with
    /// commas: each gives its own answer.
    #[arg(value_delimiter = ',', required = true)]
    camera: Vec<String>,
    /// The question, in quotes.
    question: String,
    /// Generate at most N new tokens. Default: the configured limit.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<u64>,
    /// Ask about this much time up to now: 90s, 10m, 1h, 00:10:00, or a number of seconds.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from", "event"])]
    last: Option<String>,
    /// Ask about the time from here on: 2026-03-01T14:05:00Z, or with another offset, such as
    /// +01:00. UTC if no offset is given.
    #[arg(long, value_name = "TIME", conflicts_with = "event")]
    from: Option<String>,
    /// Ask about the time until here. Default: now.
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<String>,
    /// Ask about the window of the event with this sequence number, as printed by `lookout watch
    /// --json`.
    #[arg(long, value_name = "SEQUENCE")]
    event: Option<u64>,
    /// The run of that event, as given in its JSON. Default: the daemon's current run.
    #[arg(long, requires = "event")]
    run: Option<u64>,
    /// Cover the range in one pass (`overview`), part by part (`parts`), or in parts only where one
    /// pass would leave out too much (`auto`).
    #[arg(long, value_enum, default_value_t = Detail::Auto)]
    detail: Detail,
    /// Continue the conversation of this name, about the same frames, or start it. The JSON of
    /// every answer contains a name.
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
