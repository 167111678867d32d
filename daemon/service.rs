//! What the daemon can be asked, whatever the wire: the one thing that `publish/` knows of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use crate::event::{CameraStatus, Description, Part};
use crate::journal::Journal;
use crate::question::{Draft, Limits, Question, QuestionError};
use crate::telemetry;

/// Implemented by `app`.
pub trait Service: Send + Sync + 'static {
    fn journal(&self) -> &Arc<Journal>;

    /// Every configured camera, in the order of the config.
    fn cameras(&self) -> Vec<CameraInfo>;

    /// The evidence of one frame, while the buffer holds it; `run` `None`: of this run. Waits for
    /// the disk where only that has the picture.
    fn evidence(&self, camera: &str, run: Option<u64>, number: u64) -> Looking;

    /// Returns the limits that questions are checked against.
    fn limits(&self) -> Limits;

    /// Checks what a wire has read of a question.
    fn question(&self, draft: Draft) -> Result<Question, AskError> {
        let question = Question::new(draft, &self.limits()).map_err(AskError::from);
        question.inspect_err(telemetry::question_refused)
    }

    /// Takes a question about a range of a camera's time. Never waits: full is an error.
    /// Dropping the answer's receiver cancels it.
    fn ask(&self, question: Question) -> Result<Answer, AskError>;

    fn readiness(&self) -> Readiness;

    /// What does not work, though the daemon does: a sentence each.
    fn troubles(&self) -> Vec<String>;
}

#[derive(Clone, Debug)]
pub struct CameraInfo {
    pub name: Arc<str>,
    /// Without user and password.
    pub source: String,
    pub status: CameraStatus,
    /// Frames that can be asked about, on disk or in memory.
    pub buffer_frames: u64,
    /// In memory.
    pub buffer_bytes: u64,
    pub disk_bytes: u64,
    /// The oldest frame that can be asked about.
    pub oldest_frame: Option<SystemTime>,
}

#[derive(Clone, Debug)]
pub struct Evidence {
    pub jpeg: Arc<[u8]>,
    pub captured_at: SystemTime,
}

/// A frame that is looked for. Dropping it gives up the place in the disk's queue.
pub type Looking = Pin<Box<dyn Future<Output = Result<Evidence, EvidenceError>> + Send>>;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvidenceError {
    #[error("no camera is named {0:?}")]
    NoSuchCamera(String),
    #[error("camera {camera:?}: frame {number} is not in the buffer")]
    NoSuchFrame { camera: String, number: u64 },
    #[error("camera {camera:?}: frame {number} cannot be read from the disk; the log says why")]
    Unreadable { camera: String, number: u64 },
    #[error("as many frames as may wait to be read from the disk wait already; ask again")]
    Busy,
}

/// Of a range in parts each part as it is answered; tokens as they are made, then exactly one
/// `Finished` or `Failed`.
pub type Answer = mpsc::Receiver<AnswerItem>;

#[derive(Clone, Debug)]
pub enum AnswerItem {
    Part(Box<Part>),
    Token(String),
    Finished(Box<Description>),
    Failed(AskError),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error("no camera is named {0:?}")]
    NoSuchCamera(String),
    #[error("camera {camera:?}: {why}")]
    NoFootage { camera: String, why: String },
    #[error("{waiting} questions wait already; ask again in {} s", retry_after.as_secs().max(1))]
    QueueFull { waiting: usize, retry_after: Duration },
    #[error("{0}")]
    BadQuestion(String),
    #[error("the daemon is stopping")]
    Stopping,
    /// The same question may be answered another time.
    #[error("the model failed this time, ask again: {0}")]
    Failed(String),
    #[error("the model failed: {0}")]
    Model(String),
}

impl From<QuestionError> for AskError {
    fn from(error: QuestionError) -> AskError {
        match error {
            QuestionError::NoSuchCamera(name) => AskError::NoSuchCamera(name),
            QuestionError::Bad(why) => AskError::BadQuestion(why),
        }
    }
}

/// Ready: the model is loaded, every worker moves, and at least one camera is live.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    Ready,
    NotYet(String),
}
