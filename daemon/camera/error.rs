//! Why a camera gives no frames, in the words a user reads, and what GStreamer said of it.
//!
//! No text made here holds a user name or a password: locations are given to GStreamer without
//! them, and what it prints is cleaned all the same.

use std::time::Duration;

use gst::prelude::*;

use crate::config::masked;
use crate::event::Phase;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CameraError {
    #[error("wrong user or password")]
    WrongPassword,
    #[error("the camera wants a user and a password")]
    PasswordWanted,
    #[error("no such stream")]
    NoSuchStream,
    #[error("no frame for {} s", _0.as_secs_f64())]
    Stalled(Duration),
    /// The connection broke or cannot be made.
    #[error("{0}")]
    Lost(String),
    /// The decoder failed before its first picture.
    #[error("decoder {name} failed: {why}")]
    Decoder { name: String, why: String },
}

impl CameraError {
    pub fn phase(&self) -> Phase {
        match self {
            CameraError::WrongPassword
            | CameraError::PasswordWanted
            | CameraError::NoSuchStream => Phase::Refused,
            CameraError::Stalled(_) => Phase::Stalled,
            CameraError::Lost(_) | CameraError::Decoder { .. } => Phase::Lost,
        }
    }

    /// Asking again soon may get the user locked out.
    pub fn is_about_credentials(&self) -> bool {
        matches!(self, CameraError::WrongPassword | CameraError::PasswordWanted)
    }

    /// A fault of this machine's set-up: an element or property that is missing.
    pub(super) fn internal(error: impl std::fmt::Display) -> CameraError {
        CameraError::Lost(error.to_string())
    }

    pub(super) fn of(message: &gst::message::Error, with_user: bool) -> CameraError {
        let error = message.error();
        match error.kind::<gst::ResourceError>() {
            Some(gst::ResourceError::NotAuthorized) if with_user => CameraError::WrongPassword,
            Some(gst::ResourceError::NotAuthorized) => CameraError::PasswordWanted,
            Some(gst::ResourceError::NotFound) if is_rtsp(message) => CameraError::NoSuchStream,
            // It calls a time-out a "Parse error".
            Some(gst::ResourceError::Read) if is_rtsp(message) => {
                CameraError::Lost("the camera does not answer".into())
            }
            _ => {
                let debug = message.debug();
                CameraError::Lost(words(error.message(), debug.as_deref().unwrap_or_default()))
            }
        }
    }
}

fn is_rtsp(message: &gst::message::Error) -> bool {
    message
        .src()
        .and_then(|source| source.downcast_ref::<gst::Element>())
        .and_then(|element| element.factory())
        .is_some_and(|factory| factory.name() == "rtspsrc")
}

/// GStreamer's sentence and, where there is one, the cause that it puts in brackets at the end of
/// its debug text.
fn words(message: &str, debug: &str) -> String {
    let cause = debug
        .trim_end()
        .strip_suffix(')')
        .and_then(|text| text.rsplit_once('('))
        .map(|(_, cause)| cause.trim())
        .filter(|cause| !cause.is_empty() && *cause != "Generic error");
    let message = message.trim().trim_end_matches('.');
    let text = match cause {
        Some(cause) => format!("{message}: {cause}"),
        None => message.to_string(),
    };
    masked(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_in_brackets_is_told() {
        let debug =
            "gstrtspsrc.c(5428): gst_rtsp_conninfo_connect ():\nFailed to connect. (Timeout)";
        assert_eq!(words("Could not open resource.", debug), "Could not open resource: Timeout");
        assert_eq!(words("Broken.", "x (Generic error)"), "Broken");
        assert_eq!(words("Broken.", ""), "Broken");
    }
}
