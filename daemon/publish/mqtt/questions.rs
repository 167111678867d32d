//! Questions that come by MQTT.
//!
//! They outlive a connection: the answer enters the journal, and the journal is what is published.
//! Only a refusal has no event, and goes out directly.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::publish::{Code, retry_after_seconds};
use crate::service::{Answer, AnswerItem, AskError, Detail, Question, Range, Service};

/// Questions of this wire that are being answered at once; the engine's own queue is usually
/// shorter and refuses earlier.
const AT_ONCE: usize = 64;

/// Far more than fits a model's context.
const LONGEST: usize = 64 * 1024;

/// Dropping it cancels the questions under way.
#[derive(Default)]
pub struct Questions {
    under_way: JoinSet<Option<Refusal>>,
}

/// The JSON that `<camera>/answer` carries instead of an answer.
#[derive(Debug, PartialEq, Serialize)]
pub struct Refusal {
    #[serde(skip)]
    pub camera: String,
    pub id: String,
    pub error: String,
    pub code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl Questions {
    pub fn ask(
        &mut self,
        service: &Arc<dyn Service>,
        camera: &str,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let question = parse(camera, payload)?;
        let id = question.id.clone();
        if self.under_way.len() >= AT_ONCE {
            return Err(Refusal {
                camera: camera.to_owned(),
                id,
                error: format!("{AT_ONCE} questions are being answered already"),
                code: Code::ResourceExhausted.name(),
                retry_after_seconds: Some(1),
            });
        }
        let answer = service.ask(question).map_err(|e| Refusal::new(camera, &id, &e))?;
        self.under_way.spawn(follow(answer, camera.to_owned(), id));
        Ok(())
    }

    /// Waits for the next answer that failed. Safe to drop.
    pub async fn failed(&mut self) -> Refusal {
        loop {
            match self.under_way.join_next().await {
                Some(Ok(Some(refusal))) => return refusal,
                Some(Ok(None)) => {}
                Some(Err(error)) => tracing::error!("following an answer failed: {error}"),
                None => std::future::pending().await,
            }
        }
    }
}

/// Reads the answer to its end, for a dropped receiver would cancel it.
async fn follow(mut answer: Answer, camera: String, id: String) -> Option<Refusal> {
    loop {
        match answer.recv().await {
            Some(AnswerItem::Part(_) | AnswerItem::Token(_)) => {}
            Some(AnswerItem::Finished(_)) => return None,
            Some(AnswerItem::Failed(error)) => return Some(Refusal::new(&camera, &id, &error)),
            None => {
                let error = AskError::Model("the answer broke off".into());
                return Some(Refusal::new(&camera, &id, &error));
            }
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    id: Option<String>,
    question: String,
    #[serde(default)]
    max_new_tokens: Option<usize>,
    #[serde(default, with = "humantime_serde")]
    last: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    from: Option<SystemTime>,
    #[serde(default, with = "humantime_serde")]
    to: Option<SystemTime>,
    #[serde(default)]
    event: Option<u64>,
    #[serde(default)]
    run: Option<u64>,
    #[serde(default)]
    detail: Detail,
    #[serde(default)]
    conversation: Option<String>,
}

/// Plain text is a question; what begins with `{` is JSON.
fn parse(camera: &str, payload: &[u8]) -> Result<Question, Refusal> {
    let refuse = |id: &str, why: String| Refusal::new(camera, id, &AskError::BadQuestion(why));
    if payload.len() > LONGEST {
        return Err(refuse("", format!("a question has at most {LONGEST} bytes")));
    }
    let text = std::str::from_utf8(payload)
        .map_err(|_| refuse("", "the question is not UTF-8".into()))?
        .trim();
    let asked = if text.starts_with('{') {
        let bad = |id: &str, e: serde_json::Error| {
            refuse(
                id,
                format!(
                    r#"wanted {{"id", "question", "max_new_tokens", "detail", "conversation", and "last": "10m", or "from" and "to", or "event" and its "run"}}: {e}"#
                ),
            )
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(|e| bad("", e))?;
        // Whoever asked recognises a refusal by the id, even of a question that is malformed.
        let id = value["id"].as_str().unwrap_or_default().to_owned();
        serde_json::from_value::<Asked>(value).map_err(|e| bad(&id, e))?
    } else {
        Asked { question: text.to_owned(), ..Asked::default() }
    };
    let id = asked.id.unwrap_or_else(|| format!("mqtt-{:016x}", rand::random::<u64>()));
    if asked.question.trim().is_empty() {
        return Err(refuse(&id, "the question is empty".into()));
    }
    let range = Range::of(asked.last, asked.from, asked.to, asked.event, asked.run);
    let range = range.map_err(|why| refuse(&id, why))?;
    Ok(Question {
        camera: camera.to_owned(),
        id,
        text: asked.question,
        range,
        detail: asked.detail,
        conversation: asked.conversation,
        max_new_tokens: asked.max_new_tokens,
    })
}

impl Refusal {
    fn new(camera: &str, id: &str, error: &AskError) -> Refusal {
        Refusal {
            camera: camera.to_owned(),
            id: id.to_owned(),
            error: error.to_string(),
            code: Code::from(error).name(),
            retry_after_seconds: retry_after_seconds(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_are_questions() {
        let plain = parse("gate", b" Is it open? ").unwrap();
        assert_eq!(plain.text, "Is it open?");
        assert!(plain.id.starts_with("mqtt-"));
        let json = parse("gate", br#"{"id":"7","question":"Open?","max_new_tokens":3}"#).unwrap();
        assert_eq!((json.id.as_str(), json.max_new_tokens), ("7", Some(3)));
        assert_eq!(json.range, Range::Recent);
        let range = |fields: &str| {
            parse("gate", format!(r#"{{"question":"Open?",{fields}}}"#).as_bytes()).unwrap().range
        };
        assert_eq!(range(r#""last":"10m""#), Range::Last(Duration::from_secs(600)));
        assert_eq!(range(r#""event":7"#), Range::Event { run: None, sequence: 7 });
        let of_a_run = Range::Event { run: Some(1_760_000_000_000), sequence: 7 };
        assert_eq!(range(r#""event":7,"run":1760000000000"#), of_a_run);
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let (to, times) = (None, r#""from":"1970-01-01T00:01:00Z""#);
        assert_eq!(range(times), Range::Between { from, to });
    }

    #[test]
    fn malformed_questions_are_told_so() {
        let cases: [&[u8]; 11] = [
            b"",
            b"\xff",
            b"{",
            br#"{"question":1}"#,
            br#"{"question":" "}"#,
            b"{\"x\":1}",
            br#"{"question":"Open?","last":"soon"}"#,
            br#"{"question":"Open?","last":"1m","event":3}"#,
            br#"{"question":"Open?","to":"1970-01-01T00:01:00Z"}"#,
            br#"{"question":"Open?","from":"yesterday"}"#,
            br#"{"question":"Open?","run":1760000000000}"#,
        ];
        for payload in cases {
            let refusal = parse("gate", payload).unwrap_err();
            assert_eq!(refusal.code, "INVALID_ARGUMENT", "{refusal:?}");
        }
        let named = parse("gate", br#"{"id":"7","questoin":"Open?"}"#).unwrap_err();
        assert_eq!(named.id, "7");
        assert!(named.error.contains("questoin"), "{}", named.error);
    }
}
