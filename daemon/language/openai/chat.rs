//! The requests and responses of OpenAI's `POST /v1/chat/completions`.
//!
//! The frames of a window come first, each after its time, and the question last. So all requests
//! about a window have the same start, which a server can keep in its cache.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::Sampling;
use crate::frame::rfc3339;
use crate::language::servers::Problem;
use crate::language::{Failure, Limits, TimedJpeg, Turn};

/// The number of the likeliest tokens that are requested. It is the largest that servers accept.
const TOP_LOGPROBS: usize = 20;

/// A part of a message, as a request contains it.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    Text { text: String },
    ImageUrl { image_url: ImageUrl },
}

#[derive(Serialize)]
pub struct ImageUrl {
    url: String,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Parts(Vec<&'a Part>),
}

/// Returns the parts of a window's frames: the time of each in UTC, and its JPEG.
pub fn frames(jpegs: &[TimedJpeg]) -> Vec<Part> {
    let days: Vec<String> = jpegs.iter().map(|frame| date(frame.captured_at)).collect();
    let is_dated = days.windows(2).any(|pair| pair[0] != pair[1]);
    let parts = jpegs.iter().zip(days).flat_map(|(frame, day)| {
        let day = if is_dated { format!("{day} ") } else { String::new() };
        let time = format!("{day}{} UTC", time_of_day(frame.captured_at));
        [Part::Text { text: time }, picture(&frame.jpeg)]
    });
    parts.collect()
}

/// Returns the part of a JPEG.
pub fn picture(jpeg: &[u8]) -> Part {
    let url = format!("data:image/jpeg;base64,{}", BASE64_STANDARD.encode(jpeg));
    Part::ImageUrl { image_url: ImageUrl { url } }
}

fn date(time: SystemTime) -> String {
    rfc3339::format(time)[..10].into()
}

fn time_of_day(time: SystemTime) -> String {
    rfc3339::format(time)[11..19].into()
}

/// The messages of a request.
pub struct Conversation<'a> {
    /// The system message, which may be empty.
    pub instruction: &'a str,
    pub frames: &'a [Part],
    /// Earlier questions and answers, the oldest first.
    pub turns: &'a [Turn],
    pub question: &'a str,
}

/// Returns the body of a request, with further fields.
pub fn body(model: &str, conversation: &Conversation<'_>, fields: Value) -> Result<Bytes, Failure> {
    let Conversation { instruction, frames, turns, question } = conversation;
    let questions = turns.iter().map(|turn| &*turn.question).chain([*question]);
    let texts: Vec<Part> = questions.map(|text| Part::Text { text: text.into() }).collect();
    let mut messages = Vec::new();
    if !instruction.is_empty() {
        messages.push(Message { role: "system", content: Content::Text(instruction) });
    }
    for (at, text) in texts.iter().enumerate() {
        let frames = if at == 0 { *frames } else { &[] };
        let parts = frames.iter().chain([text]).collect();
        messages.push(Message { role: "user", content: Content::Parts(parts) });
        if let Some(turn) = turns.get(at) {
            messages.push(Message { role: "assistant", content: Content::Text(&turn.answer) });
        }
    }
    let Value::Object(fields) = fields else { return Err(Failure::Run("no fields".into())) };
    let text = serde_json::to_vec(&Body { model, messages, fields });
    text.map(Bytes::from).map_err(|error| Failure::Run(error.to_string()))
}

