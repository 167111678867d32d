//! Implements `lookout ask`: sends a question and prints the answers of one or more cameras.

use std::io::Write;

use super::text::{self, AnswerJson};
use super::{ClientError, Daemon, Done, Output, Reader, json_line, printable, quietly};
use crate::event::SummaryMethod;
use crate::proto;
use crate::proto::ask_request::Range as AskRange;
use crate::proto::ask_response::Item;
use crate::question::{Detail, Question, Range};
use crate::wire::decode;

/// Prints the answer's tokens as they arrive, then its coverage. If the range is answered in parts,
/// prints each part as it arrives and the answer after them. With JSON, prints one line per camera.
/// Each answer begins with the camera's name if several are asked; a camera without an answer
/// fails the command after the other answers.
///
/// `questions` must differ only in the camera.
pub async fn ask(
    endpoint: &str,
    questions: &[Question],
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let Some(request) = request(questions) else { return Ok(()) };
    let several = questions.len() > 1;
    let mut daemon = Daemon::reach(endpoint).await?;
    let reply = daemon.client.ask(request).await;
    let mut stream = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let (mut heard, mut begun, mut in_parts, mut refusal) = (0, false, false, None);
    loop {
        let reply = stream.message().await.map_err(|status| daemon.failed(status))?;
        let Some(proto::AskResponse { item, camera }) = reply else {
            return match (heard, refusal) {
                (_, Some(refused)) => Err(refused),
                (0, None) => Err(daemon.broken("the answer broke off".into())),
                (_, None) => Ok(()),
            };
        };
        let named = if several && !begun { format!("{camera}: ") } else { String::new() };
        let written = match item.ok_or(decode::Unreadable("item"))? {
            Item::Part(part) if output == Output::Text => {
                (begun, in_parts) = (true, true);
                let head = if named.is_empty() { String::new() } else { format!("{camera}:\n") };
                writeln!(out, "{head}{}", text::part(&decode::part(part)?))
            }
            Item::Token(token) if output == Output::Text && !in_parts => {
                begun = true;
                write!(out, "{named}{}", printable(&token))
            }
            Item::Part(_) | Item::Token(_) => Ok(()),
            Item::Finished(words) => {
                let words = decode::description(words)?;
                let told = match words.summary {
                    // The parts are the whole answer.
                    Some(SummaryMethod::List) if in_parts => String::new(),
                    _ if in_parts => printable(&words.text) + "\n",
                    _ => named + "\n",
                };
                (heard, begun, in_parts) = (heard + 1, false, false);
                match output {
                    Output::Text => writeln!(out, "{told}[{}]", text::coverage(&words)),
                    Output::Json => {
                        let camera = &camera;
                        json_line(out, &AnswerJson { camera, kind: "answer", words: &words })
                    }
                }
            }
            Item::Refused(proto::Refused { code, message }) => {
                (begun, in_parts) = (false, false);
                eprintln!("lookout: {message}");
                let message = format!("camera {camera:?} gave no answer ({code})");
                let code = tonic::Code::Unknown;
                refusal = Some(ClientError::Refused { code, message, retry_after: None });
                Ok(())
            }
        };
        // Dropping the stream cancels the question.
        if quietly(written.and_then(|()| out.flush()))? == Reader::Left {
            return Ok(());
        }
    }
}

/// Builds the request, or returns `None` if there is no question.
fn request(questions: &[Question]) -> Option<proto::AskRequest> {
    let question = questions.first()?;
    let detail = match question.detail() {
        Detail::Auto => proto::Detail::Unspecified,
        Detail::Overview => proto::Detail::Overview,
        Detail::Parts => proto::Detail::Parts,
    };
    let mut cameras: Vec<String> =
        questions.iter().map(|question| question.camera().to_owned()).collect();
    let camera = if cameras.len() == 1 { cameras.remove(0) } else { String::new() };
    let event_run = match question.range() {
        Range::Event { run, .. } => run.unwrap_or(0),
        _ => 0,
    };
    let range = match question.range() {
        Range::Recent => None,
        Range::Last(last) => Some(AskRange::Last(prost_types::Duration {
            seconds: i64::try_from(last.as_secs()).unwrap_or(i64::MAX),
            nanos: last.subsec_nanos() as i32,
        })),
        Range::Between { from, to } => {
            Some(AskRange::Between(proto::Span { from: Some(from.into()), to: to.map(Into::into) }))
        }
        Range::Event { sequence, .. } => Some(AskRange::Event(sequence)),
    };
    let most = question.max_new_tokens();
    Some(proto::AskRequest {
        camera,
        cameras,
        question: question.text().to_owned(),
        max_new_tokens: most.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        range,
        detail: detail.into(),
        conversation: question.conversation().unwrap_or_default().to_owned(),
        event_run,
    })
}
