//! The tool that asks a question about the frames of a time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::arguments::{self, RangeText, event_id};
use super::summary::EventSummary;
use super::tool::{Call, Reply, Tool};
use crate::access::Role;
use crate::publish::asking::{Asking, CAMERAS, Item};
use crate::publish::http::refusal::Refusal;
use crate::question::Draft;

pub struct Ask;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arguments {
    /// The question, such as "Did anyone come to the gate?". Ask about what can be seen.
    question: String,
    #[schemars(description = arguments::CAMERAS)]
    cameras: Option<Vec<String>>,
    #[schemars(description = arguments::LAST)]
    last: Option<String>,
    #[schemars(description = arguments::FROM)]
    from: Option<String>,
    #[schemars(description = arguments::TO)]
    to: Option<String>,
    /// ID of an event: ask about its window instead of a time.
    event: Option<String>,
    /// Conversation of an earlier answer. The question is then about the same frames, and takes no
    /// time.
    conversation: Option<String>,
    /// True to get the probability of yes as a number instead of a text. For yes-or-no questions.
    score: Option<bool>,
    /// JSON Schema that the answer's text must follow. Say in the question what its properties
    /// mean.
    schema: Option<Map<String, Value>>,
}

#[derive(Serialize, JsonSchema)]
pub struct Answers {
    /// The answer about each camera.
    answers: Vec<EventSummary>,
    /// The cameras that give no answer.
    refusals: Vec<CameraRefusal>,
}

/// The reason why a camera gives no answer.
#[derive(Serialize, JsonSchema)]
struct CameraRefusal {
    camera: String,
    reason: &'static str,
    message: String,
}

impl Tool for Ask {
    const NAME: &str = "ask";
    const TITLE: &str = "Ask about what a camera saw";
    const ROLE: Role = Role::Ask;
    const DESCRIPTION: &str = "Has a vision model look at the frames of a time and answer a \
                               question about them. Without a time it looks at the newest seconds. \
                               A long time is answered in parts and takes longer: find the moment \
                               with search_events first. The answer becomes an event of the \
                               journal.";
    type Arguments = Arguments;
    type Output = Answers;

    async fn run(call: Call, arguments: Arguments) -> Result<Reply<Answers>, Refusal> {
        let cameras = arguments::cameras(&*call.service, arguments.cameras);
        if !(1..=CAMERAS).contains(&cameras.len()) {
            let why = format!("{} cameras; wanted 1 to {CAMERAS}", cameras.len());
            return Err(Refusal::invalid("cameras", why));
        }
        let event = arguments.event.as_deref().map(event_id).transpose()?;
        let Arguments { last, from, to, .. } = arguments;
        let draft = Draft {
            text: arguments.question,
            event: event.map(|event| event.sequence),
            run: event.map(|event| event.run),
            conversation: arguments.conversation,
            score_yes_no: arguments.score.unwrap_or(false),
            schema: arguments.schema.map(|schema| Value::Object(schema).to_string()),
            ..RangeText { last, from, to }.draft()?
        };
        let question = |camera| {
            let id = format!("mcp-{:016x}", rand::random::<u64>());
            call.service.question(Draft { camera, id, ..draft.clone() })
        };
        let questions = cameras.into_iter().map(question).collect::<Result<Vec<_>, _>>()?;
        let _place = call.place()?;
        let asking = Asking::begin(call.service.clone(), questions)?;
        let output = answers(&call, asking).await?;
        let answers = output.answers.iter().map(EventSummary::line);
        let refused = |refusal: &CameraRefusal| {
            let CameraRefusal { camera, message, .. } = refusal;
            format!("{camera}: no answer: {message}")
        };
        let lines: Vec<_> = answers.chain(output.refusals.iter().map(refused)).collect();
        Ok(Reply::new(output, lines.join("\n")))
    }
}

async fn answers(call: &Call, mut asking: Asking) -> Result<Answers, Refusal> {
    let mut output = Answers { answers: Vec::new(), refusals: Vec::new() };
    let (mut pieces, mut text) = (0, String::new());
    while let Some(next) = asking.next().await {
        let (camera, item) = next?;
        match item {
            Item::Text(more) => text += &more,
            Item::Part(part) => text = part.text.clone(),
            Item::Finished(event) => {
                text.clear();
                output.answers.push(EventSummary::of(&event));
            }
            Item::Refused(error) => {
                let Refusal { reason, message, .. } = error.into();
                output.refusals.push(CameraRefusal { camera: camera.clone(), reason, message });
            }
        }
        pieces += 1;
        call.progress.report(pieces, None, || format!("{camera}: {text}")).await;
    }
    Ok(output)
}
