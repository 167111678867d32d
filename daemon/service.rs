//! The requests that the daemon answers, independent of the interface. `publish/` accesses the
//! daemon only through [`Service`].

mod code;
mod live;
mod reload;
mod trial;
mod trial_json;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::event::{
    Alert, AlertClip, AnswerPart, CameraStatus, Coverage, Event, EventId, FrameReference, Severity,
};
use crate::frame::{FrameId, Span, rfc3339};
use crate::journal::{Deleted, Deletion, Journal, Pending, QueryError};
use crate::metrics;
use crate::question::{Draft, Limits, Question, QuestionError, Range};

pub use code::Code;
pub use live::{LiveItem, LiveStream};
pub use reload::{
    CameraEdit, ConfigChange, ConfiguredCamera, ConfiguredCameras, ReloadError, ReloadRequest,
    Reloaded, Reloading,
};
pub use trial::{
    TRIALS, Trial, TrialError, TrialItem, TrialRequest, TrialStream, TriedResult, TriedWindow,
};
pub use trial_json::{TrialMessage, TrialSummary, cause_name};

/// The daemon as the interfaces see it, implemented by `app`.
pub trait Service: Send + Sync + 'static {
    fn journal(&self) -> &Arc<dyn Journal>;

    /// Returns every configured camera, in the order of the config.
    fn cameras(&self) -> Vec<CameraInfo>;

    /// Returns the JPEG of a frame while the buffer holds it. A `run` of `None` is this run. Waits
    /// for the disk if memory does not have the JPEG.
    fn frame_jpeg(&self, camera: &str, run: Option<u64>, number: u64) -> FrameLookup;

    /// Deletes the frames that cameras took in a span, from memory and from the disk. No names: those
    /// of all cameras, also of those that are no longer configured.
    fn delete_frames(&self, span: Span, cameras: &[String]) -> FrameDeletion;

    /// Deletes the events about a span of time, and the frames that were taken in it.
    fn delete(&self, deletion: Deletion) -> Pending<'_, Deleted> {
        Box::pin(async move {
            // The frames go first, so that no caption is made of them after the events are deleted.
            let frames = self.delete_frames(deletion.span, &deletion.cameras).await;
            let deleted = self.journal().delete(deletion).await?;
            let buffer_frames = frames.map_err(QueryError::FramesNotDeleted)?;
            Ok(Deleted { buffer_frames, ..deleted })
        })
    }

    /// Samples a range of a camera's buffer evenly: returns at most `most` of its frames, at least
    /// one.
    fn sample_frames(
        &self,
        camera: &str,
        range: Range,
        most: usize,
    ) -> Result<FrameSample, AskError>;

    /// Begins the live video of a camera, or returns `None` if no camera has this name.
    fn live_video(&self, _camera: &str) -> Option<LiveStream> {
        None
    }

    /// Returns the limits that questions are checked against.
    fn limits(&self) -> Limits;

    /// Checks the values that an interface read for a question.
    fn question(&self, draft: Draft) -> Result<Question, AskError> {
        let question = Question::new(draft, &self.limits()).map_err(AskError::from);
        question.inspect_err(|error| metrics::question_refused(error.reason()))
    }

    /// Accepts a question about a range of a camera's time. Never waits: a full queue is an error.
    /// Dropping the answer's receiver cancels the question.
    fn ask(&self, question: Question) -> Result<AnswerStream, AskError>;

    /// Returns an error if one of the cameras is not configured.
    fn require_cameras(&self, names: &[String]) -> Result<(), AskError> {
        let known = self.cameras();
        match names.iter().find(|name| !known.iter().any(|camera| *camera.name == ***name)) {
            Some(unknown) => Err(AskError::CameraNotFound(unknown.clone())),
            None => Ok(()),
        }
    }

    /// Returns the state of every rule for each of its cameras, in the order of the config.
    fn rules(&self) -> Vec<RuleInfo>;

    /// Returns the newest alert of a rule on a camera, active or ended, as it is now.
    fn newest_alert(&self, camera: &str, rule: &str) -> Option<Alert>;

    /// Returns alerts among the newest 1,000 as they are now, the one that began last first.
    fn alerts(&self, _query: &AlertQuery) -> Vec<ListedAlert> {
        Vec::new()
    }

    /// Acknowledges an alert, active or ended. Returns the event of the acknowledgement.
    fn acknowledge(&self, alert_id: &str, false_alarm: bool) -> Result<Arc<Event>, AlertNotFound>;

    /// Tries a rule on the past. Never waits: too many trials are an error. Dropping the receiver
    /// cancels the trial.
    fn try_rule(&self, request: TrialRequest) -> Result<TrialStream, TrialError>;

    /// Returns the present state of an alert's clip, if the alert is among the newest 1,000.
    fn alert_clip(&self, _alert_id: &str) -> Option<AlertClip> {
        None
    }

    /// Returns a number that rises when cameras or rules may have changed.
    fn config_version(&self) -> u64 {
        0
    }

    /// Reads the config again, or changes a camera of it. Changes are done one after the other.
    fn change_config(&self, _change: ConfigChange) -> Reloading {
        Box::pin(async { Err(ReloadError::Stopping) })
    }

    /// Reads the cameras of the config, with those that were added.
    fn configured_cameras(&self) -> ConfiguredCameras {
        Box::pin(async { Err(ReloadError::Stopping) })
    }

    fn readiness(&self) -> Readiness;

    /// Returns what does not work although the daemon runs: one sentence per problem.
    fn troubles(&self) -> Vec<String>;
}

