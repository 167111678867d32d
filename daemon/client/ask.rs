//! Implements `lookout ask`: sends a question and prints the answers of one or more cameras.

use std::io::Write;

use tonic_types::RpcStatusExt;

use super::text;
use super::{ClientError, Daemon, Done, Output, Reader, Server, json_line, printable, quietly};
use crate::event::{Body, SummaryMethod};
use crate::proto;
use crate::proto::ask_request::Range as AskRange;
use crate::proto::ask_response::Item;
use crate::question::{Detail, Question, Range};
use crate::wire::decode::{self, UnexpectedReply};

/// Prints the answer's tokens as they arrive, then its coverage. If the range is answered in parts,
/// prints each part as it arrives and the answer after them. With JSON, prints one line per camera.
/// Each answer begins with the camera's name if several are asked; a camera without an answer
/// fails the command after the other answers.
///
/// `questions` must differ only in the camera.
pub async fn ask(
    server: impl Into<Server>,
    questions: &[Question],
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let Some(request) = request(questions) else { return Ok(()) };
    let several = questions.len() > 1;
    let mut daemon = Daemon::reach(&server.into()).await?;
    let reply = daemon.client.ask(request).await;
    let mut stream = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let (mut heard, mut begun, mut in_parts, mut refusal) = (0, false, false, None);
    loop {
        let reply = stream.message().await.map_err(|status| daemon.failed(status))?;
        let Some(proto::AskResponse { item, camera }) = reply else {
            return match (heard, refusal) {
                (_, Some(refused)) => Err(refused),
                (0, None) => Err(daemon.broken("the answer ended early".into())),
                (_, None) => Ok(()),
            };
        };
        let named = if several && !begun { format!("{camera}: ") } else { String::new() };
        let written = match item.ok_or(UnexpectedReply("item"))? {
            Item::Part(part) if output == Output::Text => {
                (begun, in_parts) = (true, true);
                let head = if named.is_empty() { String::new() } else { format!("{camera}:\n") };
                writeln!(out, "{head}{}", text::part(&decode::part(part)?))
            }
            Item::TextDelta(text) if output == Output::Text && !in_parts => {
                begun = true;
                write!(out, "{named}{}", printable(&text))
            }
            Item::Part(_) | Item::TextDelta(_) => Ok(()),
            Item::Finished(event) => {
                let event = decode::event(event)?;
                let Body::Answer(answer) = &event.body else {
                    return Err(UnexpectedReply("finished").into());
                };
                let told = match answer.summary_method {
                    // The parts are the whole answer.
                    Some(SummaryMethod::List) if in_parts => String::new(),
                    _ if in_parts => printable(&answer.inference.text) + "\n",
                    _ => named + "\n",
                };
                (heard, begun, in_parts) = (heard + 1, false, false);
                match output {
                    Output::Text => writeln!(out, "{told}[{}]", text::answer_basis(answer)),
                    Output::Json => json_line(out, &event),
                }
            }
            Item::Refused(proto::Refused { status }) => {
                (begun, in_parts) = (false, false);
                let status = status.ok_or(UnexpectedReply("status"))?;
                eprintln!("lookout: {}", status.message);
                let code = tonic::Code::from_i32(status.code);
                let info = status.get_details_error_info();
                let reason = info.map_or_else(|| code.to_string(), |info| info.reason);
                let message = format!("camera {camera:?} gave no answer ({reason})");
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
        Detail::Auto => proto::DetailLevel::Auto,
        Detail::Overview => proto::DetailLevel::Overview,
        Detail::Parts => proto::DetailLevel::Parts,
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
        Range::Event { run, sequence } => Some(AskRange::Event(proto::EventId { run, sequence })),
    };
    let most = question.max_new_tokens();
    Some(proto::AskRequest {
        cameras: questions.iter().map(|question| question.camera().to_owned()).collect(),
        question: question.text().to_owned(),
        max_new_tokens: most.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        range,
        detail: detail.into(),
        conversation: question.conversation().map(str::to_owned),
        score_yes_no: question.is_scored(),
        schema: question.schema().map(str::to_owned),
    })
}
