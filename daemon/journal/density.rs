//! Captions over time, counted in buckets: what a timeline of hours or days draws.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::event::{Body, Event};
use crate::frame::{Span, difference};

/// A request to count captions.
#[derive(Clone, Debug)]
pub struct DensityQuery {
    /// Names of cameras; empty means all.
    pub cameras: Vec<String>,
    /// Captions whose windows end within this span are counted.
    pub span: Span,
    /// Length of a bucket, at least a millisecond.
    pub bucket: Duration,
}

impl DensityQuery {
    /// Returns the number of the bucket that contains a time, from 0.
    pub fn bucket_of(&self, time: SystemTime) -> Option<u32> {
        let number = difference(self.span.from, time).div_euclid(self.bucket.as_nanos() as i128);
        u32::try_from(number).ok().filter(|_| self.span.contains(time))
    }
}

/// The captions of a camera whose windows end within a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub captions: u64,
    /// Span from the start of the first window to the end of the last one.
    pub covered: Span,
}

/// The buckets of each camera that are not empty, by their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Density(pub BTreeMap<String, BTreeMap<u32, Bucket>>);

impl Density {
    /// Adds captions to a bucket.
    pub fn add(&mut self, camera: &str, number: u32, added: Bucket) {
        let buckets = match self.0.get_mut(camera) {
            Some(buckets) => buckets,
            None => self.0.entry(camera.to_owned()).or_default(),
        };
        match buckets.get_mut(&number) {
            Some(bucket) => {
                bucket.captions += added.captions;
                bucket.covered.from = bucket.covered.from.min(added.covered.from);
                bucket.covered.to = bucket.covered.to.max(added.covered.to);
            }
            None => {
                buckets.insert(number, added);
            }
        }
    }

    /// Adds the captions of another count.
    pub fn merge(&mut self, other: Density) {
        for (camera, buckets) in other.0 {
            for (number, bucket) in buckets {
                self.add(&camera, number, bucket);
            }
        }
    }

    /// Adds an event, if it is a caption that the query asks about.
    pub fn add_event(&mut self, query: &DensityQuery, event: &Event) {
        let Body::Caption(caption) = &event.body else { return };
        let covered = caption.inference.window;
        let is_wanted =
            query.cameras.is_empty() || query.cameras.iter().any(|c| **c == *event.camera);
        if let Some(number) = query.bucket_of(covered.to).filter(|_| is_wanted) {
            self.add(&event.camera, number, Bucket { captions: 1, covered });
        }
    }
}
