//! The tool that returns frames as images.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::model::ContentBlock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::arguments::{self, RangeText, event_id};
use super::text;
use super::tool::{Call, Reply, Tool};
use crate::event::{Body, Coverage, Event, EventKind, FrameReference};
use crate::frame::{FrameId, Span, rfc3339};
use crate::journal::{EventFilter, Query};
use crate::publish::frames::{self, JpegError};
use crate::publish::http::api;
use crate::publish::http::refusal::Refusal;
use crate::service::{Code, FrameSample};

/// Number of frames of a call, and the maximum that an agent can ask for.
const FRAMES: usize = 4;
const MOST_FRAMES: usize = 16;

/// Maximum number of bytes of all JPEGs of a call.
const MOST_BYTES: usize = 4 << 20;

/// Maximum number of events about the time of the frames.
const EVENTS: usize = 20;

/// Time after the end of a window within which its caption is mostly published.
const DELAY: Duration = Duration::from_secs(60);

pub struct GetFrames;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arguments {
    /// Name of the camera. Needed unless an event is given.
    camera: Option<String>,
    #[schemars(description = arguments::LAST)]
    last: Option<String>,
    #[schemars(description = arguments::FROM)]
    from: Option<String>,
    #[schemars(description = arguments::TO)]
    to: Option<String>,
    /// ID of an event: return the frames that the model saw for it, instead of those of a time.
    event: Option<String>,
    /// Maximum number of frames, spread evenly: 4 by default, at most 16.
    count: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
pub struct Frames {
    camera: String,
    /// The time of which the frames are a sample.
    window: Span,
    /// The share of that time that the frames show.
    coverage: Coverage,
    /// The frames, oldest first, in the order of the images.
    frames: Vec<Frame>,
    /// Number of frames that are not returned because they are gone, or because all images would be
    /// too large.
    left_out: usize,
    /// IDs of captions, answers and alerts about this time.
    events: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Frame {
    /// ID of the frame, `RUN.NUMBER`.
    frame: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    captured_at: SystemTime,
}

impl Tool for GetFrames {
    const NAME: &str = "get_frames";
    const TITLE: &str = "Get frames as images";
    const DESCRIPTION: &str = "Returns frames of a camera as JPEG images with their times: of a \
                               time, spread evenly, or those of an event. Without a time they are \
                               of the newest seconds.";
    type Arguments = Arguments;
    type Output = Frames;

