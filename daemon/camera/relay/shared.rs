//! The state that a relay shares with its connections, and the errors that it reports.

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::camera::error::CameraError;
use crate::camera::keepalive::KnownMethod;
use crate::sync;

pub const AGENT: &str = concat!("lookout/", env!("CARGO_PKG_VERSION"));

pub struct Login {
    pub username: String,
    pub password: String,
}

/// A camera's answer that is not a success, or the lack of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayError {
    /// There is no connection.
    Unreachable(String),
    WrongPassword,
    PasswordWanted,
    /// The camera requests an unknown authentication scheme.
    UnknownScheme,
    Redirects,
    Status {
        method: String,
        code: u16,
        reason: String,
    },
    /// The camera closed the connection.
    Closed,
}

impl From<RelayError> for CameraError {
    fn from(error: RelayError) -> CameraError {
        match error {
            RelayError::Unreachable(why) => CameraError::Unreachable(why),
            RelayError::WrongPassword => CameraError::WrongPassword,
            RelayError::PasswordWanted => CameraError::PasswordWanted,
            RelayError::UnknownScheme => CameraError::Refused(
                "the camera asks for a password in a way that lookout does not know: allow digest \
                 (MD5 or SHA-256) or basic authentication in its settings"
                    .into(),
            ),
            RelayError::Redirects => {
                CameraError::Refused("the camera redirects in a circle".into())
            }
            RelayError::Status { method, code, reason } => {
                CameraError::of_status(&method, code, &reason)
            }
            RelayError::Closed => CameraError::ConnectionClosed,
        }
    }
}

/// State shared by the relay and its connections.
pub struct Shared {
    pub secret: String,
    pub login: Option<Login>,
    pub patience: Duration,
    pub state: Mutex<State>,
}

pub struct State {
    pub target: (String, u16),
    /// Number of redirects. `elsewhere` is true if one led to another host, which never receives a
    /// password in clear text.
    pub redirects: u32,
    pub elsewhere: bool,
    pub closed: bool,
    /// Both ends of the open connection.
    pub open: Vec<TcpStream>,
    pub known_method: KnownMethod,
    pub error: Option<RelayError>,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        sync::lock(&self.state)
    }
}
