//! Implements `lookout ask`: parses the cameras, the question and the time range.

use std::io::Write;

use anyhow::anyhow;
use clap::Args;

use super::{Client, output};
use crate::client;
use crate::exit::Failure;
use crate::question::{Detail, Draft, Limits, Question, RawLength, RawTime};

#[derive(Args)]
pub struct Ask {
    #[command(flatten)]
    client: Client,
    /// Name of the camera; `lookout cameras` lists them.
    ///
    /// Separate several cameras with commas: each gives its own answer.
    #[arg(value_delimiter = ',', required = true)]
    camera: Vec<String>,
    /// The question, in quotes.
    question: String,
    /// Maximum number of tokens in the answer. Default: the configured limit.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<u64>,
    /// Ask about this much time up to now, such as 10m.
    ///
    /// Written 90s, 10m, 1h, 00:10:00, or as a number of seconds.
    #[arg(long, value_name = "DURATION", conflicts_with_all = ["from", "event"])]
    last: Option<String>,
    /// Ask about the time from here on, such as 2026-03-01T14:05:00Z.
    ///
    /// The offset may be another one, such as +01:00. Without an offset the time is UTC.
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
    /// Cover the range in one pass, or part by part.
    ///
    /// `overview` is one pass, `parts` one pass for each part. `auto` uses parts only where one pass
    /// would leave out too much.
    #[arg(long, value_enum, default_value_t = Detail::Auto)]
    detail: Detail,
    /// Continue the conversation of this name, or start it.
    ///
    /// The questions of a conversation are about the same frames. The JSON of every answer contains
    /// a name.
    #[arg(long, value_name = "NAME")]
    conversation: Option<String>,
    /// Score a yes/no question: print the model's probability of yes, from 0 to 1.
    ///
    /// The model generates no text. The range is covered in one pass.
    #[arg(long, conflicts_with_all = ["conversation", "max_new_tokens"])]
    score: bool,
    /// Answer in JSON that follows this JSON Schema: a file, or the schema itself if it begins with
    /// "{".
    ///
    /// The model does not see the schema, so the question should say what each property means. The
    /// answer is complete unless the line after it says that it was cut.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "score")]
    schema: Option<String>,
}

pub async fn ask(args: Ask, out: &mut dyn Write) -> Result<(), Failure> {
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
        score_yes_no: args.score,
        schema: args.schema.map(read_schema).transpose()?,
        ..Draft::default()
    };
    let question = |camera| Question::new(Draft { camera, ..draft.clone() }, &Limits::unknown());
    let questions = args.camera.into_iter().map(question).collect::<Result<Vec<_>, _>>()?;
    let Client { server, json } = args.client;
    client::ask(&server, &questions, output(json), out).await?;
    Ok(())
}

/// Returns the text of a schema, which may be in a file.
fn read_schema(given: String) -> Result<String, Failure> {
    if given.trim_start().starts_with('{') {
        return Ok(given);
    }
    std::fs::read_to_string(&given)
        .map_err(|error| Failure::cannot_begin(anyhow!("schema file {given:?}: {error}")))
}
