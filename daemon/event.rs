//! What the daemon tells the world, the same on every wire: captions, answers, states of cameras.
//!
//! The JSON of these types is what MQTT carries and what `--json` prints; gRPC carries the same
//! fields as protobuf (`proto/lookout/v1/lookout.proto`).

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use crate::frame::{Clock, Span, rfc3339};

/// One entry of the journal, named by run and sequence together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// The run of the daemon that published it, as in a [`FrameRef`].
    pub run: u64,
    /// Counts from 1 with each run, without holes.
    pub sequence: u64,
    #[serde(with = "rfc3339")]
    pub published_at: SystemTime,
    pub camera: Arc<str>,
    #[serde(flatten)]
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Body {
    Caption(Description),
    Answer(Description),
    Camera(CameraStatus),
}

impl Body {
    pub fn kind(&self) -> Kind {
        match self {
            Body::Caption(_) => Kind::Caption,
            Body::Answer(_) => Kind::Answer,
            Body::Camera(_) => Kind::Camera,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Caption,
    Answer,
    Camera,
}

/// Words about a clip, and everything that tells how far to trust them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Names the question on the wire that asked it; empty for captions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What the model was asked.
    pub prompt: String,
    pub text: String,
    pub window: Span,
    pub coverage: Coverage,
    /// The frames the model saw, oldest first.
    pub frames: Vec<FrameRef>,
    pub model: String,
    /// What it ran on: `cpu`, `cuda`, or `vision cuda, language cpu`.
    pub device: String,
    /// Why it ran there; empty when the device was chosen by name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device_reason: String,
    pub finish: Finish,
    pub usage: Usage,
    pub timing: Timing,
    /// Of a caption: windows of the camera since its last caption that got none, because it would
    /// have come too late.
    #[serde(skip_serializing_if = "is_zero")]
    pub skipped: u32,
    /// Of a caption: nothing has happened, the text is "unchanged" and the model did not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchanged: Option<Unchanged>,
    /// What a further question names to be asked after this one; empty for captions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub conversation: String,
    /// Questions of the conversation that the model saw with this one.
    #[serde(skip_serializing_if = "is_zero")]
    pub earlier_turns: u32,
    /// Of a range too long for one look: what was answered of each part that has footage, in order
    /// of time. `text` is made of these; coverage and frames are of all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// How `text` was made of the parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// What a window is like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unchanged {
    /// The begin of the window that was described last.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// The event of this run that describes it.
    pub sequence: u64,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    pub window: Span,
    pub text: String,
    pub coverage: Coverage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Summary {
    /// All parts began with yes or no, and `text` says which began with yes.
    YesNo,
    /// All parts said the same.
    Same,
    /// The model's, from the parts' words and a sparse look at the whole.
    Model,
    /// The parts' words one after the other: by the config, or because the model had no room.
    List,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrameRef {
    /// The run of the daemon that took it, for numbers begin anew with each: the milliseconds from
    /// 1970 to its start by the host's clock, but always more than that of every run on disk.
    pub run: u64,
    pub number: u64,
    #[serde(with = "rfc3339")]
    pub captured_at: SystemTime,
    /// Seen with many tokens (slow and fast) and not with few (fast only).
    pub slow: bool,
}

/// How much of the window was really seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// Frames a window holds at the camera's rate, at most what the plan samples.
    pub frames_wanted: u32,
    /// Different frames that the model saw.
    pub frames_used: u32,
    /// From the first to the last frame used.
    pub covered: Option<Span>,
    pub gaps: Vec<Gap>,
    pub clock: Clock,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gap {
    #[serde(flatten)]
    pub span: Span,
    pub cause: GapCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The camera gave no frames.
    CameraDown,
    /// Frames came, but there was no time to look at them.
    Overload,
    /// The frames have left the buffer.
    Evicted,
    /// It is from before the daemon's start: nothing was taken, or nothing was kept on disk.
    BeforeStart,
    /// A clock was set, the host's or the camera's: times were left out, or came twice.
    Clock,
    /// Frames came, but could not be used: damaged, or the model made no finite numbers of them.
    Corrupt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended its answer.
    Stop,
    /// The limit on new tokens was reached.
    Length,
}

/// Tokens in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub video_tokens: u32,
    pub text_tokens: u32,
    pub new_tokens: u32,
    /// Of the first two, those that had been read for an earlier question about the same window.
    pub cached_tokens: u32,
}

/// Where the time went, in seconds, from the window's close (for a question: its arrival).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timing {
    /// Waiting for the window's last frames to be encoded and for a turn.
    pub wait_seconds: f64,
    /// Of the waiting, encoding: for a caption that of the window's last frame, model time; for a
    /// question that of the frames whose tokens had left the buffer.
    pub encode_seconds: f64,
    /// From the first chunk of the prompt to the last, and from there to the last token. Both hold the
    /// turns of other answers and captions that came between.
    pub prefill_seconds: f64,
    pub decode_seconds: f64,
    /// All of it, until the event entered the journal.
    pub total_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CameraStatus {
    pub phase: Phase,
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// Why it is so, in words; empty when live.
    pub reason: String,
    #[serde(with = "rfc3339::option")]
    pub last_frame: Option<SystemTime>,
    /// Times the camera was lost and sought again since the daemon's start.
    pub reconnects: u64,
    /// The decoder element in use; empty before the first frame.
    pub decoder: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Connecting,
    /// Frames are coming.
    Live,
    /// Connected, but no frame for longer than `stall_timeout`.
    Stalled,
    /// The connection broke or cannot be made; tried again with back-off.
    Lost,
    /// The camera answered and said no: wrong password or no such stream.
    Refused,
}

impl Phase {
    pub const ALL: [Phase; 5] =
        [Phase::Connecting, Phase::Live, Phase::Stalled, Phase::Lost, Phase::Refused];

    pub fn name(self) -> &'static str {
        match self {
            Phase::Connecting => "connecting",
            Phase::Live => "live",
            Phase::Stalled => "stalled",
            Phase::Lost => "lost",
            Phase::Refused => "refused",
        }
    }
}
