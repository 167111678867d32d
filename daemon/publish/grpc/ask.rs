//! Ask: one camera's answer as a stream, or several cameras' one after the other.
//!
//! One camera that cannot answer refuses the call. Of several, each says so for itself, and the
//! others are asked all the same; their range is fixed when the question comes, so that all tell of
//! the same time, however long the first takes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tonic::Status;

use super::{convert, refusal};
use crate::proto;
use crate::proto::ask_request::Range as AskRange;
use crate::proto::ask_response::Item;
use crate::publish::Code;
use crate::service::{Answer, AnswerItem, AskError, Detail, Question, Range, Service};

type To = mpsc::Sender<Result<proto::AskResponse, Status>>;

/// Far more cameras than a box has.
const CAMERAS: usize = 256;

pub struct Asked {
    /// At least one.
    cameras: Vec<String>,
    text: String,
    range: Range,
    detail: Detail,
    conversation: Option<String>,
    max_new_tokens: Option<usize>,
}

/// The request's own faults are said here.
pub fn read(request: proto::AskRequest) -> Result<Asked, Status> {
    let detail = match request.detail() {
        proto::Detail::Unspecified => Detail::Auto,
        proto::Detail::Overview => Detail::Overview,
        proto::Detail::Parts => Detail::Parts,
    };
    let bad = |why: &str| Status::invalid_argument(why);
    let range = match request.range {
        None => Range::Recent,
        Some(AskRange::Last(last)) => {
            let last = Duration::try_from(last);
            Range::Last(last.map_err(|_| bad("last is less than nothing"))?)
        }
        Some(AskRange::Between(span)) => {
            let time = |time: Option<prost_types::Timestamp>, name| {
                let read = |time: prost_types::Timestamp| SystemTime::try_from(time);
                time.map(read).transpose().map_err(|_| bad(&format!("between.{name} is no time")))
            };
            let (from, to) = (time(span.from, "from")?, time(span.to, "to")?);
            Range::Between { from: from.ok_or_else(|| bad("a range needs its from, too"))?, to }
        }
        Some(AskRange::Event(sequence)) => {
            Range::Event { run: (request.event_run > 0).then_some(request.event_run), sequence }
        }
    };
    let cameras = match (request.cameras.is_empty(), request.camera.is_empty()) {
        (true, _) => vec![request.camera],
        (false, true) if request.cameras.len() <= CAMERAS => request.cameras,
        (false, true) => {
            return Err(bad(&format!("at most {CAMERAS} cameras can be asked at once")));
        }
        (false, false) => return Err(bad("camera and cameras are given: wanted one")),
    };
    let max_new_tokens = (request.max_new_tokens > 0).then_some(request.max_new_tokens as usize);
    let conversation = Some(request.conversation).filter(|name| !name.is_empty());
    Ok(Asked { cameras, text: request.question, range, detail, conversation, max_new_tokens })
}

/// What was accepted and only has to be followed.
pub struct Asking {
    service: Arc<dyn Service>,
    asked: Asked,
    /// One camera's answer, under way already.
    first: Option<Answer>,
}

/// One camera is asked now, so that its refusal is the call's status.
pub fn begin(service: Arc<dyn Service>, mut asked: Asked) -> Result<Asking, Status> {
    if asked.cameras.len() == 1 {
        let first = service.ask(asked.question(0)).map_err(|e| refusal(&e))?;
        return Ok(Asking { service, asked, first: Some(first) });
    }
    let known = service.cameras();
    for name in &asked.cameras {
        if !known.iter().any(|camera| *camera.name == **name) {
            return Err(refusal(&AskError::NoSuchCamera(name.clone())));
        }
    }
    if let Range::Last(last) = asked.range {
        // Before 1970 there is no footage; `None` is no time at all.
        let from = SystemTime::now().checked_sub(last).unwrap_or(SystemTime::UNIX_EPOCH);
        if !last.is_zero() {
            asked.range = Range::Between { from, to: None };
        }
    }
    Ok(Asking { service, asked, first: None })
}

impl Asked {
    fn question(&self, at: usize) -> Question {
        Question {
            camera: self.cameras[at].clone(),
            id: format!("grpc-{:016x}", rand::random::<u64>()),
            text: self.text.clone(),
            range: self.range,
            detail: self.detail,
            conversation: self.conversation.clone(),
            max_new_tokens: self.max_new_tokens,
        }
    }
}

impl Asking {
    pub async fn run(self, to: To) {
        let Asking { service, asked, first } = self;
        if let Some(answer) = first {
            if let Err(Refused::Answer(error)) = follow(answer, &asked.cameras[0], &to).await {
                let _ = to.send(Err(error.status())).await;
            }
            return;
        }
        for (at, camera) in asked.cameras.iter().enumerate() {
            let refused = match service.ask(asked.question(at)) {
                Ok(answer) => follow(answer, camera, &to).await,
                Err(error) => Err(Refused::Answer(Failure::Said(error))),
            };
            match refused {
                Ok(()) => {}
                Err(Refused::NobodyListens) => return,
                // What is wrong with the question is wrong for all.
                Err(Refused::Answer(Failure::Said(error)))
                    if matches!(Code::from(&error), Code::InvalidArgument | Code::Unavailable) =>
                {
                    let _ = to.send(Err(refusal(&error))).await;
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
    Said(AskError),
    BrokeOff,
}

impl Failure {
    fn status(&self) -> Status {
        match self {
            Failure::Said(error) => refusal(error),
            Failure::BrokeOff => Status::internal("the answer broke off"),
        }
    }

    fn refused(&self) -> proto::Refused {
        let code = match self {
            Failure::Said(error) => Code::from(error),
            Failure::BrokeOff => Code::Internal,
        };
        proto::Refused { code: code.name().into(), message: self.status().message().into() }
    }
}

/// Hands on one answer to its end.
async fn follow(mut answer: Answer, camera: &str, to: &To) -> Result<(), Refused> {
    loop {
        let (item, last) = match answer.recv().await {
            Some(AnswerItem::Part(part)) => (Item::Part(convert::part(&part)), false),
            Some(AnswerItem::Token(token)) => (Item::Token(token), false),
            Some(AnswerItem::Finished(words)) => {
                (Item::Finished(convert::description(&words)), true)
            }
            Some(AnswerItem::Failed(error)) => return Err(Refused::Answer(Failure::Said(error))),
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
