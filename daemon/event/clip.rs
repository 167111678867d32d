//! The clip of an alert: a video file of the camera's encoded stream.

use schemars::JsonSchema;
use serde::Serialize;

use crate::frame::Span;

/// The state of an alert's clip.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AlertClip {
    pub state: ClipState,
    /// Times of capture from the first picture to the end of the last. `None` if there is no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// The codec of the pictures. Empty if there is no file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub codec: String,
    /// Size of the file.
    pub bytes: u64,
    /// The reason why there is no file, or why it does not cover the whole alert. Else empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClipState {
    /// The clip is complete some seconds after the alert's end.
    Pending,
    /// The clip is stored.
    Ready,
    /// The clip could not be made or stored.
    Missing,
}

impl AlertClip {
    /// Returns the state of a clip that will be made.
    pub fn pending() -> AlertClip {
        let state = ClipState::Pending;
        AlertClip { state, span: None, codec: String::new(), bytes: 0, reason: String::new() }
    }

    pub fn missing(reason: impl Into<String>) -> AlertClip {
        AlertClip { state: ClipState::Missing, reason: reason.into(), ..AlertClip::pending() }
    }
}

impl ClipState {
    pub fn name(self) -> &'static str {
        match self {
            ClipState::Pending => "pending",
            ClipState::Ready => "ready",
            ClipState::Missing => "missing",
        }
    }
}
