//! Collects the token sets that a question needs. If frames have left the hot tier, their JPEGs are
//! read from memory or else from the disk, and the vision worker encodes them again in batches.
//! Only then is the question queued.
//!
//! The question holds its place in the queue from the start, and frees it when its asker leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::Engine;
use super::pass::Pass;
use crate::disk::{DiskEvents, FrameToRead, JpegReceiver, Jpegs, ReadRefused, ReadRequest};
use crate::frame::FrameId;
use crate::heartbeat::Worker;
use crate::metrics;
use crate::service::AskError;
use crate::slowfast::FrameTokens;
use crate::timeline::{DiskAddress, DiskState, Entry, FrameData, Selection};

/// A place in the queue that is reserved before it is used.
pub struct QueueSlot(Arc<AtomicUsize>);

impl QueueSlot {
    pub fn take(taken: &Arc<AtomicUsize>) -> QueueSlot {
        taken.fetch_add(1, Ordering::Relaxed);
        QueueSlot(taken.clone())
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A question whose clip is being collected.
pub struct FrameFetch {
    pub camera: Arc<str>,
    pass: Pass,
    selection: Selection,
    /// The data of each selected frame, as far as it is available.
    data: Vec<FrameData>,
    /// The frames that are still to be encoded: position and JPEG.
    jpegs: Vec<(usize, Arc<[u8]>)>,
    encode: Duration,
    /// The place in the queue, or `None` for a part of a question that holds it.
    slot: Option<QueueSlot>,
}

impl FrameFetch {
    /// Returns true while the asker still waits.
    pub fn is_wanted(&self) -> bool {
        self.pass.is_wanted()
    }

    /// Returns at most `most` JPEGs to encode, the oldest first. Empty if no more are available.
    pub fn next(&mut self, most: usize) -> Vec<(usize, Arc<[u8]>)> {
        self.jpegs.drain(..most.min(self.jpegs.len())).collect()
    }

    /// Stores the tokens of frames that have been encoded, with their positions.
    pub fn encoded(&mut self, engine: &Engine, frames: Vec<(usize, FrameTokens)>, took: Duration) {
        metrics::frames_reencoded(&self.camera, frames.len() as u64);
        self.encode += took;
        let mut reencoded = engine.reencoded();
        for (at, tokens) in frames {
            let name = (self.camera.clone(), self.selection.frames[at].id);
            let data = &mut self.data[at];
            let bytes = tokens.bytes() + data.jpeg.as_ref().map_or(0, |jpeg| jpeg.len());
            data.tokens = Some(Arc::new(tokens));
            reencoded.put(name, data.clone(), bytes);
        }
        metrics::reencode_cache(reencoded.bytes() as u64);
    }

    pub fn is_complete(&self) -> bool {
        self.jpegs.is_empty()
    }

    /// Ends the question with an error that the asker did not cause.
    pub fn fail(self, error: AskError) {
        self.pass.fail(error);
    }
}

impl Engine {
    /// Starts collecting the missing tokens of the selected frames.
    pub(super) fn fetch_frames(
        self: &Arc<Engine>,
        selection: Selection,
        pass: Pass,
        slot: Option<QueueSlot>,
    ) {
        let camera = pass.question.camera.clone();
        let mut data = selection.data();
        let missing =
            selection.frames.iter().zip(&mut data).filter(|(_, data)| data.tokens.is_none());
        for (entry, data) in missing {
            if let Some(known) = self.reencoded().get(&(camera.clone(), entry.id)) {
                *data = known.clone();
            }
        }
        let (mut jpegs, mut places, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in
            selection.frames.iter().enumerate().filter(|(at, _)| data[*at].tokens.is_none())
        {
            match (entry.jpeg(), entry.disk_state) {
                (Some(jpeg), _) => jpegs.push((at, jpeg.clone())),
                (None, stored) => {
                    let address = match stored {
                        DiskState::At(address) => Some(address),
                        DiskState::Pending | DiskState::Absent => None,
                    };
                    places.push(at);
                    wanted.push(FrameToRead { camera: camera.clone(), id: entry.id, address });
                }
            }
        }
        let fetch = Box::new(FrameFetch {
            camera,
            pass,
            selection,
            data,
            jpegs,
            encode: Duration::ZERO,
            slot,
        });
        let Some(disk) = self.disk.as_ref().filter(|_| !wanted.is_empty()) else {
            return self.proceed(fetch);
        };
        let reader = Reading { engine: self.clone(), fetch, places };
        // A question's read is refused only while the daemon stops. It then continues as if no
        // frame could be read.
        if let Err(ReadRefused::Closed(read) | ReadRefused::Full(read)) =
            disk.read(ReadRequest::question(wanted, Box::new(reader)))
        {
            read.give_up();
        }
    }

    /// Passes the question to the vision worker, or to the queue if nothing has to be encoded.
    pub(in crate::engine) fn proceed(&self, fetch: Box<FrameFetch>) {
        if fetch.is_complete() {
            self.queue(*fetch);
        } else if let Err(fetch) = self.inbox.change(|inbox| inbox.reencode(fetch)) {
            fetch.fail(AskError::Stopping);
        }
    }

    fn queue(&self, fetch: FrameFetch) {
        let FrameFetch { pass, selection, data, encode, slot, .. } = fetch;
        if self.cameras.get(&pass.question.camera).is_none() {
            let error = AskError::CameraNotFound(pass.question.camera.to_string());
            return pass.fail(error);
        }
        let Some(clip) = selection.clip(data, &pass.plan) else {
            return pass.fail_without_frames();
        };
        let asked = pass.with_clip(clip, encode);
        let mut jobs = self.jobs();
        // The reserved place is exchanged for one in the queue under the same lock, so there is
        // room.
        drop(slot);
        if jobs.stopping {
            return asked.fail(AskError::Stopping);
        }
        if let Err(asked) = jobs.ask(asked) {
            return asked.fail(AskError::Stopping);
        }
        metrics::waiting_jobs(jobs.scheduler.waiting());
        drop(jobs);
        self.wake.notify_one();
    }
}

/// A question that waits for JPEGs from the disk.
struct Reading {
    engine: Arc<Engine>,
    fetch: Box<FrameFetch>,
    /// The frames' positions in the question.
    places: Vec<usize>,
}

impl JpegReceiver for Reading {
    fn wants_jpegs(&self) -> bool {
        self.fetch.is_wanted()
    }

    fn receive(self: Box<Self>, jpegs: Jpegs) {
        let Reading { engine, mut fetch, places } = *self;
        for (at, jpeg) in places.into_iter().zip(jpegs) {
            let Some(jpeg) = jpeg else { continue };
            fetch.data[at].jpeg = Some(jpeg.clone());
            fetch.jpegs.push((at, jpeg));
        }
        fetch.jpegs.sort_by_key(|(at, _)| *at);
        engine.proceed(fetch);
    }
}

impl DiskEvents for Engine {
    fn progressed(&self) {
        self.heartbeats.beat(Worker::Disk);
    }

    fn stored(&self, camera: &str, id: FrameId, address: Option<DiskAddress>) {
        self.change_ring(camera, |ring| ring.stored(id, address));
    }

    fn segment_gone(&self, segment: u64) {
        for camera in self.cameras.all() {
            self.change_ring(&camera.name, |ring| ring.segment_gone(segment));
        }
    }

    fn restored(&self, camera: &str, entries: Vec<Entry>) {
        let earlier = entries.into_iter().filter(|entry| entry.id.run < self.run).collect();
        self.change_ring(camera, |ring| ring.restore(earlier));
    }

    fn restoring(&self, more: bool) {
        self.restoring.store(more, Ordering::Relaxed);
    }
}
