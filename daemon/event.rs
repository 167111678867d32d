//! The events that the daemon publishes, identical on every interface: captions, answers, camera
//! states, alerts and the sight of rules.
//!
//! MQTT and `--json` use the JSON of these types. gRPC has the same fields as protobuf
//! (`proto/lookout/v1/lookout.proto`).

mod alert;
mod clip;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::{NoContext, Timestamp, Uuid};

use crate::frame::{Clock, FrameId, Span, rfc3339};
use crate::trace_parent::TraceParent;

pub use alert::{
    Acknowledgement, Alert, AlertPhase, AlertUpdate, Description, EndReason, RuleStatus,
    ScorePoint, Severity, Sight,
};
pub use clip::{AlertClip, ClipState};

/// Identifies an event. The order is that of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct EventId {
    /// The run of the daemon that published the event. A later run has a greater number.
    pub run: u64,
    /// Number of the event. It starts at 1 in each run and has no gaps.
    pub sequence: u64,
}

/// `RUN.SEQUENCE`, as HTTP names events.
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.run, self.sequence)
    }
}

impl FromStr for EventId {
    type Err = String;

    fn from_str(text: &str) -> Result<EventId, String> {
        let read = || {
            let (run, sequence) = text.split_once('.')?;
            Some(EventId { run: run.parse().ok()?, sequence: sequence.parse().ok()? })
        };
        read().ok_or_else(|| format!("{text:?}; wanted RUN.SEQUENCE, like 1760000000000.42"))
    }
}

/// An entry of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Event {
    #[serde(flatten)]
    pub id: EventId,
    /// Identifies the event among those of all daemons (UUIDv7).
    #[schemars(with = "String")]
    pub uuid: Uuid,
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub published_at: SystemTime,
    pub camera: Arc<str>,
    /// True if the event is exempt from retention.
    #[serde(skip_serializing_if = "is_false")]
    pub kept: bool,
    #[serde(flatten)]
    pub body: Body,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Event {
    /// Creates an event with a new UUID.
    pub fn new(id: EventId, published_at: SystemTime, camera: Arc<str>, body: Body) -> Event {
        let since = published_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = Timestamp::from_unix(NoContext, since.as_secs(), since.subsec_nanos());
        Event { id, uuid: Uuid::new_v7(time), published_at, camera, kept: false, body }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    Caption(Caption),
    Answer(Answer),
    CameraStatus(CameraStatus),
    Alert(Alert),
    RuleStatus(RuleStatus),
}

impl Body {
    pub fn kind(&self) -> EventKind {
        match self {
            Body::Caption(_) => EventKind::Caption,
            Body::Answer(_) => EventKind::Answer,
            Body::CameraStatus(_) => EventKind::CameraStatus,
            Body::Alert(_) => EventKind::Alert,
            Body::RuleStatus(_) => EventKind::RuleStatus,
        }
    }

    /// Returns the text of a caption or an answer with its data.
    pub fn inference(&self) -> Option<&Inference> {
        match self {
            Body::Caption(caption) => Some(&caption.inference),
            Body::Answer(answer) => Some(&answer.inference),
            Body::CameraStatus(_) | Body::Alert(_) | Body::RuleStatus(_) => None,
        }
    }

    /// Returns the frames that the model saw, oldest first: for a text, or for an alert's score.
    pub fn frames(&self) -> &[FrameReference] {
        match self {
            Body::Alert(alert) => &alert.frames,
            body => body.inference().map_or(&[], |inference| &inference.frames),
        }
    }

    /// Returns the window or range that the event is about.
    pub fn window(&self) -> Option<Span> {
        match self {
            Body::Alert(alert) => Some(alert.shown()),
            body => body.inference().map(|inference| inference.window),
        }
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, clap::ValueEnum, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EventKind {
    Caption,
    Answer,
    CameraStatus,
    Alert,
    RuleStatus,
}

/// The text about a window that the daemon generates regularly.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Caption {
    #[serde(flatten)]
    pub inference: Inference,
    /// Number of the camera's windows that got no caption since its previous caption, because the
    /// caption would have been late or for another reason.
    pub skipped_windows: u32,
    /// Set if the scene has not changed. The text is then "unchanged" and the model did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchanged: Option<Unchanged>,
}

/// The text that answers a question.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Answer {
    #[serde(flatten)]
    pub inference: Inference,
    /// ID of the question, as given by its interface.
    pub question_id: String,
    /// Conversation ID, with which a further question can follow this one.
    pub conversation: String,
    /// Number of earlier questions of the conversation that the model saw with this one.
    pub earlier_turns: u32,
    /// Answers about the parts of a range too long for one pass, in order of time; parts without
    /// frames are missing. The text is combined from them, and `coverage` and `frames` describe all
    /// of them together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<AnswerPart>,
    /// The method by which the text was combined from the parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary_method: Option<SummaryMethod>,
    /// The score of a yes/no question, P(yes) / (P(yes) + P(no)) at the first token of the answer.
    /// The text is then "Yes." if the score is at least 0.5, else "No.", and the model generated no
    /// text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yes_score: Option<f64>,
    /// The SHA-256, in hexadecimal digits, of the schema that the text follows. The text is then
    /// JSON that validates against the schema, unless `finish_reason` is `length`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_sha256: Option<Arc<str>>,
    /// The client's span. It is not stored with the answer.
    #[serde(skip)]
    pub trace_parent: Option<TraceParent>,
}

/// A text that the model generated about frames, with everything needed to judge how far to trust
/// it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Inference {
    /// The question or caption prompt.
    pub prompt: String,
    pub text: String,
    pub window: Span,
    pub coverage: Coverage,
    /// The frames that the model saw, oldest first.
    pub frames: Vec<FrameReference>,
    pub model: String,
    pub devices: Devices,
    pub finish_reason: FinishReason,
    pub usage: Usage,
    pub timing: Timing,
}

