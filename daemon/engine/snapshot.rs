//! Looks up the JPEG of a frame in the tier that holds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Engine;
use crate::disk::{Jpegs, Read, Reader, Refused, Wanted};
use crate::frame::FrameId;
use crate::service::{FrameError, FrameJpeg, FrameLookup};
use crate::timeline::Stored;

/// Maximum time for reading a JPEG from the disk. A slower read counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Returns the JPEG of a frame. Waits for the disk if memory does not have it.
    pub fn frame_jpeg(&self, camera: &str, run: Option<u64>, number: u64) -> FrameLookup {
        let found = self.look_up(camera, run, number);
        let camera = camera.to_owned();
        Box::pin(async move {
            let (captured_at, jpeg) = match found? {
                Found::Here(evidence) => return Ok(evidence),
                Found::OnDisk { captured_at, jpeg } => (captured_at, jpeg),
            };
            match tokio::time::timeout(PATIENCE, jpeg).await {
                Ok(Ok(Some(jpeg))) => Ok(FrameJpeg { jpeg, captured_at }),
                // The read was too slow, the daemon is stopping, or the record is damaged.
                Err(_) | Ok(Err(_) | Ok(None)) => Err(FrameError::Unreadable { camera, number }),
            }
        })
    }

    fn look_up(&self, camera: &str, run: Option<u64>, number: u64) -> Result<Found, FrameError> {
        let Some((name, _)) = self.cameras.get_key_value(camera) else {
            return Err(FrameError::CameraNotFound(camera.into()));
        };
        let id = FrameId { run: run.unwrap_or(self.run), number };
        let entry = self.timeline.ring(camera).and_then(|ring| ring.get(id).cloned());
        let no_such_frame = || FrameError::FrameNotFound { camera: camera.into(), number };
        let entry = entry.ok_or_else(no_such_frame)?;
        let captured_at = entry.captured_at;
        if let Some(jpeg) = entry.jpeg() {
            return Ok(Found::Here(FrameJpeg { jpeg: jpeg.clone(), captured_at }));
        }
        let place = match entry.stored {
            Stored::At(place) => Some(place),
            Stored::Pending | Stored::No => None,
        };
        let unreadable = || FrameError::Unreadable { camera: camera.into(), number };
        let disk = self.disk.as_ref().ok_or_else(unreadable)?;
        let (to, jpeg) = oneshot::channel();
        let wanted = Wanted { camera: name.clone(), id, place };
        match disk.read(Read::lookup(wanted, Box::new(Asker(to)))) {
            Ok(()) => Ok(Found::OnDisk { captured_at, jpeg }),
            Err(Refused::Full(_)) => Err(FrameError::Busy),
            Err(Refused::Closed(_)) => Err(unreadable()),
        }
    }
}

enum Found {
    Here(FrameJpeg),
    OnDisk { captured_at: std::time::SystemTime, jpeg: oneshot::Receiver<Option<Arc<[u8]>>> },
}

/// Waits for one JPEG.
struct Asker(oneshot::Sender<Option<Arc<[u8]>>>);

impl Reader for Asker {
    fn waits(&self) -> bool {
        !self.0.is_closed()
    }

    fn take(self: Box<Self>, jpegs: Jpegs) {
        // A client that has gone needs no JPEG.
        let _ = self.0.send(jpegs.into_iter().next().flatten());
    }
}
