//! What the daemon can be asked, whatever the wire: the one thing that `publish/` knows of it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use crate::event::{CameraStatus, Description};
use crate::journal::Journal;

/// Implemented by `app`.
pub trait Service: Send + Sync + 'static {
    fn journal(&self) -> &Arc<Journal>;

    /// Every configured camera, in the order of the config.
    fn cameras(&self) -> Vec<CameraInfo>;

    /// The evidence of one frame, while the buffer holds it.
    fn evidence(&self, camera: &str, number: u64) -> Result<Evidence, EvidenceError>;

    /// Takes a question about a camera's most recent window. Never waits: full is an error.
    /// Dropping the answer's receiver cancels it.
    fn ask(&self, question: Question) -> Result<Answer, AskError>;

    fn readiness(&self) -> Readiness;
}

#[derive(Clone, Debug)]
pub struct CameraInfo {
    pub name: Arc<str>,
    /// Without user and password.
    pub source: String,
    pub status: CameraStatus,
    pub buffer_frames: u64,
    pub buffer_bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Evidence {
    pub jpeg: Arc<[u8]>,
    pub captured_at: SystemTime,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvidenceError {
    #[error("no camera is named {0:?}")]
    NoSuchCamera(String),
    #[error("camera {camera:?}: frame {number} is not in the buffer")]
    NoSuchFrame { camera: String, number: u64 },
}

#[derive(Clone, Debug)]
pub struct Question {
    pub camera: String,
    /// Given by the wire, returned in the answer's `id`.
    pub id: String,
    pub text: String,
    /// `None`: as configured.
    pub max_new_tokens: Option<usize>,
}

/// Tokens as they are made, then exactly one `Finished` or `Failed`.
pub type Answer = mpsc::Receiver<AnswerItem>;

#[derive(Clone, Debug)]
pub enum AnswerItem {
    Token(String),
    Finished(Box<Description>),
    Failed(AskError),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error("no camera is named {0:?}")]
    NoSuchCamera(String),
    #[error("camera {camera:?}: no footage of the last {window:?}: {why}")]
    NoFootage { camera: String, window: Duration, why: String },
    #[error("{waiting} questions wait already; ask again in {} s", retry_after.as_secs().max(1))]
    QueueFull { waiting: usize, retry_after: Duration },
    #[error("{0}")]
    BadQuestion(String),
    #[error("the daemon is stopping")]
    Stopping,
    #[error("the model failed: {0}")]
    Model(String),
}

/// Ready: the model is loaded and at least one camera is live.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    Ready,
    NotYet(String),
}
