//! The `[traces]` table: the OpenTelemetry collector that gets traces.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::rules::{in_range, invalid};
use super::{ConfigError, Secret};

const ENDPOINTS: &str = "http://HOST:PORT or https://HOST:PORT";

/// The OpenTelemetry collector that gets traces, and what they contain.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    pub endpoint: Url,
    /// Headers that are sent with each export, one `name: value` per line.
    pub headers: Option<Secret>,
    /// PEM file of the authority that signed the collector's certificate, or `None` for the
    /// system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The share of events that are traced, 0 to 1.
    pub sample_ratio: f64,
    pub service_name: String,
    /// True if traces contain prompts and texts.
    pub has_content: bool,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesTable {
    endpoint: Option<String>,
    headers_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    sample_ratio: f64,
    service_name: String,
    content: bool,
}

impl Default for TracesTable {
    fn default() -> TracesTable {
        TracesTable {
            endpoint: None,
            headers_file: None,
            ca_file: None,
            sample_ratio: 1.0,
            service_name: "lookout".into(),
            content: false,
        }
    }
}

impl TracesTable {
    /// Checks the table. Returns `None` if it names no collector.
    pub fn check(self, base: &Path) -> Result<Option<Traces>, ConfigError> {
        let sample_ratio = in_range("traces.sample_ratio", self.sample_ratio, 0.0..=1.0)?;
        if self.service_name.trim().is_empty() {
            let found = format!("{:?}", self.service_name);
            return Err(invalid("traces.service_name", found, "a name"));
        }
        let Some(text) = self.endpoint else { return Ok(None) };
        let endpoint = endpoint(&text)?;
        if self.ca_file.is_some() && endpoint.scheme() != "https" {
            return Err(ConfigError("traces.ca_file needs an endpoint with https://".into()));
        }
        Ok(Some(Traces {
            endpoint,
            headers: self.headers_file.map(|file| Secret::File(base.join(file))),
            ca_file: self.ca_file.map(|file| base.join(file)),
            sample_ratio,
            service_name: self.service_name,
            has_content: self.content,
        }))
    }
}

fn endpoint(text: &str) -> Result<Url, ConfigError> {
    // The URL may hold a secret, so the error does not show it.
    let bad = |why: &str| {
        ConfigError(format!("traces.endpoint is not valid ({why}): wanted {ENDPOINTS}"))
    };
    let url = Url::parse(text).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it has a user; set traces.headers_file"));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(bad("it has a path"));
    }
    Ok(url)
}
