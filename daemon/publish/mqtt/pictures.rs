//! Looks up the frame that is published with a camera's last caption.
//!
//! A lookup may wait for the disk. It belongs to no event: captions do not wait for it, and a newer
//! caption replaces it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use crate::event::{Body, Event, EventId, FrameReference};
use crate::service::Service;

/// The lookups in progress, at most one for each camera. Dropping this value cancels them.
#[derive(Default)]
pub struct Pictures {
    lookups: JoinSet<Option<Picture>>,
    newest: HashMap<Arc<str>, Lookup>,
}

pub struct Picture {
    pub camera: Arc<str>,
    pub jpeg: Arc<[u8]>,
    /// The caption that the frame belongs to.
    pub event: EventId,
}

struct Lookup {
    event: EventId,
    task: AbortHandle,
}

impl Pictures {
    /// Looks up the frame of an event, if it is a caption that shows a change.
    pub fn look_up(&mut self, service: &Arc<dyn Service>, event: &Event) {
        let Some(frame) = frame_of(&event.body) else { return };
        let (camera, event) = (event.camera.clone(), event.id);
        let found = service.frame_jpeg(&camera, Some(frame.id.run), frame.id.number);
        let task = self.lookups.spawn({
            let camera = camera.clone();
            async move {
                match found.await {
                    Ok(frame) => Some(Picture { camera, jpeg: frame.jpeg, event }),
                    Err(error) => {
                        tracing::debug!(
                            "MQTT: no picture with caption {}: {error}",
                            event.sequence
                        );
                        None
                    }
                }
            }
        });
        if let Some(older) = self.newest.insert(camera, Lookup { event, task }) {
            older.task.abort();
        }
    }

    /// Waits for the next frame that was found. Cancel safe.
    pub async fn next(&mut self) -> Picture {
        loop {
            match self.lookups.join_next().await {
                Some(Ok(Some(picture))) if self.is_newest(&picture) => return picture,
                Some(Ok(_)) => {}
                Some(Err(error)) if error.is_cancelled() => {}
                Some(Err(error)) => tracing::error!("looking up a frame failed: {error}"),
                None => std::future::pending().await,
            }
        }
    }

    fn is_newest(&self, picture: &Picture) -> bool {
        self.newest.get(&picture.camera).is_some_and(|of| of.event == picture.event)
    }
}

/// Returns the last frame of a caption that the model saw with many tokens.
fn frame_of(body: &Body) -> Option<&FrameReference> {
    let Body::Caption(caption) = body else { return None };
    if caption.unchanged.is_some() {
        return None;
    }
    let frames = &caption.inference.frames;
    frames.iter().rev().find(|frame| frame.slow).or(frames.last())
}
