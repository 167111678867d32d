//! What is remembered of each camera: a rolling buffer of frames in three tiers, their tokens
//! (hot), their JPEGs (warm) and what the disk holds of them (cool).
//!
//! Each tier is bounded; the oldest move on, and leave in the end, counted. The writer never waits for a
//! reader: frames are shared by reference, and a clip keeps its own alive.

mod clip;
mod extent;
mod gaps;
mod ring;
mod section;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use clip::{Came, Chosen, Clip, Look, Period, Tiers, choose};
pub use extent::Extent;
pub use ring::{Entry, Held, Limits, Place, Ring, Stored, Tier, Usage};

/// The rings of all cameras.
pub struct Timeline {
    rings: HashMap<Arc<str>, Mutex<Ring>>,
}

impl Timeline {
    pub fn new(cameras: impl IntoIterator<Item = Arc<str>>, limits: Limits) -> Timeline {
        let ring = |camera| (camera, Mutex::new(Ring::new(limits)));
        Timeline { rings: cameras.into_iter().map(ring).collect() }
    }

    /// The ring of a camera, locked for a few lines; `None`: no such camera.
    pub fn ring(&self, camera: &str) -> Option<MutexGuard<'_, Ring>> {
        // A ring is whole after each of its methods, so a poisoned lock is still good.
        Some(self.rings.get(camera)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