/// A configured camera, its state and its buffer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CameraInfo {
    pub name: Arc<str>,
    /// The camera's URL without user and password.
    pub source: String,
    #[serde(flatten)]
    pub status: CameraStatus,
    /// Number of frames that can be asked about, on disk or in memory.
    pub buffer_frames: u64,
    /// Bytes in memory.
    pub buffer_bytes: u64,
    pub disk_bytes: u64,
    /// Time of the oldest frame that can be asked about.
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<rfc3339::Text>")]
    pub oldest_frame_at: Option<SystemTime>,
}

/// A rule and its state for one camera.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RuleInfo {
    pub name: Arc<str>,
    pub camera: Arc<str>,
    pub question: Arc<str>,
    pub severity: Severity,
    pub state: RuleState,
    /// True if no window could be scored for longer than the rule's `hold`.
    #[serde(rename = "blind")]
    pub is_blind: bool,
    /// Score of the newest window that was scored.
    pub score: Option<f64>,
    /// End of that window.
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<rfc3339::Text>")]
    pub scored_at: Option<SystemTime>,
    /// ID of the active alert.
    pub alert_id: Option<Arc<str>>,
    /// Number of alerts that began since midnight in the rule's time zone.
    pub alerts_today: u32,
    /// Number of those alerts that were marked as false alarms.
    pub false_alarms_today: u32,
}

/// The state of a rule for one camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    /// No window of the newest ones reached `on`.
    Idle,
    /// Some of the newest windows reached `on`, but not enough for an alert.
    Pending,
    /// An alert is active.
    Active,
    /// An alert ended less than `cooldown` ago.
    Cooldown,
    /// The rule's schedule does not include the present.
    OffSchedule,
}

impl RuleState {
    pub fn name(self) -> &'static str {
        match self {
            RuleState::Idle => "idle",
            RuleState::Pending => "pending",
            RuleState::Active => "active",
            RuleState::Cooldown => "cooldown",
            RuleState::OffSchedule => "off schedule",
        }
    }
}

/// Selects alerts.
#[derive(Clone, Debug, Default)]
pub struct AlertQuery {
    /// Names of cameras and of rules; empty means all.
    pub cameras: Vec<String>,
    pub rules: Vec<String>,
    /// True for active alerts only, false for ended ones only.
    pub is_active: Option<bool>,
    /// ID of an alert: only those that began before it.
    pub before: Option<String>,
    /// Maximum number of alerts.
    pub limit: usize,
}

impl AlertQuery {
    pub fn wants(&self, camera: &str, alert: &Alert) -> bool {
        let is_named = |names: &[String], name: &str| {
            names.is_empty() || names.iter().any(|wanted| wanted == name)
        };
        is_named(&self.cameras, camera)
            && is_named(&self.rules, &alert.rule)
            && self.is_active.is_none_or(|is_active| is_active == alert.is_active())
    }
}