    async fn run(call: Call, arguments: Arguments) -> Result<Reply<Frames>, Refusal> {
        let Arguments { camera, last, from, to, event, count } = arguments;
        let count = count.unwrap_or(FRAMES);
        if !(1..=MOST_FRAMES).contains(&count) {
            let why = format!("count is {count}; wanted 1 to {MOST_FRAMES}");
            return Err(Refusal::invalid("count", why));
        }
        let range = RangeText { last, from, to };
        let (camera, sample, events) = match (event, camera) {
            (Some(_), _) if range.last.is_some() || range.from.is_some() || range.to.is_some() => {
                return Err(Refusal::invalid("event", "wanted an event or a time, not both"));
            }
            (Some(event), camera) => {
                let event = api::event(call.service.journal(), event_id(&event)?).await?;
                if let Some(other) = camera.filter(|name| **name != *event.camera) {
                    let why = format!("event {} is of camera {:?}", event.id, event.camera);
                    return Err(Refusal::invalid("camera", format!("camera is {other:?}; {why}")));
                }
                (event.camera.to_string(), of_event(&event, count)?, vec![event.id.to_string()])
            }
            (None, Some(camera)) => {
                let sample = call.service.sample_frames(&camera, range.range()?, count)?;
                let events = events_about(&call, &camera, sample.window).await?;
                (camera, sample, events)
            }
            (None, None) => {
                let why = "wanted a camera or an event; list_cameras returns the cameras";
                return Err(Refusal::invalid("camera", why));
            }
        };
        let _place = call.place()?;
        let images = images(&call, &camera, &sample.frames).await?;
        let left_out = sample.frames.len() - images.len();
        if images.is_empty() {
            let why = format!("none of the {left_out} frames is stored or in the buffer any more");
            return Err(Refusal::new(Code::NotFound, "FRAME_NOT_FOUND", why));
        }
        let FrameSample { window, mut coverage, .. } = sample;
        coverage.frames_used = images.len() as u32;
        let named = |(id, captured_at, _): &Image| Frame {
            frame: frame_id(*id),
            captured_at: *captured_at,
        };
        let frames = images.iter().map(named).collect();
        let output = Frames { camera, window, coverage, frames, left_out, events };
        let mut content = vec![ContentBlock::text(summary(&output))];
        for (id, captured_at, jpeg) in images {
            let text = format!("{}, frame {}:", rfc3339::format(captured_at), frame_id(id));
            content.push(ContentBlock::text(text));
            content.push(ContentBlock::image(STANDARD.encode(jpeg), "image/jpeg"));
        }
        Ok(Reply { output, content })
    }
}

/// A frame, its time and its JPEG.
type Image = (FrameId, SystemTime, Vec<u8>);

fn frame_id(FrameId { run, number }: FrameId) -> String {
    format!("{run}.{number}")
}

/// Samples the frames of an event evenly.
fn of_event(event: &Event, count: usize) -> Result<FrameSample, Refusal> {
    let (window, coverage) = match (&event.body, event.body.inference()) {
        (Body::Alert(alert), _) => (alert.window, &alert.coverage),
        (_, Some(inference)) => (inference.window, &inference.coverage),
        (body, None) => {
            let kind = text::name(body.kind());
            let why = format!("event {} is of kind {kind}, which has no frames", event.id);
            return Err(Refusal::invalid("event", why));
        }
    };
    let frames = event.body.frames();
    let picked = count.min(frames.len());
    // The middle of each of `picked` equal parts.
    let at = |part: usize| (2 * part + 1) * frames.len() / (2 * picked);
    let frame = |FrameReference { id, captured_at, .. }: &FrameReference| (*id, *captured_at);
    let frames = (0..picked).filter_map(|part| frames.get(at(part)).map(frame)).collect();
    Ok(FrameSample { window, frames, coverage: coverage.clone() })
}

/// Returns the JPEGs that exist, as far as there is room for them.
async fn images(
    call: &Call,
    camera: &str,
    frames: &[(FrameId, SystemTime)],
) -> Result<Vec<Image>, Refusal> {
    let (mut images, mut bytes) = (Vec::new(), 0);
    for (id, captured_at) in frames {
        match frames::jpeg(&*call.service, camera, *id).await {
            Ok(Some(jpeg)) if bytes + jpeg.len() <= MOST_BYTES => {
                bytes += jpeg.len();
                images.push((*id, *captured_at, jpeg));
            }
            Ok(_) => {}
            Err(JpegError::Journal(error)) => return Err(error.into()),
            Err(JpegError::Buffer(error)) => return Err(error.into()),
        }
    }
    Ok(images)
}

/// Returns the IDs of events whose window overlaps a time.
async fn events_about(call: &Call, camera: &str, window: Span) -> Result<Vec<String>, Refusal> {
    let filter = EventFilter {
        cameras: vec![camera.to_owned()],
        kinds: vec![EventKind::Caption, EventKind::Answer, EventKind::Alert],
        since: Some(window.from),
        until: window.to.checked_add(DELAY),
    };
    let query = Query { filter, before: None, limit: EVENTS };
    let page = call.service.journal().list(query).await?;
    let overlaps = |event: &&std::sync::Arc<Event>| {
        event.body.window().is_some_and(|of| of.to > window.from && of.from < window.to)
    };
    Ok(page.events.iter().filter(overlaps).map(|event| event.id.to_string()).collect())
}

fn summary(Frames { camera, window, coverage, frames, left_out, events }: &Frames) -> String {
    let (time, coverage) = (window.clock(true), text::coverage(coverage));
    let mut line = format!("{camera}, {time} UTC: {} frames [{coverage}]", frames.len());
    if *left_out > 0 {
        line += &format!(", {left_out} left out");
    }
    if !events.is_empty() {
        line += &format!("; events about this time: {}", events.join(", "));
    }
    line
}
