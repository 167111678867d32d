//! Sends the frames of an event: the JPEGs that the journal stores and, for the other frames, those
//! that the buffer still holds.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;

use super::errors;
use crate::event::{Event, FrameReference};
use crate::proto;
use crate::service::{FrameError, Service};
use crate::wire::encode;

/// Number of attempts to read a frame from the disk tier while its queue is full, and the pause
/// between two of them.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

type Sender = mpsc::Sender<Result<proto::GetEventFramesResponse, Status>>;

/// Sends each frame of an event, the oldest first.
pub async fn send(service: Arc<dyn Service>, event: Arc<Event>, to: Sender) {
    let frames = event.body.inference().map_or(&[][..], |inference| &inference.frames);
    for reference in frames {
        let frame = Some(encode::frame_reference(reference));
        let item = match jpeg(&*service, &event.camera, reference).await {
            Ok(jpeg) => Ok(proto::GetEventFramesResponse { frame, jpeg }),
            Err(status) => Err(status),
        };
        let is_last = item.is_err();
        if to.send(item).await.is_err() || is_last {
            return;
        }
    }
}

/// Returns the JPEG of a frame, or `None` if neither the journal nor the buffer has it.
async fn jpeg(
    service: &dyn Service,
    camera: &str,
    FrameReference { id, .. }: &FrameReference,
) -> Result<Option<Vec<u8>>, Status> {
    let stored = service.journal().jpeg(camera.to_owned(), *id).await;
    if let Ok(Some(jpeg)) = stored {
        return Ok(Some(jpeg));
    }
    for _ in 0..ATTEMPTS {
        match service.frame_jpeg(camera, Some(id.run), id.number).await {
            Ok(frame) => return Ok(Some(frame.jpeg.to_vec())),
            Err(FrameError::Busy) => tokio::time::sleep(PAUSE).await,
            Err(_) => return stored.map_err(|error| errors::of_query(&error)),
        }
    }
    Err(errors::of_frame(&FrameError::Busy))
}
