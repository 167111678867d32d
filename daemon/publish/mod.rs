//! Publishes events and accepts questions over gRPC, MQTT and HTTP.
//!
//! Guarantees: each interface knows the daemon only as a [`Service`](crate::service::Service). It
//! reads the journal with its own cursor and at its own pace, so it delays neither the other
//! interfaces nor the cameras. The names of error codes are defined here, once for all interfaces.

mod connection;
pub mod grpc;
pub mod http;
mod listener;
pub mod mqtt;
mod supervision;

use std::net::SocketAddr;
use std::time::Duration;

pub use connection::Timeouts;
pub use listener::Listener;
pub use supervision::supervise;

use crate::interface::Interface;
use crate::service::AskError;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("{0} is in use by another program; stop it, or choose another address in the config")]
    AddressInUse(SocketAddr),
    #[error("cannot listen on {addr}: {why}")]
    Bind { addr: SocketAddr, why: std::io::Error },
    #[error("serving {interface} ended: {why}")]
    Serve { interface: Interface, why: String },
}

/// The reason why a question got no answer: a gRPC status code, whose name MQTT uses too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NotFound,
    OutOfRange,
    ResourceExhausted,
    InvalidArgument,
    Unavailable,
    Internal,
}

impl Code {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Code::NotFound => "NOT_FOUND",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::Unavailable => "UNAVAILABLE",
            Code::Internal => "INTERNAL",
        }
    }
}

impl From<&AskError> for Code {
    fn from(error: &AskError) -> Code {
        match error {
            AskError::CameraNotFound(_) => Code::NotFound,
            AskError::NoFrames { .. } => Code::OutOfRange,
            AskError::QueueFull { .. } => Code::ResourceExhausted,
            AskError::InvalidQuestion(_) => Code::InvalidArgument,
            AskError::Stopping | AskError::ModelFailedTemporarily(_) => Code::Unavailable,
            AskError::ModelFailed(_) => Code::Internal,
        }
    }
}

/// Returns the whole seconds, at least one, after which a refused client may ask again.
pub(crate) fn retry_after_seconds(error: &AskError) -> Option<u64> {
    let AskError::QueueFull { retry_after, .. } = error else { return None };
    let rounded_up = retry_after.saturating_add(Duration::from_nanos(999_999_999)).as_secs();
    Some(rounded_up.max(1))
}
