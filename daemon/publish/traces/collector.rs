//! The connection to an OpenTelemetry collector.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::config::{Secret, Traces};
use crate::tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum duration of a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A collector. It is connected with the first request, and again after a failure.
pub struct Collector {
    /// The collector's address, for messages.
    pub name: String,
    exporter: SpanExporter,
}

impl Collector {
    pub fn new(config: &Traces) -> Result<Collector, String> {
        let name = config.endpoint.origin().ascii_serialization();
        let mut endpoint = Endpoint::from_shared(name.clone())
            .map_err(|error| format!("traces.endpoint: {error}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .timeout(TIMEOUT);
        if config.endpoint.scheme() == "https" {
            let roots = tls::authorities("traces.ca_file", config.ca_file.as_deref())?;
            let tls = ClientTlsConfig::new().trust_anchors(roots.roots.iter().cloned());
            let failed = |error| format!("traces.endpoint: {error}");
            endpoint = endpoint.tls_config(tls).map_err(failed)?;
        }
        let headers = config.headers.clone();
        let mut exporter = SpanExporter::builder()
            .with_tonic()
            .with_timeout(TIMEOUT)
            // Failed spans are dropped, so that spans of the present follow.
            .with_retry_policy(RetryPolicy::disabled())
            .with_channel(endpoint.connect_lazy())
            .with_interceptor(move |request| with_headers(request, headers.as_ref()))
            .build()
            .map_err(|error| error.to_string())?;
        let resource = Resource::builder_empty()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        exporter.set_resource(&resource.build());
        Ok(Collector { name, exporter })
    }

    pub async fn export(&self, batch: Vec<SpanData>) -> Result<(), String> {
        self.exporter.export(batch).await.map_err(|error| error.to_string())
    }
}

/// Adds the configured headers to a request. Their file is read again each time, so that a new
/// token takes effect.
fn with_headers(mut request: Request<()>, headers: Option<&Secret>) -> Result<Request<()>, Status> {
    let Some(headers) = headers else { return Ok(request) };
    let refuse = |why: String| Status::unauthenticated(format!("traces.headers_file: {why}"));
    let text = headers.read().map_err(|error| refuse(error.to_string()))?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        // The line is a secret, so that only its number is named.
        let bad = || refuse(format!("line {}: wanted \"name: value\"", number + 1));
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name: AsciiMetadataKey = name.trim().to_ascii_lowercase().parse().map_err(|_| bad())?;
        let mut value: AsciiMetadataValue = value.trim().parse().map_err(|_| bad())?;
        value.set_sensitive(true);
        request.metadata_mut().insert(name, value);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request<()>, Status> {
        with_headers(Request::new(()), Some(&Secret::Inline(text.into())))
    }

    #[test]
    fn headers_are_read_by_line() {
        let request = read("Authorization: Bearer a:b\n\n x-tenant:  home \n").unwrap();
        let header = |name: &str| request.metadata().get(name).unwrap().to_str().unwrap();
        assert_eq!(header("authorization"), "Bearer a:b");
        assert_eq!(header("x-tenant"), "home");
    }

    #[test]
    fn a_wrong_line_is_named_without_its_text() {
        for text in ["a: b\nsecret", "a: b\nsecret name: value", "a: b\nname: secr\u{e9}t\u{7f}"] {
            let error = read(text).unwrap_err().message().to_owned();
            assert_eq!(error, "traces.headers_file: line 2: wanted \"name: value\"", "{text:?}");
        }
    }
}
