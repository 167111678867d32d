//! The file of labels: spans of time of cameras in which the answer to a question is yes or no.
//!
//! ```json
//! {
//!   "least_seconds": 1.0,
//!   "labels": [
//!     {"camera": "gate", "from": "2026-03-01T14:05:00Z", "to": "2026-03-01T14:05:12Z", "value": true}
//!   ]
//! }
//! ```
//!
//! A window is true if true spans take at least `least_seconds` of it. It is false if no true span
//! reaches into it and false spans cover it. Other windows have no label.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};

use crate::frame::Span;

/// Time at the ends of a window that may have no label.
const TOLERANCE: Duration = Duration::from_millis(10);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    #[serde(default = "one_second")]
    least_seconds: f64,
    labels: Vec<Label>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    camera: String,
    #[serde(deserialize_with = "time")]
    from: SystemTime,
    #[serde(deserialize_with = "time")]
    to: SystemTime,
    value: bool,
}

/// The error of a file of labels.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct LabelsError {
    path: String,
    why: String,
}

impl Labels {
    /// Reads a file. It must have a label of the camera.
    pub fn read(path: &Path, camera: &str) -> Result<Labels, LabelsError> {
        let error = |why: String| LabelsError { path: path.display().to_string(), why };
        let text = std::fs::read_to_string(path).map_err(|why| error(why.to_string()))?;
        let labels: Labels = serde_json::from_str(&text).map_err(|why| error(why.to_string()))?;
        if !labels.labels.iter().any(|label| label.camera == camera) {
            return Err(error(format!("no label is about the camera {camera:?}")));
        }
        Ok(labels)
    }

    /// Returns the label of a camera's window, if it has one.
    pub fn truth(&self, camera: &str, window: Span) -> Option<bool> {
        let of_value = |value: bool| {
            let labels = self.labels.iter().filter(move |l| l.camera == camera && l.value == value);
            covered(window, labels.map(|label| Span { from: label.from, to: label.to }))
        };
        let is_true = of_value(true);
        if is_true >= Duration::from_secs_f64(self.least_seconds.clamp(0.001, 1e9)) {
            return Some(true);
        }
        let is_false = is_true.is_zero() && of_value(false) + TOLERANCE >= window.length();
        is_false.then_some(false)
    }
}

/// Returns how much of a window the spans cover together.
fn covered(window: Span, spans: impl Iterator<Item = Span>) -> Duration {
    let mut spans: Vec<Span> = spans.collect();
    spans.sort_by_key(|span| span.from);
    let (mut covered, mut edge) = (Duration::ZERO, window.from);
    for span in spans {
        let (from, to) = (span.from.max(edge), span.to.min(window.to));
        if let Ok(length) = to.duration_since(from) {
            covered += length;
            edge = edge.max(to);
        }
    }
    covered
}

fn one_second() -> f64 {
    1.0
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339_weak(&text).map_err(|_| {
        serde::de::Error::custom(format!("{text:?}: wanted a time such as 2026-03-01T14:05:00Z"))
    })
}
