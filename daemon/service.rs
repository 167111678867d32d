//! What the daemon can be asked, whatever the wire: the one thing that `publish/` knows of it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::mpsc;

use crate::event::{CameraStatus, Description, Part};
use crate::journal::Journal;

/// Implemented by `app`.
pub trait Service: Send + Sync + 'static {
    fn journal(&self) -> &Arc<Journal>;

    /// Every configured camera, in the order of the config.
    fn cameras(&self) -> Vec<CameraInfo>;

    /// The evidence of one frame, while the buffer holds it; `run` `None`: of this run. Waits for
    /// the disk where only that has the picture.
    fn evidence(&self, camera: &str, run: Option<u64>, number: u64) -> Looking;

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

#[derive(Clone, Debug)]
pub struct Question {
    pub camera: String,
    /// Given by the wire, returned in the answer's `id`.
    pub id: String,
    pub text: String,
    pub range: Range,
    pub detail: Detail,
    /// An earlier answer's, or a name of the asker's own; `None`: a new one.
    pub conversation: Option<String>,
    /// `None`: as configured.
    pub max_new_tokens: Option<usize>,
}

/// How closely a range is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// In parts where one look would leave out too much.
    #[default]
    Auto,
    /// One look.
    Overview,
    /// In parts, each one look.
    Parts,
}

/// What time a question is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Range {
    /// The camera's most recent window.
    #[default]
    Recent,
    /// Up to the newest frame.
    Last(Duration),
    /// `to` `None`, or still to come: up to the newest frame.
    Between { from: SystemTime, to: Option<SystemTime> },
    /// The window of this event of the journal.
    Event(u64),
}

impl Range {
    /// At most one of `last`, `from` (with or without `to`) and `event`; the error says so.
    pub fn of(
        last: Option<Duration>,
        from: Option<SystemTime>,
        to: Option<SystemTime>,
        event: Option<u64>,
    ) -> Result<Range, String> {
        match (last, from, to, event) {
            (None, None, None, None) => Ok(Range::Recent),
            (Some(last), None, None, None) => Ok(Range::Last(last)),
            (None, Some(from), to, None) => Ok(Range::Between { from, to }),
            (None, None, None, Some(event)) => Ok(Range::Event(event)),
            (None, None, Some(_), None) => Err("a range needs its from, too".into()),
            _ => Err("wanted one range: last, or from and to, or event".into()),
        }
    }
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
    #[error("the model failed: {0}")]
    Model(String),
}

/// Ready: the model is loaded and at least one camera is live.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    Ready,
    NotYet(String),
}
