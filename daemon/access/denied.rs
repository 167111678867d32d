//! The refusals of access control, the same on every interface.

use std::time::Duration;

use super::Role;
use crate::service::Code;

/// The reason why a request is refused. It never repeats the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error(
        "a token is needed: send \"authorization: Bearer TOKEN\"; `lookout token add` makes one"
    )]
    NoToken,
    #[error("the token is not valid: unknown, expired or revoked")]
    WrongToken,
    #[error("too many wrong tokens came from this address; try again in {} s", .0.as_secs().max(1))]
    TooManyFailures(Duration),
    #[error("this needs the role {needed}; the token {name:?} has the role {role}")]
    RoleTooLow { name: String, role: Role, needed: Role },
    #[error("the token {0:?} has as many open streams as it may have; close one")]
    TooManyStreams(String),
    #[error("the daemon's metrics name all cameras, and the token {0:?} may not see all")]
    NotAllCameras(String),
}

impl Denied {
    pub fn code(&self) -> Code {
        match self {
            Denied::NoToken | Denied::WrongToken => Code::Unauthenticated,
            Denied::TooManyFailures(_) | Denied::TooManyStreams(_) => Code::ResourceExhausted,
            Denied::RoleTooLow { .. } | Denied::NotAllCameras(_) => Code::PermissionDenied,
        }
    }

    /// Returns the reason that programs can compare. In lower case it is the label of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Denied::NoToken => "NO_TOKEN",
            Denied::WrongToken => "WRONG_TOKEN",
            Denied::TooManyFailures(_) => "TOO_MANY_FAILURES",
            Denied::RoleTooLow { .. } => "ROLE_TOO_LOW",
            Denied::TooManyStreams(_) => "TOO_MANY_STREAMS",
            Denied::NotAllCameras(_) => "NOT_ALL_CAMERAS",
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Denied::TooManyFailures(wait) => Some(*wait),
            _ => None,
        }
    }
}
