//! Looks up the JPEG that is sent with an alert.

use std::sync::Arc;

use crate::event::{Alert, Event, FrameReference};
use crate::service::Service;

/// A frame of an alert with its JPEG.
#[derive(Clone, Debug)]
pub struct Picture {
    pub frame: FrameReference,
    pub jpeg: Arc<[u8]>,
}

impl Picture {
    /// Returns the last frame of the alert's window that the model saw with many tokens, or `None`
    /// if neither the buffer nor the journal holds it.
    pub async fn of(service: &dyn Service, event: &Event, alert: &Alert) -> Option<Picture> {
        let frames = &alert.frames;
        let frame = frames.iter().rev().find(|frame| frame.slow).or(frames.last())?.clone();
        let found = service.frame_jpeg(&event.camera, Some(frame.id.run), frame.id.number).await;
        let jpeg = match found {
            Ok(found) => found.jpeg,
            Err(_) => {
                let stored = service.journal().jpeg(event.camera.to_string(), frame.id).await;
                stored.ok()??.into()
            }
        };
        Some(Picture { frame, jpeg })
    }
}
