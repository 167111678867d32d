//! The vision worker: every frame is encoded once, pooled at once, and put into the timeline; and
//! once more only for a question about what has left the hot tier.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::inbox::{Arrival, Work};
use super::recall::Recall;
use super::windows::{Closed, Windows};
use super::{Engine, Window};
use crate::disk::{Record, Write};
use crate::frame::{Frame, FrameId};
use crate::model::ModelError;
use crate::run_clock::Moment;
use crate::slowfast::{FrameTokens, Grid, Plan, pool_frame};
use crate::telemetry::{self, DropReason, SkipReason, Stage, Unwritten};
use crate::timeline::{Entry, Extent, Held, Ring, Stored};
use crate::vision::evidence::{Evidence, Picture};
use crate::vision::preprocess::{PictureError, Preprocess, Scratch};
use crate::vision::{BATCH, Encoder};

/// How long the worker sleeps at most when no frame comes, so that windows end all the same.
const TICK: Duration = Duration::from_millis(200);

pub struct Pictures {
    pub encoder: Encoder,
    pub preprocess: Preprocess,
    pub scratch: Scratch,
    pub evidence: Evidence,
    pub plan: Plan,
}

impl Pictures {
    /// Works until the engine stops.
    pub fn run(mut self, engine: &Engine) -> Result<(), ModelError> {
        let windows =
            |lens: &super::Lens| Windows::new(lens.period, lens.window, lens.every, lens.phase);
        let mut windows: HashMap<Arc<str>, Windows> =
            engine.cameras.iter().map(|(name, lens)| (name.clone(), windows(lens))).collect();
        let mut pixels = Vec::new();
        while let Some(work) = engine.inbox.take(BATCH, TICK) {
            match work {
                Work::Frames(arrivals) => self.look(engine, arrivals, &mut pixels, &mut windows)?,
                Work::Recall(recall) => self.look_again(engine, recall, &mut pixels)?,
            }
            let now = Instant::now();
            for (camera, windows) in &mut windows {
                if let Some(closed) = windows.tick(now) {
                    engine.close(camera, closed, now, Duration::ZERO);
                }
            }
        }
        Ok(())
    }

    /// Encodes and keeps frames. One that is no picture is dropped and counted: its camera's
    /// trouble is not the others'.
    fn look(
        &mut self,
        engine: &Engine,
        arrivals: Vec<Arrival>,
        pixels: &mut Vec<f32>,
        windows: &mut HashMap<Arc<str>, Windows>,
    ) -> Result<(), ModelError> {
        let begun = Instant::now();
        let frame_len = self.encoder.frame_len();
        let mut good = Vec::with_capacity(arrivals.len());
        pixels.clear();
        for arrival in arrivals {
            let (frame, start) = (&arrival.frame, pixels.len());
            pixels.resize(start + frame_len, 0.0);
            match self.prepare(frame, &mut pixels[start..]) {
                Ok(jpeg) => good.push((arrival, jpeg)),
                Err(error) => {
                    pixels.truncate(start);
                    telemetry::frames_dropped(&frame.camera, DropReason::Corrupt, 1);
                    engine.corrupt(frame);
                    tracing::warn!(
                        camera = &*frame.camera,
                        "frame {} dropped: {error}",
                        frame.number
                    );
                }
            }
        }
        if good.is_empty() {
            return Ok(());
        }
        let encoded = self.encode(pixels)?;
        for ((arrival, jpeg), tokens) in good.iter().zip(encoded) {
            engine.remember(&arrival.frame, tokens, jpeg.clone(), arrival.at);
        }
        let took = begun.elapsed();
        for (arrival, _) in &good {
            let frame = &arrival.frame;
            telemetry::stage(&frame.camera, Stage::Encode, took / good.len() as u32);
            let closed = windows
                .get_mut(&frame.camera)
                .and_then(|windows| windows.frame(frame.monotonic, arrival.at));
            if let Some(closed) = closed {
                engine.close(&frame.camera, closed, arrival.at, took);
            }
        }
        Ok(())
    }

    /// Encodes a batch of a question's frames from their JPEGs. One that is no picture is left out,
    /// which the answer says.
    fn look_again(
        &mut self,
        engine: &Engine,
        mut recall: Recall,
        pixels: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        if recall.nobody_waits() {
            return Ok(());
        }
        let begun = Instant::now();
        let frame_len = self.encoder.frame_len();
        let mut good = Vec::new();
        pixels.clear();
        for (at, jpeg) in recall.next(BATCH) {
            let start = pixels.len();
            pixels.resize(start + frame_len, 0.0);
            match self.prepare_again(&jpeg, &mut pixels[start..]) {
                Ok(()) => good.push(at),
                Err(error) => {
                    pixels.truncate(start);
                    tracing::warn!(camera = &*recall.camera, "a kept frame is unusable: {error}");
                }
            }
        }
        let encoded = if good.is_empty() { Vec::new() } else { self.encode(pixels)? };
        recall.encoded(engine, good.into_iter().zip(encoded).collect(), begun.elapsed());
        engine.recall(recall);
        Ok(())
    }

