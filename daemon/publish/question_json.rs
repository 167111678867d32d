//! Reads a question in JSON, as MQTT receives it.

use serde_json::{Map, Value};

use super::json_fields;
use crate::question::{Draft, RawLength, RawTime, start_of};

pub const WANTED: &str = r#"wanted {"question_id", "question", "max_new_tokens", "detail", "conversation", "score_yes_no", "schema", and "last": "10m", or "from" and "to", or "event" and its "run"}"#;

/// The fields of a question in JSON with their meaning, for the documentation.
pub const QUESTION_FIELDS: &[(&str, &str)] = &[
    ("question", "The question. Required."),
    ("question_id", "Text or a number, returned as text with the answer. Default: a generated ID."),
    ("last", "The length of time up to now: `\"10m\"`, `\"00:10:00\"` or seconds."),
    ("from", "Start of the range in RFC 3339. Without an offset it is UTC."),
    ("to", "End of the range in RFC 3339. Default: now."),
    ("event", "Sequence of an event whose window is used."),
    ("run", "The run of that event. Default: the current run."),
    ("detail", "`auto` (default), `overview` or `parts`."),
    ("conversation", "Conversation of an earlier answer."),
    ("max_new_tokens", "Maximum number of tokens of the answer."),
    (
        "score_yes_no",
        "`true` scores a yes/no question instead of generating a text. See \
         `AskRequest.score_yes_no` in gRPC.",
    ),
    (
        "schema",
        "JSON Schema that the answer's text must follow, as an object or as text, at most 16 KiB. \
         See `AskRequest.schema` in gRPC.",
    ),
];

/// Reads the fields of an object. If it is malformed, `fields` has those before the error.
pub fn read(text: &str, fields: &mut Map<String, Value>) -> Result<(), String> {
    json_fields::read(text, fields).map_err(|e| format!("{WANTED}: {e}"))
}

/// Stores one field of the JSON in the draft. A `null` counts as absent.
pub fn fill(draft: &mut Draft, field: &str, value: Value) -> Result<(), String> {
    let wanted = |what: &str, value: &Value| {
        format!("{field} is {}; wanted {what}", start_of(&value.to_string()))
    };
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        value => Err(wanted("text", &value)),
    };
    let count = |value: Value| value.as_u64().ok_or_else(|| wanted("a whole number", &value));
    match field {
        _ if value.is_null() => {}
        "question_id" => match id(&value) {
            Some(id) => draft.id = id,
            None => return Err(wanted("text or a number", &value)),
        },
        "question" => draft.text = text(value)?,
        "max_new_tokens" => draft.max_new_tokens = Some(count(value)?),
        "last" => {
            draft.last = Some(match (value.as_f64(), value) {
                (Some(seconds), _) => RawLength::Seconds(seconds),
                (None, value) => RawLength::Text(text(value)?),
            });
        }
        "from" => draft.from = Some(RawTime::Text(text(value)?)),
        "to" => draft.to = Some(RawTime::Text(text(value)?)),
        "event" => draft.event = Some(count(value)?),
        "run" => draft.run = Some(count(value)?),
        "detail" => draft.detail = Some(text(value)?),
        "conversation" => draft.conversation = Some(text(value)?),
        "score_yes_no" => match value.as_bool() {
            Some(is_scored) => draft.score_yes_no = is_scored,
            None => return Err(wanted("true or false", &value)),
        },
        "schema" => {
            draft.schema = Some(match value {
                Value::String(text) => text,
                Value::Object(_) => value.to_string(),
                value => return Err(wanted("a JSON Schema, as an object or as text", &value)),
            });
        }
        unknown => return Err(format!("unknown field {:?}; {WANTED}", start_of(unknown))),
    }
    Ok(())
}

/// Returns an id as text. Templates turn ids that look like a number into one.
pub fn id(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
