//! Asks a question about one or several cameras, and yields the answers as one stream.
//!
//! A refusal ends the stream if one camera is asked. If several are asked, it is mostly an item of
//! the stream, and the other cameras are asked anyway. Their range is fixed when the question
//! arrives, so that all answers are about the same time, however long the first one takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use crate::event::{AnswerPart, Event};
use crate::question::Question;
use crate::service::{AnswerItem, AnswerStream, AskError, Code, Service};

/// Maximum number of cameras in a question, far more than a daemon can serve.
pub const CAMERAS: usize = 256;

/// An accepted question. Dropping it cancels the answers.
pub struct Asking {
    service: Arc<dyn Service>,
    /// The questions that were not asked yet. They differ only in the camera.
    waiting: VecDeque<Question>,
    /// The answer in progress, and its camera.
    current: Option<(String, AnswerStream)>,
    /// True if one camera is asked.
    is_alone: bool,
}

/// A piece of an answer.
pub enum Item {
    Part(Box<AnswerPart>),
    Text(String),
    /// The answer's event, which readers of the journal can see by now.
    Finished(Arc<Event>),
    /// This camera gives no answer; the others are asked anyway.
    Refused(AskError),
}

impl Asking {
    /// Starts the answers. A single camera is asked at once, so that its refusal is returned here.
    pub fn begin(service: Arc<dyn Service>, questions: Vec<Question>) -> Result<Asking, AskError> {
        let is_alone = questions.len() == 1;
        let now = SystemTime::now();
        let fixed = |question: Question| if is_alone { question } else { question.as_of(now) };
        let waiting = questions.into_iter().map(fixed).collect();
        let mut asking = Asking { service, waiting, current: None, is_alone };
        if is_alone {
            asking.ask_next()?;
        }
        Ok(asking)
    }

    fn ask_next(&mut self) -> Result<(), AskError> {
        if let Some(question) = self.waiting.front() {
            self.current = Some((question.camera().into(), self.service.ask(question.clone())?));
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Returns the next piece with its camera, or `None` after the last one. An error ends the
    /// stream. Cancel safe until an answer has finished.
    pub async fn next(&mut self) -> Option<Result<(String, Item), AskError>> {
        if self.current.is_none() {
            let camera = self.waiting.front()?.camera().to_owned();
            if let Err(error) = self.ask_next() {
                self.waiting.pop_front();
                return Some(self.refuse(camera, error));
            }
        }
        let (camera, answer) = self.current.as_mut()?;
        let (camera, item) = (camera.clone(), answer.recv().await);
        let item = match item {
            Some(AnswerItem::Part(part)) => Item::Part(part),
            Some(AnswerItem::Token(token)) => Item::Text(token),
            Some(AnswerItem::Finished(event)) => {
                self.current = None;
                self.service.journal().visible(event.id.sequence).await;
                Item::Finished(event)
            }
            Some(AnswerItem::Failed(error)) => return Some(self.refuse(camera, error)),
            None => {
                let error = AskError::ModelFailed("the answer ended early".into());
                return Some(self.refuse(camera, error));
            }
        };
        Some(Ok((camera, item)))
    }

    /// Ends the answer of a camera. Ends the stream if the other cameras would fail as well: an
    /// invalid question is invalid for all of them, and a daemon that stops answers none.
    fn refuse(&mut self, camera: String, error: AskError) -> Result<(String, Item), AskError> {
        self.current = None;
        let concerns_all = error == AskError::Stopping || error.code() == Code::InvalidArgument;
        if self.is_alone || concerns_all {
            self.waiting.clear();
            return Err(error);
        }
        Ok((camera, Item::Refused(error)))
    }
}