    /// `pixels`: `[B, 3, size, size]`; the frames' tokens, pooled.
    fn encode(&mut self, pixels: &[f32]) -> Result<Vec<FrameTokens>, ModelError> {
        let encoded = self.encoder.encode(pixels)?;
        let (tokens, dim) = (self.encoder.grid_tokens(), self.encoder.dim());
        let pool = |rows| {
            pool_frame(Grid { rows, tokens, dim }, &self.plan)
                .map_err(|e| ModelError(e.to_string()))
        };
        encoded.features.chunks_exact(tokens * dim).map(pool).collect()
    }

    fn prepare_again(&mut self, jpeg: &[u8], out: &mut [f32]) -> Result<(), PictureError> {
        let Picture { bgrx, width, height } = self.evidence.picture(jpeg)?;
        self.preprocess.pixels(&mut self.scratch, &bgrx, width, height, out)
    }

    /// Fills `out` for the model and makes the evidence.
    fn prepare(&mut self, frame: &Frame, out: &mut [f32]) -> Result<Arc<[u8]>, PictureError> {
        let Frame { bgrx, width, height, .. } = frame;
        self.preprocess.pixels(&mut self.scratch, bgrx, *width, *height, out)?;
        self.evidence.jpeg(bgrx, *width, *height)
    }
}

impl Engine {
    fn remember(&self, frame: &Frame, tokens: FrameTokens, jpeg: Arc<[u8]>, came: Instant) {
        let Frame { camera, monotonic, captured_at, clock, .. } = frame;
        let (monotonic, captured_at, clock) = (*monotonic, *captured_at, *clock);
        let id = FrameId { run: self.run, number: frame.number };
        let entry = Entry {
            id,
            monotonic,
            captured_at,
            clock,
            held: Held::Hot { tokens: Arc::new(tokens), jpeg: jpeg.clone() },
            stored: if self.disk.is_some() { Stored::Pending } else { Stored::No },
            evicted_before: false,
        };
        self.change(camera, |ring| ring.push(entry));
        // The entry first: the disk may be done with it before this thread goes on.
        if let Some(disk) = &self.disk {
            let record = Record {
                camera: camera.clone(),
                id,
                monotonic,
                captured_at,
                clock,
                missing_before: false,
            };
            if !disk.write(Write { record, jpeg }) {
                telemetry::unwritten(camera, Unwritten::Queue);
                self.change(camera, |ring| ring.stored(id, None));
            }
        }
        if let Some(lens) = self.cameras.get(camera) {
            let newest = Moment { monotonic, utc: captured_at };
            *lens.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((newest, came));
        }
    }

    /// A frame was no picture.
    fn corrupt(&self, frame: &Frame) {
        let id = FrameId { run: self.run, number: frame.number };
        self.change(&frame.camera, |ring| ring.corrupt(id));
    }

    /// Changes a camera's ring, and measures what came of it.
    pub(super) fn change(&self, camera: &str, change: impl FnOnce(&mut Ring)) {
        let Some(mut ring) = self.timeline.ring(camera) else { return };
        let before = ring.usage().evicted;
        change(&mut ring);
        let usage = ring.usage();
        drop(ring);
        telemetry::frames_evicted(camera, usage.evicted - before);
        telemetry::buffer(camera, &usage);
    }

    /// A window has closed: it wants a caption, if captions are wanted. Its UTC is that of the clock
    /// by which its newest frame was taken.
    fn close(&self, camera: &Arc<str>, window: Closed, closed: Instant, encode: Duration) {
        let Some(lens) = self.cameras.get(camera).filter(|lens| lens.prompt.is_some()) else {
            return;
        };
        let newest = *lens.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((newest, _)) = newest else { return };
        let extent = Extent::of_run(window.from, window.to, newest);
        let window = Window { extent, closed, encode };
        let since_start = closed.saturating_duration_since(self.started);
        let mut jobs = self.jobs();
        let older = jobs.scheduler.caption(camera.clone(), window, since_start, lens.freshness);
        if older.is_some() {
            self.skip(camera, SkipReason::Replaced);
        }
        telemetry::queue_length(jobs.scheduler.waiting());
        drop(jobs);
        self.wake.notify_one();
    }
}
