//! A question whose frames have left the hot tier: read back from the disk where memory has no
//! JPEG, encoded again by the vision worker a batch at a time, and only then in the queue.
//!
//! It holds its place of the queue from the start, and frees it when its asker leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Engine;
use super::long::Look;
use crate::disk::{Jpegs, Read, Reader, Refused, Told, Wanted};
use crate::frame::FrameId;
use crate::heartbeat::Worker;
use crate::service::{AnswerItem, AskError};
use crate::slowfast::FrameTokens;
use crate::telemetry;
use crate::timeline::{Chosen, Entry, Place, Stored};

/// A place of the queue that is held before it is taken.
pub struct Seat(Arc<AtomicUsize>);

impl Seat {
    pub fn take(taken: &Arc<AtomicUsize>) -> Seat {
        taken.fetch_add(1, Ordering::Relaxed);
        Seat(taken.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A question on its way to its clip.
pub struct Recall {
    pub camera: Arc<str>,
    look: Look,
    chosen: Chosen,
    /// Of each chosen frame, where they are there.
    tokens: Vec<Option<Arc<FrameTokens>>>,
    /// What is still to be encoded: the frame's position, and its JPEG.
    jpegs: Vec<(usize, Arc<[u8]>)>,
    encode: Duration,
    /// `None`: the question holds it for longer than this look.
    seat: Option<Seat>,
}

impl Recall {
    pub fn nobody_waits(&self) -> bool {
        self.look.asked.to.is_closed()
    }

    /// Up to `most` JPEGs to encode, the oldest first; none: it has all that can be had.
    pub fn next(&mut self, most: usize) -> Vec<(usize, Arc<[u8]>)> {
        self.jpegs.drain(..most.min(self.jpegs.len())).collect()
    }

    /// These frames have been encoded, at these positions.
    pub fn encoded(&mut self, engine: &Engine, frames: Vec<(usize, FrameTokens)>, took: Duration) {
        telemetry::reencoded(&self.camera, frames.len() as u64);
        self.encode += took;
        let mut recalled = engine.recalled();
        for (at, tokens) in frames {
            let (name, bytes) = ((self.camera.clone(), self.chosen.frames[at].id), tokens.bytes());
            let tokens = Arc::new(tokens);
            recalled.put(name, tokens.clone(), bytes);
            self.tokens[at] = Some(tokens);
        }
        telemetry::recalled(recalled.bytes() as u64);
    }

    pub fn is_complete(&self) -> bool {
        self.jpegs.is_empty()
    }

    pub fn stopping(self) {
        self.fails(AskError::Stopping);
    }

    /// Ends the question without an answer, through no fault of the asker's.
    pub fn fails(self, error: AskError) {
        self.look.asked.fails(error);
    }
}

impl Engine {
    /// Begins to gather what is missing of the chosen frames' tokens.
    pub(super) fn gather(self: &Arc<Engine>, chosen: Chosen, look: Look, seat: Option<Seat>) {
        let camera = look.asked.camera.clone();
        let mut tokens = chosen.tokens();
        let missing = chosen.frames.iter().zip(&mut tokens).filter(|(_, tokens)| tokens.is_none());
        for (entry, tokens) in missing {
            *tokens = self.recalled().get(&(camera.clone(), entry.id)).cloned();
        }
        let (mut jpegs, mut places, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in chosen.frames.iter().enumerate().filter(|(at, _)| tokens[*at].is_none())
        {
            match (entry.jpeg(), entry.stored) {
                (Some(jpeg), _) => jpegs.push((at, jpeg.clone())),
                (None, stored) => {
                    let place = match stored {
                        Stored::At(place) => Some(place),
                        Stored::Pending | Stored::No => None,
                    };
                    places.push(at);
                    wanted.push(Wanted { camera: camera.clone(), id: entry.id, place });
                }
            }
        }
        let recall = Recall { camera, look, chosen, tokens, jpegs, encode: Duration::ZERO, seat };
        let Some(disk) = self.disk.as_ref().filter(|_| !wanted.is_empty()) else {
            return self.recall(recall);
        };
        let reader = Reading { engine: self.clone(), recall, places };
        // A question is refused only when the daemon stops: then as if nothing could be read.
        if let Err(Refused::Closed(read) | Refused::Full(read)) =
            disk.read(Read::question(wanted, Box::new(reader)))
        {
            read.give_up();
        }
    }

    /// To the vision worker, or where nothing has to be encoded, on to the queue.
    pub(super) fn recall(&self, recall: Recall) {
        if recall.is_complete() {
            self.gathered(recall);
        } else if let Err(recall) = self.inbox.recall(recall) {
            recall.stopping();
        }
    }

    fn gathered(&self, recall: Recall) {
        let Recall { look, chosen, tokens, encode, seat, .. } = recall;
        let Some(clip) = chosen.clip(tokens, &look.plan) else { return look.sees_nothing() };
        let to = look.asked.to.clone();
        let asked = look.at(clip, encode);
        let mut jobs = self.jobs();
        // The seat is given up for a place in the queue at once, so there is one.
        drop(seat);
        if jobs.stopping || jobs.scheduler.ask(asked).is_err() {
            let _ = to.try_send(AnswerItem::Failed(AskError::Stopping));
            return;
        }
        telemetry::queue_length(jobs.scheduler.waiting());
        drop(jobs);
        self.wake.notify_one();
    }
}

/// A question that waits for pictures from the disk.
struct Reading {
    engine: Arc<Engine>,
    recall: Recall,
    /// The frames' positions in the question.
    places: Vec<usize>,
}

impl Reader for Reading {
    fn waits(&self) -> bool {
        !self.recall.nobody_waits()
    }

    fn take(self: Box<Self>, jpegs: Jpegs) {
        let Reading { engine, mut recall, places } = *self;
        let read = places.into_iter().zip(jpegs);
        recall.jpegs.extend(read.filter_map(|(at, jpeg)| Some((at, jpeg?))));
        recall.jpegs.sort_by_key(|(at, _)| *at);
        engine.recall(recall);
    }
}

impl Told for Engine {
    fn moves(&self) {
        self.heartbeats.beat(Worker::Disk);
    }

    fn stored(&self, camera: &str, id: FrameId, place: Option<Place>) {
        self.change(camera, |ring| ring.stored(id, place));
    }

    fn segment_gone(&self, segment: u64) {
        for camera in self.cameras.keys() {
            self.change(camera, |ring| ring.segment_gone(segment));
        }
    }

    fn restored(&self, camera: &str, entries: Vec<Entry>) {
        let earlier = entries.into_iter().filter(|entry| entry.id.run < self.run).collect();
        self.change(camera, |ring| ring.restore(earlier));
    }

    fn restoring(&self, more: bool) {
        self.restoring.store(more, Ordering::Relaxed);
    }
}
