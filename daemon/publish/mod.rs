//! Publishes events and accepts requests over gRPC, MQTT and HTTP, and delivers alerts to webhooks
//! and by ntfy. Sends traces to an OpenTelemetry collector.
//!
//! Guarantees: each interface knows the daemon only as a [`Service`](crate::service::Service). It
//! reads the journal with its own cursor and at its own pace, so it delays neither the other
//! interfaces nor the cameras.

mod asking;
mod clip;
mod connection;
pub mod delivery;
mod frames;
pub mod grpc;
pub mod http;
mod json_fields;
mod listener;
mod log_interval;
pub mod mqtt;
mod question_json;
mod stream;
mod supervision;
pub mod traces;

use std::net::SocketAddr;

pub use connection::Timeouts;
pub use listener::Listener;
pub use question_json::QUESTION_FIELDS;
pub use supervision::supervise;

use crate::interface::Interface;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("{0} is in use by another program; stop it, or choose another address in the config")]
    AddressInUse(SocketAddr),
    #[error("cannot listen on {addr}: {why}")]
    Bind { addr: SocketAddr, why: std::io::Error },
    #[error("serving {interface} ended: {why}")]
    Serve { interface: Interface, why: String },
}
