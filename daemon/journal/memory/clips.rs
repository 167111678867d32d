//! The newest clips of alerts, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::journal::QueryError;

/// Maximum bytes of all clips.
const BYTES: usize = 128 << 20;

/// Clips by the alerts' IDs, the oldest first.
#[derive(Default)]
pub struct ClipRing {
    clips: VecDeque<(Arc<str>, Bytes)>,
    bytes: usize,
}

impl ClipRing {
    /// Adds the newest clip. The oldest ones leave.
    pub fn push(&mut self, alert_id: Arc<str>, clip: Bytes) -> Result<(), QueryError> {
        if clip.len() > BYTES {
            let bytes = clip.len();
            return Err(QueryError::Unwritable(format!(
                "a clip of {bytes} bytes: a journal in memory holds {BYTES}; set journal.folder, or \
                 a shorter clip_max"
            )));
        }
        self.bytes += clip.len();
        self.clips.push_back((alert_id, clip));
        while self.bytes > BYTES
            && let Some((_, oldest)) = self.clips.pop_front()
        {
            self.bytes -= oldest.len();
        }
        Ok(())
    }

    pub fn get(&self, alert_id: &str) -> Option<&Bytes> {
        let found = self.clips.iter().find(|(id, _)| **id == *alert_id);
        found.map(|(_, clip)| clip)
    }

    pub fn remove(&mut self, alert_id: &str) {
        self.clips.retain(|(id, _)| **id != *alert_id);
        self.bytes = self.clips.iter().map(|(_, clip)| clip.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_bounded_and_the_oldest_clip_leaves() {
        let mut ring = ClipRing::default();
        for id in ["a", "b", "c"] {
            ring.push(id.into(), vec![0; BYTES / 2].into()).unwrap();
        }
        assert!(ring.get("a").is_none() && ring.get("b").is_some());
        ring.remove("b");
        assert!(ring.get("b").is_none() && ring.bytes == BYTES / 2);
        let error = ring.push("d".into(), vec![0; BYTES + 1].into()).unwrap_err();
        assert!(error.to_string().contains("set journal.folder"), "{error}");
    }
}