/// The devices that ran the components of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Devices {
    pub vision: Placement,
    pub language: Placement,
}

/// The device that ran a component of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Placement {
    /// `cpu`, `cuda`, `vllm` or `openai` for servers, which do not tell their device, or `none` for
    /// the vision component if servers get frames as JPEGs.
    pub device: String,
    /// The reason why this device was chosen. Empty if the config names the device.
    pub reason: String,
}

impl Devices {
    /// Returns the device, or both with the component's name if they differ.
    pub fn device(&self) -> String {
        let (vision, language) = (&self.vision.device, &self.language.device);
        if vision == language {
            return vision.clone();
        }
        format!("vision {vision}, language {language}")
    }

    /// Returns the reason for the devices. Empty if the config names both.
    pub fn reason(&self) -> String {
        let (vision, language) = (&self.vision.reason, &self.language.reason);
        match (vision.as_str(), language.as_str()) {
            (same, other) if same == other => same.into(),
            ("", language) => format!("language {language}"),
            (vision, "") => format!("vision {vision}"),
            (vision, language) => format!("vision {vision}; language {language}"),
        }
    }
}

/// The captioned window that a window does not differ from.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Unchanged {
    /// Start of the last captioned window.
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub since: SystemTime,
    /// The event with that window's caption.
    pub event: EventId,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AnswerPart {
    pub window: Span,
    pub text: String,
    pub coverage: Coverage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SummaryMethod {
    /// Every part began with yes or no, and `text` names those that began with yes.
    YesNo,
    /// All parts had the same answer.
    Same,
    /// The model summarised the parts' answers together with a sparse pass over the whole range.
    Model,
    /// The parts' answers one after the other, because the config says so or the model could not
    /// summarise them.
    List,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct FrameReference {
    #[serde(flatten)]
    pub id: FrameId,
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub captured_at: SystemTime,
    /// True if the model saw the frame with many tokens (slow and fast), false if only with few
    /// (fast).
    pub slow: bool,
}

/// The share of a window that the model saw.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Coverage {
    /// Number of frames that the window holds at the camera's rate, at most the number that the
    /// plan samples.
    pub frames_expected: u32,
    /// Number of distinct frames that the model saw.
    pub frames_used: u32,
    /// Span from the first to the last frame used.
    pub covered_span: Option<Span>,
    pub gaps: Vec<Gap>,
    pub clock_source: Clock,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Gap {
    #[serde(flatten)]
    pub span: Span,
    pub cause: GapCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The camera sent no frames.
    CameraDown,
    /// Frames arrived, but there was no time to process them.
    Overload,
    /// The frames have left the buffer.
    Evicted,
    /// The time is before the daemon's start: no frames were taken, or none were stored on disk.
    BeforeStart,
    /// The host's or the camera's clock was set: times were skipped or occurred twice.
    Clock,
    /// Frames arrived but could not be used: they were damaged, or the model's output for them was
    /// not finite.
    Corrupt,
    /// The model failed on this part of a long range. The same question may succeed later.
    ModelFailed,
    /// The frames were deleted on request.
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// The model ended its answer.
    Stop,
    /// The limit on new tokens was reached.
    Length,
}

/// Number of input and output tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Usage {
    pub video_tokens: u32,
    pub text_tokens: u32,
    pub new_tokens: u32,
    /// Prompt tokens that had been read for an earlier question about the same window.
    /// `video_tokens` and `text_tokens` include them.
    pub cached_tokens: u32,
}

/// Durations of the stages, in seconds, from the window's close (for a question: from its arrival).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Timing {
    /// Time until the model started on the prompt: encoding of the window's last frames, and
    /// waiting for a turn.
    pub wait_seconds: f64,
    /// Encoding time within `wait_seconds`. For a caption, the model time of the window's last
    /// frame; for a question, that of the frames whose tokens had left the buffer.
    pub encode_seconds: f64,
    /// Time from the first chunk of the prompt to the last, and from there to the last token. Both
    /// include the turns of other answers and captions in between.
    pub prefill_seconds: f64,
    pub decode_seconds: f64,
    /// Total time until the event entered the journal.
    pub total_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct CameraStatus {
    pub state: CameraState,
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    pub since: SystemTime,
    /// The reason for the state, as text. Empty if the camera is live.
    pub reason: String,
    #[serde(with = "rfc3339::option")]
    #[schemars(with = "Option<rfc3339::Text>")]
    pub last_frame_at: Option<SystemTime>,
    /// Number of times since the daemon's start that the camera was lost and the connection was
    /// retried.
    pub reconnects: u64,
    /// The decoder element in use. Empty before the first frame.
    pub decoder: String,
}

impl CameraStatus {
    /// Returns the status of a camera that has not been reached yet.
    pub fn connecting(since: SystemTime) -> CameraStatus {
        CameraStatus {
            state: CameraState::Connecting,
            since,
            reason: String::new(),
            last_frame_at: None,
            reconnects: 0,
            decoder: String::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CameraState {
    Connecting,
    /// Frames are arriving.
    Live,
    /// Connected, but no frame arrived for longer than `stall_timeout`.
    Stalled,
    /// The connection broke or cannot be made. It is retried with back-off.
    Lost,
    /// The camera refused the connection: wrong password or no such stream.
    Refused,
    /// The config pauses the camera: it is not connected.
    Paused,
}

impl CameraState {
    pub const ALL: [CameraState; 6] = [
        CameraState::Connecting,
        CameraState::Live,
        CameraState::Stalled,
        CameraState::Lost,
        CameraState::Refused,
        CameraState::Paused,
    ];

    pub fn name(self) -> &'static str {
        match self {
            CameraState::Connecting => "connecting",
            CameraState::Live => "live",
            CameraState::Stalled => "stalled",
            CameraState::Lost => "lost",
            CameraState::Refused => "refused",
            CameraState::Paused => "paused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_one_word_if_they_are_equal() {
        let placement =
            |device: &str, reason: &str| Placement { device: device.into(), reason: reason.into() };
        let (cpu, cuda) = (placement("cpu", ""), placement("cuda", "auto: CUDA was found"));
        let fallback = placement("cpu", "auto: libcuda.so.1 is missing");
        let shown = |vision: &Placement, language: &Placement| {
            let devices = Devices { vision: vision.clone(), language: language.clone() };
            (devices.device(), devices.reason())
        };
        let expected = |device: &str, reason: &str| (device.to_owned(), reason.to_owned());
        assert_eq!(shown(&cpu, &cpu), expected("cpu", ""));
        assert_eq!(shown(&fallback, &fallback), expected("cpu", "auto: libcuda.so.1 is missing"));
        assert_eq!(
            shown(&cuda, &cpu),
            expected("vision cuda, language cpu", "vision auto: CUDA was found")
        );
        assert_eq!(
            shown(&cuda, &fallback),
            expected(
                "vision cuda, language cpu",
                "vision auto: CUDA was found; language auto: libcuda.so.1 is missing"
            )
        );
    }
}
