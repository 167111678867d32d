//! Keeps a rolling buffer of each camera's frames in three tiers: tokens (hot), JPEGs (warm) and
//! frames on disk (cool).
//!
//! Guarantees: each tier is bounded. The oldest frames move to the next tier and finally leave,
//! counted. The writer never waits for a reader: frames are shared by reference, and a clip keeps
//! its own alive.

mod clip;
mod gaps;
mod lookup;
mod ring;
mod time_range;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use clip::{Clip, ClipFrame, Period, RunPosition, Selection, Tiers, select};
pub use ring::{DiskAddress, DiskState, Entry, Limits, Residency, Ring, Tier, Usage};
pub use time_range::TimeRange;

/// The rings of all cameras.
pub struct Timeline {
    rings: HashMap<Arc<str>, Mutex<Ring>>,
}

impl Timeline {
    pub fn new(cameras: impl IntoIterator<Item = Arc<str>>, limits: Limits) -> Timeline {
        let ring = |camera| (camera, Mutex::new(Ring::new(limits)));
        Timeline { rings: cameras.into_iter().map(ring).collect() }
    }

    /// Returns the ring of a camera, locked, or `None` if there is no such camera. Keep the lock
    /// only briefly.
    pub fn ring(&self, camera: &str) -> Option<MutexGuard<'_, Ring>> {
        // A ring is consistent after each of its methods, so a poisoned lock is still usable.
        Some(self.rings.get(camera)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
