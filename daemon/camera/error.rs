//! Describes why a camera delivers no frames, as users read it, and translates GStreamer's errors.
//!
//! Guarantees: no text made here contains a user name or a password. GStreamer receives locations
//! without them, and its output is masked anyway.

use std::time::Duration;

use gst::prelude::*;

use crate::config::masked;
use crate::event::CameraState;

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CameraError {
    #[error("wrong user or password")]
    WrongPassword,
    #[error("the camera wants a user and a password")]
    PasswordWanted,
    #[error("no such stream")]
    NoSuchStream,
    /// A refusal that retrying soon does not fix.
    #[error("{0}")]
    Refused(String),
    #[error("the camera describes no video stream")]
    NoVideo,
    #[error("the camera does not answer")]
    NoAnswer,
    /// The camera does not send over the requested transport.
    #[error(
        "the camera does not send over {asked}: leave out transport, or set transport = \"{other}\""
    )]
    Transport { asked: &'static str, other: &'static str },
    #[error("no frame for {} s", _0.as_secs_f64())]
    Stalled(Duration),
    #[error("the connection was closed")]
    ConnectionClosed,
    /// No connection can be made, with the address and the reason.
    #[error("{0}")]
    Unreachable(String),
    #[error("the camera serves no further viewer ({status}): close one, or wait")]
    TooManyViewers { status: String },
    /// The camera answered a request with an error status.
    #[error("the camera rejected {method} ({status})")]
    Rejected { method: String, status: String },
    /// A password that worked before is rejected.
    #[error(
        "the camera rejects the password that it accepted before: are all its connections taken?"
    )]
    PasswordDoubted,
    /// GStreamer failed, or something on this machine is missing.
    #[error("{0}")]
    Failed(String),
    /// The decoder failed before its first frame.
    #[error("decoder {name} failed: {why}")]
    Decoder { name: String, why: String },
}

impl CameraError {
    pub fn state(&self) -> CameraState {
        match self {
            CameraError::WrongPassword
            | CameraError::PasswordWanted
            | CameraError::NoSuchStream
            | CameraError::Refused(_)
            | CameraError::NoVideo
            | CameraError::Transport { .. } => CameraState::Refused,
            CameraError::Stalled(_) => CameraState::Stalled,
            CameraError::ConnectionClosed
            | CameraError::Unreachable(_)
            | CameraError::TooManyViewers { .. }
            | CameraError::Rejected { .. }
            | CameraError::PasswordDoubted
            | CameraError::Failed(_)
            | CameraError::NoAnswer
            | CameraError::Decoder { .. } => CameraState::Lost,
        }
    }

    /// Returns true if retrying soon could get the user locked out.
    pub fn is_about_credentials(&self) -> bool {
        matches!(self, CameraError::WrongPassword | CameraError::PasswordWanted)
    }

    /// Returns true if only a change of the camera or the config can fix the error.
    pub fn is_lasting(&self) -> bool {
        matches!(self, CameraError::Refused(_) | CameraError::NoVideo)
    }

    /// Returns the error for a camera's response to a request.
    pub(super) fn of_status(method: &str, code: u16, reason: &str) -> CameraError {
        let shown: String = reason.chars().filter(|c| !c.is_control()).take(60).collect();
        let status = masked(format!("{code} {shown}").trim_end()).to_string();
        match code {
            404 => CameraError::NoSuchStream,
            453 | 503 => CameraError::TooManyViewers { status },
            403 => CameraError::Refused(format!("the camera forbids {method} ({status})")),
            _ => CameraError::Rejected { method: method.to_string(), status },
        }
    }

    /// Returns the error for a fault of this machine, such as a missing element or property.
    pub(super) fn internal(error: impl std::fmt::Display) -> CameraError {
        CameraError::Failed(error.to_string())
    }

    pub(super) fn of(message: &gst::message::Error, with_user: bool) -> CameraError {
        let error = message.error();
        let status =
            message.details().and_then(|details| details.get::<u32>("rtsp-status-code").ok());
        if let Some(code) =
            status.and_then(|code| u16::try_from(code).ok()).filter(|code| *code != 401)
        {
            let reason = message.details().and_then(|d| d.get::<&str>("rtsp-status-reason").ok());
            return CameraError::of_status("a request", code, reason.unwrap_or_default());
        }
        match error.kind::<gst::ResourceError>() {
            Some(gst::ResourceError::NotAuthorized) if with_user => CameraError::WrongPassword,
            Some(gst::ResourceError::NotAuthorized) => CameraError::PasswordWanted,
            Some(gst::ResourceError::NotFound) if is_rtsp(message) => CameraError::NoSuchStream,
            // rtspsrc reports a time-out as a "Parse error".
            Some(gst::ResourceError::Read) if is_rtsp(message) => CameraError::NoAnswer,
            _ => {
                let debug = message.debug();
                CameraError::Failed(with_cause(
                    error.message(),
                    debug.as_deref().unwrap_or_default(),
                ))
            }
        }
    }
}

pub(super) fn is_rtsp(message: &gst::message::Error) -> bool {
    message
        .src()
        .and_then(|source| source.downcast_ref::<gst::Element>())
        .and_then(|element| element.factory())
        .is_some_and(|factory| factory.name() == "rtspsrc")
}

/// Returns GStreamer's message and, if there is one, the cause that the debug text ends with, in
/// brackets.
fn with_cause(message: &str, debug: &str) -> String {
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
    fn a_camera_with_too_many_sessions_is_not_a_wrong_password() {
        for code in [453, 503] {
            let error = CameraError::of_status("SETUP", code, "Not Now");
            assert_eq!(error.state(), CameraState::Lost);
            assert!(error.to_string().contains(&format!("({code} Not Now)")), "{error}");
        }
        assert_eq!(
            CameraError::of_status("PLAY", 454, "").to_string(),
            "the camera rejected PLAY (454)"
        );
    }

    #[test]
    fn the_cause_in_brackets_is_reported() {
        let debug =
            "gstrtspsrc.c(5428): gst_rtsp_conninfo_connect ():\nFailed to connect. (Timeout)";
        assert_eq!(
            with_cause("Could not open resource.", debug),
            "Could not open resource: Timeout"
        );
        assert_eq!(with_cause("Broken.", "x (Generic error)"), "Broken");
        assert_eq!(with_cause("Broken.", ""), "Broken");
    }
}
