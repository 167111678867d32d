//! The tool that lists the cameras.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::summary::EventSummary;
use super::tool::{Call, Reply, Tool};
use crate::event::{Body, CameraStatus};
use crate::frame::rfc3339;
use crate::publish::http::refusal::Refusal;
use crate::service::{CameraInfo, Readiness};

pub struct ListCameras;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arguments {}

#[derive(Serialize, JsonSchema)]
pub struct Cameras {
    /// The present time of the daemon.
    #[serde(with = "rfc3339")]
    #[schemars(with = "rfc3339::Text")]
    now: SystemTime,
    cameras: Vec<Camera>,
    /// The problems of the running daemon, a sentence each.
    troubles: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
struct Camera {
    #[serde(flatten)]
    info: CameraInfo,
    /// The newest caption.
    caption: Option<EventSummary>,
}

impl Tool for ListCameras {
    const NAME: &str = "list_cameras";
    const TITLE: &str = "List the cameras";
    const DESCRIPTION: &str = "Lists the cameras: name, state, the time since which frames are \
                               kept, and the newest caption. Also returns the present time.";
    type Arguments = Arguments;
    type Output = Cameras;

    async fn run(call: Call, _: Arguments) -> Result<Reply<Cameras>, Refusal> {
        let newest = call.service.journal().newest();
        let caption = |info: &CameraInfo| {
            let is_caption = |body: &Body| matches!(body, Body::Caption(_));
            let of_camera =
                newest.iter().rev().find(|e| e.camera == info.name && is_caption(&e.body));
            of_camera.map(|event| EventSummary::of(event))
        };
        let cameras = call.service.cameras().into_iter();
        let cameras = cameras.map(|info| Camera { caption: caption(&info), info }).collect();
        let mut troubles = call.service.troubles();
        if let Readiness::NotYet(why) = call.service.readiness() {
            troubles.push(format!("questions are not answered: {why}"));
        }
        let output = Cameras { now: SystemTime::now(), cameras, troubles };
        let text = text(&output);
        Ok(Reply::new(output, text))
    }
}

fn text(Cameras { now, cameras, troubles }: &Cameras) -> String {
    let mut lines = vec![format!("It is {} now.", rfc3339::format(*now))];
    for Camera { info, caption } in cameras {
        let CameraInfo { name, status, oldest_frame_at, .. } = info;
        let CameraStatus { state, reason, .. } = status;
        let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        let frames = match oldest_frame_at {
            Some(oldest) => format!("frames since {}", rfc3339::format(*oldest)),
            None => "no frames".into(),
        };
        lines.push(format!("{name}: {}{why}, {frames}.", state.name()));
        lines.extend(
            caption.as_ref().map(|caption| format!("  newest caption: {}", caption.line())),
        );
    }
    if cameras.is_empty() {
        lines.push("No camera is configured: add a [[camera]] to the config.".into());
    }
    lines.extend(troubles.iter().map(|why| format!("Trouble: {why}.")));
    lines.join("\n")
}