/// Returns the fields of a request for a text.
pub fn text_fields(limits: Limits, schema: Option<&str>) -> Value {
    let mut fields = json!({
        "max_tokens": limits.max_new_tokens,
        "temperature": 0,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    if let Sampling::Nucleus { temperature, top_p, seed } = limits.sampling {
        fields["temperature"] = json!(temperature);
        fields["top_p"] = json!(top_p);
        fields["seed"] = json!(seed as i64);
    }
    if let Some(schema) = schema.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        fields["response_format"] = response_format(&schema);
    }
    fields
}

/// Returns the field that makes an answer follow a schema.
pub fn response_format(schema: &Value) -> Value {
    json!({
        "type": "json_schema",
        "json_schema": { "name": "answer", "strict": true, "schema": schema },
    })
}

/// Returns the fields of a request for a short text as a whole.
pub fn short_fields(max_tokens: usize) -> Value {
    json!({ "max_tokens": max_tokens, "temperature": 0 })
}

/// Returns the fields of a request for the likeliest first tokens.
pub fn logprob_fields() -> Value {
    json!({
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": true,
        "top_logprobs": TOP_LOGPROBS,
    })
}

/// An event of a stream.
#[derive(Debug, Deserialize)]
pub struct Chunk {
    #[serde(default)]
    pub choices: Vec<ChunkChoice>,
    pub usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
pub struct ChunkChoice {
    #[serde(default)]
    pub delta: Delta,
    pub finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Delta {
    pub content: Option<String>,
    /// The text that a model writes before its answer.
    #[serde(alias = "reasoning")]
    pub reasoning_content: Option<String>,
}

/// A whole response.
#[derive(Debug, Deserialize)]
pub struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    pub usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    message: Reply,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Deserialize)]
struct Reply {
    content: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Logprobs {
    content: Option<Vec<Position>>,
}

#[derive(Debug, Deserialize)]
struct Position {
    #[serde(default)]
    top_logprobs: Vec<Top>,
}

/// A likely token, with the logarithm of its probability.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Top {
    pub token: String,
    pub logprob: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Usage {
    pub prompt_tokens: u32,
    #[serde(default)]
    pub completion_tokens: u32,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u32>,
}

impl Usage {
    /// Returns the number of the prompt's tokens that were in the server's cache, or 0 if the server
    /// does not tell.
    pub fn cached_tokens(&self) -> u32 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

impl Completion {
    /// Returns the text of the answer, without white space around it.
    pub fn text(&self) -> Result<&str, Problem> {
        Ok(self.choice()?.message.content.as_deref().unwrap_or_default().trim())
    }

    /// Returns the likeliest first tokens. They are empty if the server does not send them.
    pub fn first_tokens(&self) -> Result<&[Top], Problem> {
        let logprobs = self.choice()?.logprobs.as_ref();
        let first = logprobs.and_then(|found| found.content.as_ref()?.first());
        Ok(first.map_or(&[], |position| &position.top_logprobs))
    }

    fn choice(&self) -> Result<&Choice, Problem> {
        let first = self.choices.first();
        first.ok_or_else(|| Problem::Unusable("its response has no answer".into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn jpeg(seconds: u64) -> TimedJpeg {
        let captured_at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        TimedJpeg { captured_at, jpeg: [7, 8].into() }
    }

    fn sent(turns: &[Turn], jpegs: &[TimedJpeg]) -> Value {
        let (instruction, question) = ("Be brief.", "And now?");
        let frames = &frames(jpegs);
        let conversation = Conversation { instruction, frames, turns, question };
        let body = body("m", &conversation, json!({ "max_tokens": 1 })).expect("JSON");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[test]
    fn frames_come_first_with_their_times_and_the_question_last() {
        let body = sent(&[], &[jpeg(3600), jpeg(3601)]);
        let url = json!({ "type": "image_url",
            "image_url": { "url": "data:image/jpeg;base64,Bwg=" } });
        let text = |text: &str| json!({ "type": "text", "text": text });
        let parts = [text("01:00:00 UTC"), url.clone(), text("01:00:01 UTC"), url];
        let parts: Vec<Value> = parts.into_iter().chain([text("And now?")]).collect();
        assert_eq!(body["messages"][0], json!({ "role": "system", "content": "Be brief." }));
        assert_eq!(body["messages"][1], json!({ "role": "user", "content": parts }));
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("m"), &json!(1)));
        // A window over midnight has dates.
        let body = sent(&[], &[jpeg(86_399), jpeg(86_400)]);
        let parts = &body["messages"][1]["content"];
        assert_eq!(parts[0]["text"], "1970-01-01 23:59:59 UTC");
        assert_eq!(parts[2]["text"], "1970-01-02 00:00:00 UTC");
    }

    #[test]
    fn earlier_turns_follow_the_frames() {
        let turn = Turn { question: "Who is there?".into(), answer: "A dog.".into() };
        let body = sent(&[turn], &[jpeg(1)]);
        let messages = body["messages"].as_array().expect("messages");
        let roles: Vec<&Value> = messages.iter().map(|message| &message["role"]).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert_eq!(messages[1]["content"].as_array().map(Vec::len), Some(3));
        assert_eq!(messages[1]["content"][2]["text"], "Who is there?");
        assert_eq!(messages[2]["content"], "A dog.");
        assert_eq!(messages[3]["content"], json!([{ "type": "text", "text": "And now?" }]));
    }

    #[test]
    fn the_likeliest_first_tokens_are_read() {
        let parse = |text: &str| serde_json::from_str::<Completion>(text).expect("a response");
        let with = parse(
            r#"{"choices":[{"message":{"content":" Yes"},"logprobs":{"content":[{"token":"Yes",
                "logprob":-0.1,"top_logprobs":[{"token":"Yes","logprob":-0.1,"id":7},
                {"token":" no","logprob":null}]}]}}],"usage":{"prompt_tokens":9}}"#,
        );
        let tokens = with.first_tokens().expect("tokens");
        assert_eq!((tokens.len(), tokens[0].logprob, tokens[1].logprob), (2, Some(-0.1), None));
        assert_eq!(with.text(), Ok("Yes"));
        for without in [
            r#"{"choices":[{"message":{"content":null}}]}"#,
            r#"{"choices":[{"message":{"content":"Yes"},"logprobs":null}]}"#,
            r#"{"choices":[{"message":{"content":"Yes"},"logprobs":{"content":[]}}]}"#,
        ] {
            assert_eq!(parse(without).first_tokens(), Ok(&[][..]), "{without}");
        }
        assert!(parse("{}").text().is_err());
    }
}
