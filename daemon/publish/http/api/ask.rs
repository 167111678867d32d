//! Questions. The answer is a stream of server-sent events, or one JSON value at the end.

use std::sync::Arc;

use axum::Extension;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Refusal;
use super::caller::{Api, Asker};
use super::request::JsonText;
use super::stream::Sender;
use crate::event::{AnswerPart, Event};
use crate::metrics;
use crate::publish::asking::{Asking, CAMERAS, Item};
use crate::publish::http::guard::Client;
use crate::publish::question_json;
use crate::question::{Draft, Question};
use crate::service::AskError;
use crate::trace_parent::{self, TraceParent};

/// A message of the stream of an answer.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Message {
    /// The next piece of the text.
    Text { camera: String, text: String },
    /// The answer about a part of a long range.
    Part {
        camera: String,
        #[serde(flatten)]
        part: AnswerPart,
    },
    /// The answer's event in the journal.
    Finished { camera: String, event: Arc<Event> },
    /// This camera gives no answer.
    Refused {
        camera: String,
        #[serde(flatten)]
        refusal: Refusal,
    },
    /// The question is refused for all cameras that did not answer yet.
    Failed {
        #[serde(flatten)]
        refusal: Refusal,
    },
}

/// The answers about all cameras.
#[derive(Serialize, JsonSchema)]
pub struct Answers {
    /// One message for each camera, of the kind `finished` or `refused`.
    answers: Vec<Message>,
}

pub async fn ask(
    Asker(api): Asker,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: JsonText,
) -> Result<Response, Refusal> {
    let header = headers.get(trace_parent::HEADER);
    let parent = header.and_then(|value| TraceParent::parse(value.to_str().ok()?));
    let questions = read(&api, &body.0, parent)?;
    let asking = Asking::begin(api.service.clone(), questions)?;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        api.stream(&client, |to| stream(asking, to))
    } else {
        let _call = client.begin_call();
        collect(asking).await.map(IntoResponse::into_response)
    }
}

/// Reads a question to one or several cameras: the fields of a question by MQTT, and `cameras`.
fn read(
    api: &Api,
    text: &str,
    trace_parent: Option<TraceParent>,
) -> Result<Vec<Question>, Refusal> {
    let refuse = |refusal: Refusal| {
        metrics::question_refused(AskError::InvalidQuestion(String::new()).reason());
        refusal
    };
    let invalid = |why: String| refuse(AskError::InvalidQuestion(why).into());
    let mut fields = Map::new();
    question_json::read(text, &mut fields).map_err(invalid)?;
    let cameras = cameras(fields.remove("cameras")).map_err(refuse)?;
    let mut draft = Draft { trace_parent, ..Draft::default() };
    for (field, value) in fields {
        question_json::fill(&mut draft, &field, value).map_err(invalid)?;
    }
    let question = |camera| {
        let mut draft = Draft { camera, ..draft.clone() };
        if draft.id.is_empty() {
            draft.id = format!("http-{:016x}", rand::random::<u64>());
        }
        api.service.question(draft).map_err(Refusal::from)
    };
    cameras.into_iter().map(question).collect()
}

fn cameras(value: Option<Value>) -> Result<Vec<String>, Refusal> {
    let names = match value {
        Some(Value::Array(names)) if (1..=CAMERAS).contains(&names.len()) => names,
        _ => {
            let why = format!("wanted \"cameras\", a list of 1 to {CAMERAS} names");
            return Err(Refusal::invalid("cameras", why));
        }
    };
    let name = |name: Value| match name {
        Value::String(name) => Ok(name),
        other => {
            let why = format!("cameras has {other}; wanted names");
            Err(Refusal::invalid("cameras", why))
        }
    };
    names.into_iter().map(name).collect()
}

fn message(camera: String, item: Item) -> Message {
    match item {
        Item::Part(part) => Message::Part { camera, part: *part },
        Item::Text(text) => Message::Text { camera, text },
        Item::Finished(event) => Message::Finished { camera, event },
        Item::Refused(error) => Message::Refused { camera, refusal: error.into() },
    }
}

async fn stream(mut asking: Asking, to: Sender) {
    while let Some(next) = asking.next().await {
        let message = match next {
            Ok((camera, item)) => message(camera, item),
            Err(error) => Message::Failed { refusal: error.into() },
        };
        if !to.send(&message, None).await {
            return;
        }
    }
}

async fn collect(mut asking: Asking) -> Result<Json<Answers>, Refusal> {
    let mut answers = Vec::new();
    while let Some(next) = asking.next().await {
        match next? {
            (camera, item @ (Item::Finished(_) | Item::Refused(_))) => {
                answers.push(message(camera, item));
            }
            (_, Item::Part(_) | Item::Text(_)) => {}
        }
    }
    Ok(Json(Answers { answers }))
}
