//! The picture of a frame, from whichever tier holds it.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::Engine;
use crate::disk::{Read, Wanted};
use crate::frame::FrameId;
use crate::service::{Evidence, EvidenceError};
use crate::timeline::Stored;

/// How long a picture may take from the disk: more, and it hangs.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Waits for the disk where only that has the picture.
    pub fn evidence(
        &self,
        camera: &str,
        run: Option<u64>,
        number: u64,
    ) -> Result<Evidence, EvidenceError> {
        let Some((name, _)) = self.cameras.get_key_value(camera) else {
            return Err(EvidenceError::NoSuchCamera(camera.into()));
        };
        let id = FrameId { run: run.unwrap_or(self.run), number };
        let entry = self.timeline.ring(camera).and_then(|ring| ring.get(id).cloned());
        let no_such_frame = || EvidenceError::NoSuchFrame { camera: camera.into(), number };
        let entry = entry.ok_or_else(no_such_frame)?;
        let captured_at = entry.captured_at;
        if let Some(jpeg) = entry.jpeg() {
            return Ok(Evidence { jpeg: jpeg.clone(), captured_at });
        }
        let place = match entry.stored {
            Stored::At(place) => Some(place),
            Stored::Pending | Stored::No => None,
        };
        let (to, jpeg) = sync_channel(1);
        let read = Read {
            wanted: vec![Wanted { camera: name.clone(), id, place }],
            to: Box::new(move |read| drop(to.send(read.into_iter().next().flatten()))),
        };
        let asked = self.disk.as_ref().is_some_and(|disk| disk.read(read).is_ok());
        let jpeg = if asked { jpeg.recv_timeout(PATIENCE).ok().flatten() } else { None };
        match jpeg {
            Some(jpeg) => Ok(Evidence { jpeg, captured_at }),
            None => Err(EvidenceError::Unreadable { camera: camera.into(), number }),
        }
    }
}