/// An alert as it is now, and its newest event.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ListedAlert {
    /// The newest event of the alert.
    #[serde(flatten)]
    pub event: EventId,
    pub camera: Arc<str>,
    /// The frames of the window with which the alert began, oldest first.
    pub first_frames: Vec<FrameReference>,
    #[serde(flatten)]
    pub alert: Alert,
}

/// The error of a request for a clip.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClipError {
    #[error("the event is not an event of an alert")]
    NoAlert,
    #[error("the alert has no clip: its rule makes none (clip = \"none\")")]
    NotMade,
    #[error("the alert's clip is not complete yet; ask again after its next event")]
    Pending,
    #[error("the alert has no clip: {0}")]
    Missing(String),
    #[error("the alert's clip was deleted, on request or because the journal was too large")]
    Deleted,
}

impl ClipError {
    pub fn code(&self) -> Code {
        match self {
            ClipError::Pending => Code::FailedPrecondition,
            _ => Code::NotFound,
        }
    }

    /// Returns the reason that programs can compare.
    pub fn reason(&self) -> &'static str {
        match self {
            ClipError::Pending => "CLIP_PENDING",
            _ => "CLIP_NOT_FOUND",
        }
    }
}

/// The error of an acknowledgement.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "no alert has the ID {0:?} among the newest 1,000 alerts; `lookout events --kind alert` lists them"
)]
pub struct AlertNotFound(pub String);

impl AlertNotFound {
    pub const CODE: Code = Code::NotFound;
    /// The reason that programs can compare.
    pub const REASON: &str = "ALERT_NOT_FOUND";
}

#[derive(Clone, Debug)]
pub struct FrameJpeg {
    pub jpeg: Arc<[u8]>,
    pub captured_at: SystemTime,
}

/// Frames of a range, sampled evenly.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameSample {
    pub window: Span,
    /// The frames and their times of capture, oldest first.
    pub frames: Vec<(FrameId, SystemTime)>,
    pub coverage: Coverage,
}

/// A future that looks up a frame. Dropping it frees its place in the disk's queue.
pub type FrameLookup = Pin<Box<dyn Future<Output = Result<FrameJpeg, FrameError>> + Send>>;

/// A future of the number of deleted frames, or of the reason why some were not deleted.
pub type FrameDeletion = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FrameError {
    #[error("no camera is named {0:?}")]
    CameraNotFound(String),
    #[error("camera {camera:?}: frame {number} is not in the buffer")]
    FrameNotFound { camera: String, number: u64 },
    #[error("camera {camera:?}: frame {number} cannot be read from the disk; the log says why")]
    Unreadable { camera: String, number: u64 },
    #[error("too many frames wait to be read from the disk; ask again")]
    Busy,
}

/// The stream of an answer. A range in parts yields each part as soon as it is answered. Tokens
/// follow as they are generated, then exactly one `Finished` or `Failed`.
pub type AnswerStream = mpsc::Receiver<AnswerItem>;

#[derive(Clone, Debug)]
pub enum AnswerItem {
    Part(Box<AnswerPart>),
    Token(String),
    Finished(Arc<Event>),
    Failed(AskError),
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AskError {
    #[error("no camera is named {0:?}")]
    CameraNotFound(String),
    #[error("camera {camera:?}: {why}")]
    NoFrames { camera: String, why: String },
    #[error(
        "the token may ask {per_minute} questions a minute; ask again in {} s",
        retry_after.as_secs().max(1)
    )]
    TooManyQuestions { per_minute: u32, retry_after: Duration },
    #[error("{waiting} questions are waiting already; ask again in {} s", retry_after.as_secs().max(1))]
    QueueFull { waiting: usize, retry_after: Duration },
    #[error("{0}")]
    InvalidQuestion(String),
    /// A field of the question is not valid.
    #[error("{why}")]
    InvalidField { field: &'static str, why: String },
    #[error("the daemon is stopping")]
    Stopping,
    /// The model failed on this question; the same question may succeed later.
    #[error("the model failed on this question; ask again: {0}")]
    ModelFailedTemporarily(String),
    #[error("the model failed: {0}")]
    ModelFailed(String),
}

impl From<QuestionError> for AskError {
    fn from(error: QuestionError) -> AskError {
        match error {
            QuestionError::CameraNotFound(name) => AskError::CameraNotFound(name),
            QuestionError::InvalidField { field, why } => AskError::InvalidField { field, why },
        }
    }
}

