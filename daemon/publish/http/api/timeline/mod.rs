//! The captions and gaps of a span of time, as a timeline draws them.

mod gaps;

use std::time::{Duration, SystemTime};

use axum::response::Json;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::request::{Parameters, between};
use crate::event::{Body, EventKind, Gap};
use crate::frame::Span;
use crate::journal::{DensityQuery, EventFilter, Query};
use crate::publish::http::api::caller::{Api, Viewer};
use gaps::Change;

/// Number of buckets, and the maximum that a client can ask for.
const BUCKETS: u32 = 240;
const MOST_BUCKETS: u32 = 2_000;

/// Number of the newest changes of cameras from which causes are read.
const CHANGES: usize = 5_000;

/// The parameters of a timeline.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimelineParameters {
    /// Start of the span: RFC 3339, or a duration before now such as `24h`.
    since: String,
    /// End of the span. Default: now.
    until: Option<String>,
    /// Name of a camera; may be repeated. Default: all cameras.
    #[serde(default)]
    camera: Vec<String>,
    /// Number of buckets that captions are counted in, 240 by default and at most 2000.
    buckets: Option<u32>,
}

/// A span of time of several cameras.
#[derive(Serialize, JsonSchema)]
pub struct Timeline {
    span: Span,
    bucket_seconds: f64,
    cameras: Vec<CameraTimeline>,
}

#[derive(Serialize, JsonSchema)]
pub struct CameraTimeline {
    camera: String,
    /// Number of captions whose windows end in each bucket, the oldest first.
    captions: Vec<u64>,
    /// Spans without captions, in order of time.
    gaps: Vec<TimelineGap>,
}

/// A span without captions.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct TimelineGap {
    #[serde(flatten)]
    gap: Gap,
    /// The camera's own reason. Empty if there is none.
    reason: String,
}

pub async fn timeline(
    Viewer(api): Viewer,
    Parameters(asked): Parameters<TimelineParameters>,
) -> Result<Json<Timeline>, Refusal> {
    let buckets = match asked.buckets.unwrap_or(BUCKETS) {
        buckets @ 1..=MOST_BUCKETS => buckets,
        buckets => {
            let why = format!("buckets is {buckets}; wanted 1 to {MOST_BUCKETS}");
            return Err(Refusal::invalid("buckets", why));
        }
    };
    api.service.require_cameras(&asked.camera)?;
    let ends = between(EventFilter::default(), Some(&asked.since), asked.until.as_deref())?;
    let now = SystemTime::now();
    let from = ends.since.unwrap_or(now);
    let span = Span { from, to: ends.until.unwrap_or(now) };
    let length = span.length().max(Duration::from_secs(1));
    let Some(to) = from.checked_add(length).filter(|_| span.from < span.to) else {
        return Err(Refusal::invalid("until", "until is not later than since"));
    };
    let span = Span { from, to };
    let bucket = (length / buckets).max(Duration::from_millis(1));
    let names = match asked.camera {
        names if !names.is_empty() => names,
        _ => api.service.cameras().iter().map(|camera| camera.name.to_string()).collect(),
    };
    let journal = api.service.journal();
    let query = DensityQuery { cameras: names.clone(), span, bucket };
    let density = journal.density(query).await?;
    let changes = changes(&api, to).await?;
    let camera = |name: String| {
        let of_camera = density.0.get(&name);
        let mut captions = vec![0; buckets as usize];
        for (number, bucket) in of_camera.into_iter().flatten() {
            if let Some(count) = captions.get_mut(*number as usize) {
                *count = bucket.captions;
            }
        }
        let covered: Vec<_> = of_camera.into_iter().flat_map(|buckets| buckets.values()).collect();
        let changes =
            changes.iter().filter(|(camera, _)| *camera == name).map(|(_, change)| change);
        let gaps = gaps::gaps(Span { from, to: to.min(now) }, &covered, changes);
        CameraTimeline { camera: name, captions, gaps }
    };
    let cameras = names.into_iter().map(camera).collect();
    Ok(Json(Timeline { span, bucket_seconds: bucket.as_secs_f64(), cameras }))
}

/// Returns the newest changes of the cameras' states before a time, the oldest first.
async fn changes(api: &Api, until: SystemTime) -> Result<Vec<(String, Change)>, Refusal> {
    let kinds = vec![EventKind::CameraStatus];
    let filter = EventFilter { kinds, until: Some(until), ..EventFilter::default() };
    let page = api.service.journal().list(Query { filter, before: None, limit: CHANGES }).await?;
    let change = |event: &crate::event::Event| {
        let Body::CameraStatus(status) = &event.body else { return None };
        let change = Change { run: event.id.run, at: status.since, status: status.clone() };
        Some((event.camera.to_string(), change))
    };
    Ok(page.events.iter().rev().filter_map(|event| change(event)).collect())
}
