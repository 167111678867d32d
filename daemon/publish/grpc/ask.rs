//! Implements Ask: one camera's answer as a stream, or several cameras' answers in turn.
//!
//! A refusal ends the call if one camera is asked. If several are asked, it is mostly an item
//! of the stream, and the other cameras are asked anyway. Their range is fixed when the question
//! arrives, so that all answers are about the same time, regardless of how long the first one
//! takes.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tonic::Status;

use super::errors;
use crate::journal::Journal;
use crate::proto;
use crate::proto::ask_request::Range as AskRange;
use crate::proto::ask_response::Item;
use crate::question::{Detail, Draft, Question, RawLength, RawTime};
use crate::service::{AnswerItem, AnswerStream, AskError, Code, Service};
use crate::wire::encode;

type To = mpsc::Sender<Result<proto::AskResponse, Status>>;

/// Maximum number of cameras in a request, far more than a daemon can serve.
const CAMERAS: usize = 256;

pub struct Asked {
    /// The questions, at least one. They differ only in the camera.
    questions: Vec<Question>,
}

/// Reads and checks a request. Returns INVALID_ARGUMENT or NOT_FOUND if the request itself is
/// wrong.
pub fn read(service: &dyn Service, mut request: proto::AskRequest) -> Result<Asked, Status> {
    let cameras = std::mem::take(&mut request.cameras);
    if !(1..=CAMERAS).contains(&cameras.len()) {
        let why = format!("cameras has {} names: wanted 1 to {CAMERAS}", cameras.len());
        return Err(errors::invalid("cameras", &why));
    }
    // A draft cannot express this error: a range without either end.
    if let Some(AskRange::Between(proto::Span { from: None, .. })) = request.range {
        return Err(errors::invalid("between.from", "between has no from"));
    }
    let draft = draft(request);
    let question = |camera| {
        let id = format!("grpc-{:016x}", rand::random::<u64>());
        service.question(Draft { camera, id, ..draft.clone() }).map_err(|e| errors::of_question(&e))
    };
    Ok(Asked { questions: cameras.into_iter().map(question).collect::<Result<_, _>>()? })
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

/// An accepted question whose answer is to be streamed.
pub struct Asking {
    service: Arc<dyn Service>,
    asked: Asked,
    /// The answer of a single camera, already started.
    first: Option<AnswerStream>,
}

/// Starts the answer. A single camera is asked at once, so that its refusal becomes the call's
/// status.
pub fn begin(service: Arc<dyn Service>, mut asked: Asked) -> Result<Asking, Status> {
    if let [question] = &asked.questions[..] {
        let first = service.ask(question.clone()).map_err(|e| errors::of_question(&e))?;
        return Ok(Asking { service, asked, first: Some(first) });
    }
    let now = SystemTime::now();
    asked.questions = asked.questions.into_iter().map(|question| question.as_of(now)).collect();
    Ok(Asking { service, asked, first: None })
}

impl Asking {
    pub async fn run(self, to: To) {
        let Asking { service, asked, first } = self;
        let mut first = first;
        let alone = first.is_some();
        for question in asked.questions {
            let camera = question.camera().to_owned();
            let camera = camera.as_str();
            let begun = first.take().map_or_else(|| service.ask(question), Ok);
            let refused = match begun {
                Ok(answer) => follow(&**service.journal(), answer, camera, &to).await,
                Err(error) => Err(Refused::Answer(Failure::Error(error))),
            };
            match refused {
                Ok(()) => {}
                Err(Refused::NobodyListens) => return,
                Err(Refused::Answer(error)) if alone => {
                    let _ = to.send(Err(error.status())).await;
                    return;
                }
                // An invalid question is invalid for all cameras, and a daemon that stops answers
                // none of them.
                Err(Refused::Answer(Failure::Error(error)))
                    if error == AskError::Stopping || error.code() == Code::InvalidArgument =>
                {
                    let _ = to.send(Err(errors::of_question(&error))).await;
                    return;
                }
                Err(Refused::Answer(error)) => {
                    if to.send(Ok(reply(camera, Item::Refused(error.refused())))).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

enum Refused {
    Answer(Failure),
    NobodyListens,
}

enum Failure {
    Error(AskError),
    BrokeOff,
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Failure::Error(error) => errors::of_question(error),
            Failure::BrokeOff => {
                errors::status(Code::Internal, "MODEL_FAILED", "the answer ended early")
            }
        }
    }

    fn refused(&self) -> proto::Refused {
        proto::Refused { status: Some(errors::to_message(&self.status())) }
    }
}

/// Forwards one answer until it ends. The event comes last, when other readers can read it too.
async fn follow(
    journal: &dyn Journal,
    mut answer: AnswerStream,
    camera: &str,
    to: &To,
) -> Result<(), Refused> {
    loop {
        let (item, last) = match answer.recv().await {
            Some(AnswerItem::Part(part)) => (Item::Part(encode::part(&part)), false),
            Some(AnswerItem::Token(token)) => (Item::TextDelta(token), false),
            Some(AnswerItem::Finished(event)) => {
                journal.visible(event.id.sequence).await;
                (Item::Finished(encode::event(&event)), true)
            }
            Some(AnswerItem::Failed(error)) => return Err(Refused::Answer(Failure::Error(error))),
            None => return Err(Refused::Answer(Failure::BrokeOff)),
        };
        if to.send(Ok(reply(camera, item))).await.is_err() {
            return Err(Refused::NobodyListens);
        }
        if last {
            return Ok(());
        }
    }
}

fn reply(camera: &str, item: Item) -> proto::AskResponse {
    proto::AskResponse { item: Some(item), camera: camera.into() }
}
