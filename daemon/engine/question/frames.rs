//! Collects the token sets that a question, or the trial of a rule, needs. If frames have left the hot tier, their JPEGs are
//! read from memory or else from the disk, and the vision worker encodes them again in batches.
//! Only then is the question queued.
//!
//! Requests that wait for the same frame share its encoding: each takes over the tokens that
//! another one's turn has made. Each has its own JPEGs, so that one that leaves takes nothing from
//! the others.
//!
//! The question holds its place in the queue from the start, and frees it when its asker leaves. The
//! trial of a rule waits behind everything else, takes one frame at a time and leaves nothing in the
//! cache of re-encoded frames.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::Engine;
use super::pass::Pass;
use crate::disk::{DiskEvents, FrameToRead, JpegReceiver, Jpegs, ReadRefused, ReadRequest};
use crate::engine::trial_window::TrialWindow;
use crate::frame::FrameId;
use crate::heartbeat::Worker;
use crate::metrics;
use crate::service::AskError;
use crate::slowfast::FrameTokens;
use crate::timeline::{Clip, DiskAddress, DiskState, Entry, FrameData, Selection};
use crate::vision::BATCH;

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

/// The recipient of a clip that is being collected.
pub enum Recipient {
    /// A pass of a question, with its place in the queue, or `None` for a part of a question that
    /// holds it.
    Question {
        pass: Box<Pass>,
        slot: Option<QueueSlot>,
    },
    Trial(TrialWindow),
}

impl Recipient {
    fn camera(&self) -> &Arc<str> {
        match self {
            Recipient::Question { pass, .. } => &pass.question.camera,
            Recipient::Trial(window) => &window.camera,
        }
    }

    fn is_wanted(&self) -> bool {
        match self {
            Recipient::Question { pass, .. } => pass.is_wanted(),
            Recipient::Trial(window) => window.is_wanted(),
        }
    }

    fn fail(self, error: AskError) {
        match self {
            Recipient::Question { pass, .. } => pass.fail(error),
            Recipient::Trial(window) => window.fail(error),
        }
    }
}

/// A clip that is being collected.
pub struct FrameFetch {
    pub camera: Arc<str>,
    recipient: Recipient,
    selection: Selection,
    /// The data of each selected frame, as far as it is available.
    data: Vec<FrameData>,
    /// The frames that are still to be encoded: position and JPEG.
    jpegs: Vec<(usize, Arc<[u8]>)>,
    encode: Duration,
}

impl FrameFetch {
    /// Returns true while somebody still waits for the result.
    pub fn is_wanted(&self) -> bool {
        self.recipient.is_wanted()
    }

    /// Returns the next JPEGs to encode together, the oldest first. Empty if no more are available.
    pub fn next(&mut self) -> Vec<(usize, Arc<[u8]>)> {
        let most = match self.recipient {
            Recipient::Question { .. } => BATCH,
            Recipient::Trial(_) => 1,
        };
        self.jpegs.drain(..most.min(self.jpegs.len())).collect()
    }

    /// Stores the tokens of frames that have been encoded, with their positions. Returns the data of
    /// these frames.
    pub fn encoded(
        &mut self,
        engine: &Engine,
        frames: Vec<(usize, FrameTokens)>,
        took: Duration,
    ) -> HashMap<FrameId, FrameData> {
        metrics::frames_reencoded(&self.camera, frames.len() as u64);
        self.encode += took;
        let mut encoded = HashMap::with_capacity(frames.len());
        let mut reencoded = engine.reencoded();
        for (at, tokens) in frames {
            let Entry { id, captured_at, .. } = self.selection.frames[at];
            let name = (self.camera.clone(), id);
            let data = &mut self.data[at];
            let bytes = tokens.bytes() + data.jpeg.as_ref().map_or(0, |jpeg| jpeg.len());
            data.tokens = Some(Arc::new(tokens));
            encoded.insert(id, data.clone());
            let is_shared = matches!(self.recipient, Recipient::Question { .. });
            if is_shared && !engine.was_deleted(&self.camera, captured_at) {
                reencoded.put(name, data.clone(), bytes);
            }
        }
        metrics::reencode_cache(reencoded.bytes() as u64);
        encoded
    }