impl AskError {
    pub fn code(&self) -> Code {
        match self {
            AskError::CameraNotFound(_) => Code::NotFound,
            AskError::NoFrames { .. } => Code::OutOfRange,
            AskError::QueueFull { .. } | AskError::TooManyQuestions { .. } => {
                Code::ResourceExhausted
            }
            AskError::InvalidQuestion(_) | AskError::InvalidField { .. } => Code::InvalidArgument,
            AskError::Stopping | AskError::ModelFailedTemporarily(_) => Code::Unavailable,
            AskError::ModelFailed(_) => Code::Internal,
        }
    }

    /// Returns the reason that programs can compare, the same on every interface. In lower case it
    /// is the label of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            AskError::CameraNotFound(_) => "CAMERA_NOT_FOUND",
            AskError::NoFrames { .. } => "NO_FRAMES",
            AskError::QueueFull { .. } => "QUEUE_FULL",
            AskError::TooManyQuestions { .. } => "TOO_MANY_QUESTIONS",
            AskError::InvalidQuestion(_) | AskError::InvalidField { .. } => "INVALID_QUESTION",
            AskError::Stopping => "STOPPING",
            AskError::ModelFailedTemporarily(_) => "MODEL_FAILED_TEMPORARILY",
            AskError::ModelFailed(_) => "MODEL_FAILED",
        }
    }

    /// Returns the delay, in whole seconds and at least one, after which a refused client may ask
    /// again.
    pub fn retry_after(&self) -> Option<Duration> {
        let (AskError::QueueFull { retry_after, .. }
        | AskError::TooManyQuestions { retry_after, .. }) = self
        else {
            return None;
        };
        let rounded_up = retry_after.saturating_add(Duration::from_nanos(999_999_999)).as_secs();
        Some(Duration::from_secs(rounded_up.max(1)))
    }
}

impl FrameError {
    pub fn code(&self) -> Code {
        match self {
            FrameError::CameraNotFound(_) | FrameError::FrameNotFound { .. } => Code::NotFound,
            FrameError::Unreadable { .. } => Code::Unavailable,
            FrameError::Busy => Code::ResourceExhausted,
        }
    }

    /// Returns the reason that programs can compare.
    pub fn reason(&self) -> &'static str {
        match self {
            FrameError::CameraNotFound(_) => "CAMERA_NOT_FOUND",
            FrameError::FrameNotFound { .. } => "FRAME_NOT_FOUND",
            FrameError::Unreadable { .. } => "FRAME_UNREADABLE",
            FrameError::Busy => "QUEUE_FULL",
        }
    }
}

impl QueryError {
    pub fn code(&self) -> Code {
        match self {
            QueryError::NoStore | QueryError::NoModel => Code::FailedPrecondition,
            QueryError::NoEvent(_) => Code::NotFound,
            QueryError::TooMuchKept { .. } | QueryError::QueueFull(_) => Code::ResourceExhausted,
            QueryError::NoWord => Code::InvalidArgument,
            QueryError::NoVector(_) => Code::Internal,
            QueryError::Unwritable(_)
            | QueryError::Unreadable(_)
            | QueryError::FramesNotDeleted(_) => Code::Unavailable,
        }
    }

    /// Returns the reason that programs can compare.
    pub fn reason(&self) -> &'static str {
        match self {
            QueryError::NoStore => "NO_STORE",
            QueryError::NoEvent(_) => "EVENT_NOT_FOUND",
            QueryError::TooMuchKept { .. } => "TOO_MUCH_KEPT",
            QueryError::Unwritable(_) => "JOURNAL_UNWRITABLE",
            QueryError::NoWord => "INVALID_REQUEST",
            QueryError::NoModel => "NO_MODEL",
            QueryError::QueueFull(_) => "QUEUE_FULL",
            QueryError::NoVector(_) => "NO_VECTOR",
            QueryError::Unreadable(_) => "JOURNAL_UNREADABLE",
            QueryError::FramesNotDeleted(_) => "FRAMES_NOT_DELETED",
        }
    }
}

/// The daemon's readiness. It is ready if the model is loaded, every worker makes progress and at
/// least one camera is live.
#[derive(Clone, Debug, PartialEq)]
pub enum Readiness {
    Ready,
    NotYet(String),
}
