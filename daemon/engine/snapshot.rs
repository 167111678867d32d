//! Looks up the JPEG of a frame in the tier that holds it, and samples the frames of a range.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Engine;
use super::question::no_frames;
use crate::disk::{FrameToRead, JpegReceiver, Jpegs, ReadRefused, ReadRequest};
use crate::frame::FrameId;
use crate::question::Range;
use crate::service::{AskError, FrameError, FrameJpeg, FrameLookup, FrameSample};
use crate::slowfast::Plan;
use crate::timeline::{DiskState, Entry, Tiers};

/// Maximum time for reading a JPEG from the disk. A slower read counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Returns the JPEG of a frame. Waits for the disk if memory does not have it.
    pub fn frame_jpeg(&self, camera: &str, run: Option<u64>, number: u64) -> FrameLookup {
        let found = self.look_up(camera, run, number);
        let camera = camera.to_owned();
        Box::pin(async move {
            let (captured_at, jpeg) = match found? {
                Found::Here(frame) => return Ok(frame),
                Found::OnDisk { captured_at, jpeg } => (captured_at, jpeg),
            };
            match tokio::time::timeout(PATIENCE, jpeg).await {
                Ok(Ok(Some(jpeg))) => Ok(FrameJpeg { jpeg, captured_at }),
                // The read was too slow, the daemon is stopping, or the record is damaged.
                Err(_) | Ok(Err(_) | Ok(None)) => Err(FrameError::Unreadable { camera, number }),
            }
        })
    }

    /// Samples a range evenly: returns at most `most` of its frames, at least one.
    pub fn sample_frames(
        &self,
        name: &str,
        range: Range,
        most: usize,
    ) -> Result<FrameSample, AskError> {
        let camera = self.cameras.get(name);
        let camera = camera.ok_or_else(|| AskError::CameraNotFound(name.to_owned()))?;
        let range = self.time_range(&camera, range)?;
        self.is_restored(&camera, range.span)?;
        let plan = Plan { frames: most.max(1), ..self.plan };
        let selection = self.select_by(&plan, &camera, range, Tiers::All);
        let selection = selection.ok_or_else(|| no_frames(&camera, range.span))?;
        let coverage = selection.coverage();
        let frame = |entry: &Entry| (entry.id, entry.captured_at);
        let frames = selection.frames.iter().map(frame).collect();
        Ok(FrameSample { window: range.span, frames, coverage })
    }

    fn look_up(&self, camera: &str, run: Option<u64>, number: u64) -> Result<Found, FrameError> {
        let Some(known) = self.cameras.get(camera) else {
            return Err(FrameError::CameraNotFound(camera.into()));
        };
        let id = FrameId { run: run.unwrap_or(self.run), number };
        let entry = known.ring().get(id).cloned();
        let no_such_frame = || FrameError::FrameNotFound { camera: camera.into(), number };
        let entry = entry.ok_or_else(no_such_frame)?;
        let captured_at = entry.captured_at;
        if let Some(jpeg) = entry.jpeg() {
            return Ok(Found::Here(FrameJpeg { jpeg: jpeg.clone(), captured_at }));
        }
        let address = match entry.disk_state {
            DiskState::At(address) => Some(address),
            DiskState::Pending | DiskState::Absent => None,
        };
        let unreadable = || FrameError::Unreadable { camera: camera.into(), number };
        let disk = self.disk.as_ref().ok_or_else(unreadable)?;
        let (to, jpeg) = oneshot::channel();
        let wanted = FrameToRead { camera: known.name.clone(), id, address };
        match disk.read(ReadRequest::lookup(wanted, Box::new(Asker(to)))) {
            Ok(()) => Ok(Found::OnDisk { captured_at, jpeg }),
            Err(ReadRefused::Full(_)) => Err(FrameError::Busy),
            Err(ReadRefused::Closed(_)) => Err(unreadable()),
        }
    }
}

enum Found {
    Here(FrameJpeg),
    OnDisk { captured_at: std::time::SystemTime, jpeg: oneshot::Receiver<Option<Arc<[u8]>>> },
}

/// Waits for one JPEG.
struct Asker(oneshot::Sender<Option<Arc<[u8]>>>);

impl JpegReceiver for Asker {
    fn wants_jpegs(&self) -> bool {
        !self.0.is_closed()
    }

    fn receive(self: Box<Self>, jpegs: Jpegs) {
        // A client that has gone needs no JPEG.
        let _ = self.0.send(jpegs.into_iter().next().flatten());
    }
}