    /// Takes over the data of the frames that are still to be encoded and that `known` returns.
    fn take_over(&mut self, mut known: impl FnMut(FrameId) -> Option<FrameData>) {
        let FrameFetch { selection, data, jpegs, .. } = self;
        jpegs.retain(|(at, _)| match known(selection.frames[*at].id) {
            Some(known) => {
                data[*at] = known;
                false
            }
            None => true,
        });
    }

    /// Takes over the frames that have been encoded for other questions since this one came.
    pub fn take_over_from_cache(&mut self, engine: &Engine) {
        if matches!(self.recipient, Recipient::Question { .. }) {
            let (camera, mut reencoded) = (self.camera.clone(), engine.reencoded());
            self.take_over(|id| reencoded.get(&(camera.clone(), id)).cloned());
        }
    }

    pub fn is_complete(&self) -> bool {
        self.jpegs.is_empty()
    }

    /// Ends the question or the trial with an error that its client did not cause.
    pub fn fail(self, error: AskError) {
        self.recipient.fail(error);
    }
}

impl Engine {
    /// Starts collecting the missing tokens of the selected frames.
    pub(in crate::engine) fn fetch_frames(
        self: &Arc<Engine>,
        selection: Selection,
        recipient: Recipient,
    ) {
        let camera = recipient.camera().clone();
        let mut data = selection.data();
        let missing =
            selection.frames.iter().zip(&mut data).filter(|(_, data)| data.tokens.is_none());
        for (entry, data) in missing {
            let known = match &recipient {
                Recipient::Question { .. } => {
                    self.reencoded().get(&(camera.clone(), entry.id)).cloned()
                }
                Recipient::Trial(window) => window.known.get(&entry.id).cloned(),
            };
            if let Some(known) = known {
                *data = known;
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
            recipient,
            selection,
            data,
            jpegs,
            encode: Duration::ZERO,
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
    pub(in crate::engine) fn proceed(&self, mut fetch: Box<FrameFetch>) {
        fetch.take_over_from_cache(self);
        if fetch.is_complete() {
            return self.queue(*fetch);
        }
        let refused = self.inbox.change(|inbox| match fetch.recipient {
            Recipient::Question { .. } => inbox.reencode(fetch),
            Recipient::Trial(_) => inbox.reencode_in_background(fetch),
        });
        if let Err(fetch) = refused {
            fetch.fail(AskError::Stopping);
        }
    }

    /// Gives the data of frames that have just been encoded to the waiting requests for the same
    /// frames. The requests that are then complete wait no longer.
    pub(in crate::engine) fn share(&self, camera: &str, encoded: &HashMap<FrameId, FrameData>) {
        let complete = self.inbox.change(|inbox| {
            for fetch in inbox.requests().filter(|fetch| *fetch.camera == *camera) {
                fetch.take_over(|id| encoded.get(&id).cloned());
            }
            inbox.extract(|fetch| fetch.is_complete())
        });
        for fetch in complete {
            self.queue(*fetch);
        }
    }

    fn queue(&self, fetch: FrameFetch) {
        let FrameFetch { camera, recipient, selection, data, encode, .. } = fetch;
        if self.cameras.get(&camera).is_none() {
            return recipient.fail(AskError::CameraNotFound(camera.to_string()));
        }
        match recipient {
            Recipient::Question { pass, slot } => {
                self.queue_question(pass, slot, selection, data, encode);
            }
            Recipient::Trial(window) => match selection.clip(data, &self.plan) {
                Some(clip) => self.queue_trial(window, clip),
                None => window.fail_without_frames(),
            },
        }
    }

    fn queue_trial(&self, window: TrialWindow, clip: Clip) {
        let mut jobs = self.jobs();
        if jobs.stopping {
            return window.fail(AskError::Stopping);
        }
        jobs.add_trial(window, clip);
        metrics::waiting_jobs(jobs.scheduler.waiting());
        drop(jobs);
        self.wake.notify_one();
    }

    fn queue_question(
        &self,
        pass: Box<Pass>,
        slot: Option<QueueSlot>,
        selection: Selection,
        data: Vec<FrameData>,
        encode: Duration,
    ) {
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

/// A clip that waits for JPEGs from the disk.
struct Reading {
    engine: Arc<Engine>,
    fetch: Box<FrameFetch>,
    /// The frames' positions in the clip.
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
