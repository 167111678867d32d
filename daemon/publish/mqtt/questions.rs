//! Accepts questions over MQTT.
//!
//! Questions outlive a connection: an answer enters the journal, and the journal is what is
//! published. A refusal has no event and is published directly, and so is the reply to the response
//! topic that an MQTT 5 client names.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Map;
use tokio::task::JoinSet;

use super::link::ReplyTo;
use crate::event::Event;
use crate::excerpt::one_line;
use crate::metrics;
use crate::publish::question_json;
use crate::question::Draft;
use crate::service::{AnswerItem, AnswerStream, AskError, Service};

/// Maximum number of questions of this interface in progress. The engine's own queue is usually
/// shorter and refuses earlier.
const AT_ONCE: usize = 64;

/// The questions in progress. Dropping this value cancels them.
#[derive(Default)]
pub struct Questions {
    under_way: JoinSet<Option<Reply>>,
}

/// A reply to a client that is not an event of the journal, or that goes to a response topic.
#[derive(Debug, PartialEq)]
pub struct Reply {
    /// The response topic, if the client named one.
    pub to: Option<ReplyTo>,
    pub content: ReplyContent,
}

#[derive(Debug, PartialEq)]
pub enum ReplyContent {
    /// An answer, which is in the journal too.
    Answered(Arc<Event>),
    Refused(Refusal),
}

