//! Deletes the frames of a span of time from the buffer: in memory, where they are encoded again
//! from, and on disk. Conversations about that time are forgotten too.

use std::collections::HashSet;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::Engine;
use crate::disk::Erasure;
use crate::frame::Span;
use crate::service::FrameDeletion;
use crate::sync::lock;
use crate::timeline::DiskState;

impl Engine {
    /// Returns true if the frames of this time were deleted lately.
    pub fn was_deleted(&self, camera: &str, captured_at: SystemTime) -> bool {
        let camera = self.cameras.get(camera);
        camera.is_some_and(|camera| camera.ring().was_deleted(captured_at))
    }

    /// Deletes the frames that cameras took in a span. No names: those of all cameras.
    /// Returns the number of deleted frames, or the reason why some remain on disk.
    pub fn delete_frames(&self, span: Span, names: &[String]) -> FrameDeletion {
        let mut only_in_memory = 0;
        for camera in self.cameras.all() {
            if !names.is_empty() && !names.iter().any(|name| *name == *camera.name) {
                continue;
            }
            let mut deleted = Vec::new();
            self.change_ring(&camera.name, |ring| deleted = ring.delete(span));
            let on_disk = |state| matches!(state, DiskState::At(_));
            only_in_memory += deleted.iter().filter(|entry| !on_disk(entry.disk_state)).count();
            let ids: HashSet<_> = deleted.iter().map(|entry| entry.id).collect();
            self.reencoded().retain(|(of, id)| *of != camera.name || !ids.contains(id));
            lock(&self.conversations).forget_span(&camera.name, span);
        }
        let (to, erased) = oneshot::channel();
        let stopping = || "the daemon is stopping".to_owned();
        if let Some(disk) = &self.disk {
            // A client that has gone needs no result.
            let erasure = Erasure::new(span, names.to_vec(), |result| drop(to.send(result)));
            if !disk.erase(erasure) {
                return Box::pin(std::future::ready(Err(stopping())));
            }
        } else {
            drop(to.send(Ok(0)));
        }
        Box::pin(async move {
            let on_disk = erased.await.unwrap_or_else(|_| Err(stopping()))?;
            Ok(only_in_memory as u64 + on_disk)
        })
    }
}
