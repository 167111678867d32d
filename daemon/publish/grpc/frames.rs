//! Sends the frames of an event: the JPEGs that the journal stores and, for the other frames, those
//! that the buffer still holds.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::Status;

use super::errors;
use crate::event::Event;
use crate::proto;
use crate::publish::frames::{self, JpegError};
use crate::service::Service;
use crate::wire::encode;

type Sender = mpsc::Sender<Result<proto::GetEventFramesResponse, Status>>;

/// Sends each frame of an event, the oldest first.
pub async fn send(service: Arc<dyn Service>, event: Arc<Event>, to: Sender) {
    for reference in event.body.frames() {
        let frame = Some(encode::frame_reference(reference));
        let item = match frames::jpeg(&*service, &event.camera, reference.id).await {
            Ok(jpeg) => Ok(proto::GetEventFramesResponse { frame, jpeg }),
            Err(JpegError::Journal(error)) => Err(errors::of_query(&error)),
            Err(JpegError::Buffer(error)) => Err(errors::of_frame(&error)),
        };
        let is_last = item.is_err();
        if to.send(item).await.is_err() || is_last {
            return;
        }
    }
}