/// The JSON that `<camera>/answer` carries instead of an answer.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename = "refused")]
pub struct Refusal {
    pub camera: String,
    pub question_id: String,
    pub message: String,
    /// Name of the gRPC status code.
    pub code: &'static str,
    /// The reason that programs can compare.
    pub reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl Questions {
    pub fn ask(
        &mut self,
        service: &Arc<dyn Service>,
        camera: &str,
        payload: &[u8],
        reply_to: Result<Option<ReplyTo>, String>,
    ) -> Result<(), Refusal> {
        let count = |refusal: &Refusal| metrics::question_refused(refusal.reason);
        let draft = draft(camera, payload).inspect_err(count)?;
        let id = draft.id.clone();
        let refuse = |error: AskError| Refusal::new(camera, &id, &error);
        let reply_to = reply_to.map_err(|why| refuse(AskError::InvalidQuestion(why)));
        let reply_to = reply_to.inspect_err(count)?;
        let question = service.question(draft).map_err(refuse)?;
        if self.under_way.len() >= AT_ONCE {
            let retry_after = Duration::from_secs(1);
            return Err(refuse(AskError::QueueFull { waiting: AT_ONCE, retry_after }));
        }
        let answer = service.ask(question).map_err(refuse)?;
        self.under_way.spawn(follow(answer, camera.to_owned(), id, reply_to));
        Ok(())
    }

    /// Waits for the next reply. Cancel safe.
    pub async fn reply(&mut self) -> Reply {
        loop {
            match self.under_way.join_next().await {
                Some(Ok(Some(reply))) => return reply,
                Some(Ok(None)) => {}
                Some(Err(error)) => tracing::error!("following an answer failed: {error}"),
                None => std::future::pending().await,
            }
        }
    }
}

/// Reads the answer until it ends, because dropping the receiver would cancel it.
async fn follow(
    mut answer: AnswerStream,
    camera: String,
    id: String,
    to: Option<ReplyTo>,
) -> Option<Reply> {
    let error = loop {
        match answer.recv().await {
            Some(AnswerItem::Part(_) | AnswerItem::Token(_)) => {}
            Some(AnswerItem::Finished(event)) => {
                // Without a response topic, the journal's event is the reply.
                let to = Some(to?);
                return Some(Reply { to, content: ReplyContent::Answered(event) });
            }
            Some(AnswerItem::Failed(error)) => break error,
            None => break AskError::ModelFailed("the answer ended early".into()),
        }
    };
    Some(Reply { to, content: ReplyContent::Refused(Refusal::new(&camera, &id, &error)) })
}

/// Reads a question: text that begins with `{` is JSON, other text is the question itself. This
/// does not check that the question can be answered.
fn draft(camera: &str, payload: &[u8]) -> Result<Draft, Refusal> {
    let refuse = |id: &str, why: String| Refusal::new(camera, id, &AskError::InvalidQuestion(why));
    let text = std::str::from_utf8(payload)
        .map_err(|_| refuse("", "the question is not UTF-8".into()))?
        .trim();
    let mut draft = Draft { camera: camera.to_owned(), ..Draft::default() };
    if text.starts_with('{') {
        let mut fields = Map::new();
        let read = question_json::read(text, &mut fields);
        // The id lets the client match a refusal, even one of a malformed question.
        let id = fields.get("question_id").and_then(question_json::id).unwrap_or_default();
        read.map_err(|why| refuse(&id, why))?;
        for (field, value) in fields {
            question_json::fill(&mut draft, &field, value).map_err(|why| refuse(&id, why))?;
        }
    } else {
        draft.text = text.to_owned();
    }
    if draft.id.is_empty() {
        draft.id = format!("mqtt-{:016x}", rand::random::<u64>());
    }
    Ok(draft)
}

impl Refusal {
    fn new(camera: &str, id: &str, error: &AskError) -> Refusal {
        Refusal {
            camera: camera.to_owned(),
            question_id: id.to_owned(),
            message: one_line(&error.to_string()),
            code: error.code().name(),
            reason: error.reason(),
            retry_after_seconds: error.retry_after().map(|delay| delay.as_secs()),
        }
    }
}

/// Reads and checks an arbitrary payload. This is the entry point of the fuzz target
/// `mqtt_question`.
#[cfg(fuzzing)]
pub fn fuzz_question(payload: &[u8]) {
    use crate::question::{Limits, Question};
    let limits = Limits { text_bytes: 8192, cameras: None };
    if let Ok(question) = draft("gate", payload).map(|draft| Question::new(draft, &limits)) {
        let _ = question.map(|question| question.as_of(std::time::SystemTime::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::publish::QUESTION_FIELDS;
    use crate::publish::question_json::WANTED;
    use crate::question::{Limits, Question, Range};

    const LIMITS: Limits = Limits { text_bytes: 8192, cameras: None };

    fn parse(payload: &[u8]) -> Result<Question, Refusal> {
        let draft = draft("gate", payload)?;
        let id = draft.id.clone();
        Question::new(draft, &LIMITS).map_err(|e| Refusal::new("gate", &id, &e.into()))
    }

    fn range(fields: &str) -> Range {
        parse(format!(r#"{{"question":"Open?",{fields}}}"#).as_bytes()).unwrap().range()
    }

    #[test]
    fn the_listed_fields_are_those_that_are_read() {
        for (field, _) in QUESTION_FIELDS.iter().filter(|(field, _)| *field != "question") {
            let question = format!(r#"{{"question":"Open?","{field}":null}}"#);
            assert!(parse(question.as_bytes()).is_ok(), "{field}");
            assert!(WANTED.contains(&format!("\"{field}\"")), "{field}");
            // A value of a wrong type is refused by name, so the field is read.
            let question = format!(r#"{{"question":"Open?","{field}":[]}}"#);
            let refusal = parse(question.as_bytes()).unwrap_err();
            assert!(refusal.message.starts_with(&format!("{field} is []")), "{}", refusal.message);
        }
    }

    #[test]
    fn text_and_json_are_questions() {
        assert_eq!(range(r#""event":7,"last":null"#), Range::Event { run: None, sequence: 7 });
        let of_a_run = Range::Event { run: Some(1_760_000_000_000), sequence: 7 };
        assert_eq!(range(r#""event":7,"run":1760000000000"#), of_a_run);
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        let (to, times) = (None, r#""from":"1970-01-01T00:01:00Z""#);
        assert_eq!(range(times), Range::Between { from, to });
    }

    #[test]
    fn a_schema_is_an_object_or_text() {
        for schema in [r#"{"type":"null"}"#, r#""{\"type\":\"null\"}""#] {
            let asked = parse(format!(r#"{{"question":"Open?","schema":{schema}}}"#).as_bytes());
            assert_eq!(asked.unwrap().schema(), Some(r#"{"type":"null"}"#));
        }
    }

    #[test]
    fn the_range_last_is_text_or_seconds() {
        let ten_minutes = Range::Last(Duration::from_secs(600));
        for last in [r#""10m""#, "600", "600.0", r#""600""#, r#""00:10:00""#, r#""0:10:00""#] {
            assert_eq!(range(&format!(r#""last":{last}"#)), ten_minutes, "{last}");
        }
        assert_eq!(range(r#""last":1.5"#), Range::Last(Duration::from_millis(1500)));
    }

    #[test]
    fn an_id_may_be_a_number_and_is_echoed_as_text() {
        let asked = parse(br#"{"question_id":1795649810620,"question":"Open?"}"#).unwrap();
        assert_eq!(asked.id(), "1795649810620");
        let refused = parse(br#"{"question":"Open?","last":"soon","question_id":1795649810620}"#);
        assert_eq!(refused.unwrap_err().question_id, "1795649810620");
    }

    #[test]
    fn a_refusal_carries_the_id_of_a_question_with_one_broken_field() {
        for fields in [
            r#""question":7"#,
            r#""question":" ""#,
            r#""question":"Open?","questoin":"Open?""#,
            r#""question":"Open?","last":-5"#,
            r#""question":"Open?","last":[]"#,
            r#""question":"Open?","from":true"#,
            r#""question":"Open?","max_new_tokens":0"#,
            r#""question":"Open?","max_new_tokens":-1"#,
            r#""question":"Open?","event":1.5"#,
            r#""question":"Open?","detail":"closely""#,
            r#""question":"Open?","conversation":"""#,
            r#""question":"Open?","schema":true"#,
            r#""question":"Open?","schema":"""#,
            r#""question":"Open?","last":"1m","event":3"#,
            // The JSON is invalid here, but the id came before.
            r#""question":"Open?" "last":"1m""#,
            r#""question":"Open?","last":1e999"#,
            r#""question":"Op"#,
        ] {
            for id in ["7", r#""7""#] {
                let refusal =
                    parse(format!(r#"{{"question_id":{id},{fields}}}"#).as_bytes()).unwrap_err();
                let told = (refusal.question_id.as_str(), refusal.code);
                assert_eq!(told, ("7", "INVALID_ARGUMENT"), "{fields}");
            }
        }
    }

    #[test]
    fn a_broken_field_is_named() {
        for (payload, named) in [
            (r#"{"question":1}"#, "question is 1; wanted text"),
            (r#"{"question_id":[],"question":"Open?"}"#, "question_id is []"),
            (r#"{"question":"Open?","event":-3}"#, "event is -3"),
            (r#"{"question":"Open?","max_new_tokens":"3"}"#, "max_new_tokens is \"3\""),
            (r#"{"question":"Open?","max_new_tokens":0}"#, "max_new_tokens is 0"),
            (r#"{"question":"Open?","last":"soon"}"#, "last is \"soon\""),
            (r#"{"question":"Open?","from":"yesterday"}"#, "from is \"yesterday\""),
            (r#"{"question":"Open?","to":"1970-01-01T00:01:00Z"}"#, "needs its from"),
            (r#"{"x":1}"#, "unknown field \"x\""),
            ("{}", "the question is empty"),
            ("", "the question is empty"),
            ("{", "wanted {\"question_id\""),
        ] {
            let refusal = parse(payload.as_bytes()).unwrap_err();
            assert_eq!(refusal.code, "INVALID_ARGUMENT", "{refusal:?}");
            assert!(refusal.message.contains(named), "{payload}: {}", refusal.message);
        }
        assert!(parse(b"\xff").unwrap_err().message.contains("UTF-8"));
    }

    proptest! {
        #[test]
        fn no_payload_causes_a_panic(text in "\\PC*", bytes: Vec<u8>, id: u64) {
            let _ = parse(text.as_bytes());
            let _ = parse(&bytes);
            let _ = parse(format!(r#"{{"question_id":{id},{text}}}"#).as_bytes());
            let _ = parse(format!(r#"{{"question_id":{id},"question":"Open?","last":{text}}}"#).as_bytes());
        }
    }
}
