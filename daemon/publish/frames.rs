//! Looks up the JPEG of a frame: in the journal, which stores those of events, then in the buffer.

use std::time::Duration;

use crate::frame::FrameId;
use crate::journal::QueryError;
use crate::service::{FrameError, Service};

/// Number of attempts to read a frame from the disk tier while its queue is full, and the pause
/// between two of them.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The error of a look-up.
#[derive(Debug, PartialEq)]
pub enum JpegError {
    /// The buffer does not have the frame, and the journal cannot be read.
    Journal(QueryError),
    /// The disk tier has too much to read.
    Buffer(FrameError),
}

/// Returns the JPEG of a frame, or `None` if neither the journal nor the buffer has it.
pub async fn jpeg(
    service: &dyn Service,
    camera: &str,
    frame: FrameId,
) -> Result<Option<Vec<u8>>, JpegError> {
    let stored = service.journal().jpeg(camera.to_owned(), frame).await;
    if let Ok(Some(jpeg)) = stored {
        return Ok(Some(jpeg));
    }
    for _ in 0..ATTEMPTS {
        match service.frame_jpeg(camera, Some(frame.run), frame.number).await {
            Ok(frame) => return Ok(Some(frame.jpeg.to_vec())),
            Err(FrameError::Busy) => tokio::time::sleep(PAUSE).await,
            Err(_) => return stored.map_err(JpegError::Journal),
        }
    }
    Err(JpegError::Buffer(FrameError::Busy))
}
