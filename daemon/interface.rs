//! Names the interfaces between the daemon and its clients, in metrics and messages.

use std::fmt;

/// An interface between the daemon and its clients. It displays as its name in sentences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    Grpc,
    Http,
    Mqtt,
    Webhook,
    Ntfy,
    /// Traces for an OpenTelemetry collector.
    Otlp,
}

impl Interface {
    /// Returns the name used in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Interface::Grpc => "grpc",
            Interface::Http => "http",
            Interface::Mqtt => "mqtt",
            Interface::Webhook => "webhook",
            Interface::Ntfy => "ntfy",
            Interface::Otlp => "otlp",
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interface::Grpc => "gRPC",
            Interface::Http => "HTTP",
            Interface::Mqtt => "MQTT",
            Interface::Webhook => "webhook",
            Interface::Ntfy => "ntfy",
            Interface::Otlp => "OTLP",
        })
    }
}
