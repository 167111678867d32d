//! Implements Ask: converts a request to questions, and their answers to messages.

use tokio::sync::mpsc;
use tonic::Status;

use super::errors;
use crate::proto;
use crate::proto::ask_request::Range as AskRange;
use crate::proto::ask_response::Item as Reply;
use crate::publish::asking::{Asking, CAMERAS, Item};
use crate::question::{Detail, Draft, Question, RawLength, RawTime};
use crate::service::Service;
use crate::trace_parent::TraceParent;
use crate::wire::encode;

/// Reads and checks a request. Returns a question for each camera, or INVALID_ARGUMENT
/// or NOT_FOUND if the request itself is wrong.
pub fn read(
    service: &dyn Service,
    mut request: proto::AskRequest,
    trace_parent: Option<TraceParent>,
) -> Result<Vec<Question>, Status> {
    let cameras = std::mem::take(&mut request.cameras);
    if !(1..=CAMERAS).contains(&cameras.len()) {
        let why = format!("cameras has {} names: wanted 1 to {CAMERAS}", cameras.len());
        return Err(errors::invalid("cameras", &why));
    }
    // A draft cannot express this error: a range without either end.
    if let Some(AskRange::Between(proto::Span { from: None, .. })) = request.range {
        return Err(errors::invalid("between.from", "between has no from"));
    }
    let draft = Draft { trace_parent, ..draft(request) };
    let question = |camera| {
        let id = format!("grpc-{:016x}", rand::random::<u64>());
        service.question(Draft { camera, id, ..draft.clone() }).map_err(|e| errors::of_question(&e))
    };
    cameras.into_iter().map(question).collect()
}

/// Converts everything but the cameras.
fn draft(request: proto::AskRequest) -> Draft {
    let detail = match proto::DetailLevel::try_from(request.detail) {
        Ok(proto::DetailLevel::Unspecified | proto::DetailLevel::Auto) => None,
        Ok(proto::DetailLevel::Overview) => Some(Detail::Overview.name().into()),
        Ok(proto::DetailLevel::Parts) => Some(Detail::Parts.name().into()),
        Err(_) => Some(request.detail.to_string()),
    };
    let time =
        |time: prost_types::Timestamp| RawTime::Parts { seconds: time.seconds, nanos: time.nanos };
    let mut draft = Draft {
        text: request.question,
        detail,
        conversation: request.conversation,
        max_new_tokens: request.max_new_tokens.map(u64::from),
        score_yes_no: request.score_yes_no,
        schema: request.schema,
        ..Draft::default()
    };
    match request.range {
        None => {}
        Some(AskRange::Last(prost_types::Duration { seconds, nanos })) => {
            draft.last = Some(RawLength::Parts { seconds, nanos });
        }
        Some(AskRange::Between(span)) => {
            (draft.from, draft.to) = (span.from.map(time), span.to.map(time));
        }
        Some(AskRange::Event(proto::EventId { run, sequence })) => {
            (draft.event, draft.run) = (Some(sequence), run);
        }
    }
    draft
}

/// Sends the answers until they end or their reader leaves.
pub async fn run(mut asking: Asking, to: mpsc::Sender<Result<proto::AskResponse, Status>>) {
    while let Some(next) = asking.next().await {
        let reply = next.map_err(|error| errors::of_question(&error));
        let reply = reply.map(|(camera, item)| {
            let item = match item {
                Item::Part(part) => Reply::Part(encode::part(&part)),
                Item::Text(text) => Reply::TextDelta(text),
                Item::Finished(event) => Reply::Finished(encode::event(&event)),
                Item::Refused(error) => {
                    let status = errors::to_message(&errors::of_question(&error));
                    Reply::Refused(proto::Refused { status: Some(status) })
                }
            };
            proto::AskResponse { item: Some(item), camera }
        });
        if to.send(reply).await.is_err() {
            return;
        }
    }
}
