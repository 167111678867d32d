//! Runs the vision worker. It encodes and pools every frame once and adds it to the timeline. A
//! frame is encoded again only for a question or the trial of a rule, if its tokens have left the hot
//! tier.
//!
//! Without a vision model, a frame gets a JPEG and no tokens.
//!
//! A frame on which the model fails is dropped and counted, like a corrupt one; the next frame may
//! succeed. If none succeeds for a while, the worker ends with an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::caption::windows::Closed;
use super::failures::Failures;
use super::inbox::{Arrival, Inbox, Work};
use super::job::{Job, RulesOfWindow, Window};
use super::question::frames::FrameFetch;
use crate::disk::{Record, WriteRequest};
use crate::frame::{Frame, FrameId};
use crate::heartbeat::Worker;
use crate::metrics::{self, BufferTier, DropReason, FailureKind, NotWritten, SkipReason, Stage};
use crate::model::ModelError;
use crate::run_clock::Moment;
use crate::service::AskError;
use crate::slowfast::{FrameTokens, Grid, Plan, pool_frame};
use crate::timeline::{DiskState, Entry, Residency, Ring, TimeRange};
use crate::vision::jpeg::{BgrxImage, JpegCodec};
use crate::vision::preprocess::{ImageError, Preprocess, Scratch};
use crate::vision::{BATCH, Encoder, VisionBackend};

/// Maximum time that the worker sleeps if no frame arrives, so that windows close anyway.
const TICK: Duration = Duration::from_millis(200);

/// Interval at which rules are checked for having seen nothing for a long time.
const RULES_CHECKED_EVERY: Duration = Duration::from_secs(1);

pub struct VisionWorker<B = Encoder> {
    /// The vision model, or `None` if frames have no tokens.
    pub model: Option<VisionModel<B>>,
    pub jpeg_codec: JpegCodec,
    pub failures: Failures,
}

/// A vision model, with what comes before and after it.
pub struct VisionModel<B = Encoder> {
    pub backend: B,
    pub preprocess: Preprocess,
    pub scratch: Scratch,
    pub plan: Plan,
}

/// The error for a frame whose features are not finite or too large for f16.
const NOT_FINITE: &str = "the model's features are not finite";

impl<B: VisionBackend> VisionWorker<B> {
    /// Runs until the engine stops or the model is broken.
    pub fn run(mut self, engine: &Engine) -> Result<(), ModelError> {
        let mut pixels = Vec::new();
        let mut rules_checked = Instant::now();
        while let Some(work) = engine.next_work() {
            engine.heartbeats.beat(Worker::Vision);
            match work {
                Work::Frames(arrivals) => self.encode_new(engine, arrivals, &mut pixels)?,
                Work::Reencode(fetch) => self.encode_again(engine, fetch, &mut pixels)?,
            }
            let now = Instant::now();
            for camera in engine.cameras.all().iter().filter(|camera| !camera.settings.is_paused) {
                let closed = camera.windows().tick(now);
                if let Some(closed) = closed {
                    engine.close(&camera.name, closed, now, Duration::ZERO);
                }
            }
            if now.duration_since(rules_checked) >= RULES_CHECKED_EVERY {
                rules_checked = now;
                engine.rules.tick();
            }
        }
        Ok(())
    }

    /// Encodes and stores frames. A corrupt frame is dropped and counted; it does not affect other
    /// cameras.
    fn encode_new(
        &mut self,
        engine: &Engine,
        arrivals: Vec<Arrival>,
        pixels: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let begun = Instant::now();
        let frame_len = self.frame_len();
        let mut good = Vec::with_capacity(arrivals.len());
        pixels.clear();
        for mut arrival in arrivals {
            let start = pixels.len();
            pixels.resize(start + frame_len, 0.0);
            match self.prepare(&arrival.frame, &mut pixels[start..]) {
                Ok(jpeg) => {
                    // The full-size frame is large and no longer needed.
                    arrival.frame.bgrx = Default::default();
                    good.push((arrival, jpeg));
                }
                Err(error) => {
                    pixels.truncate(start);
                    engine.unusable(&arrival.frame, DropReason::Corrupt, &error);
                }
            }
        }
        if good.is_empty() {
            return Ok(());
        }
        let encoded = match self.encode(pixels, good.len()) {
            Ok(encoded) => encoded,
            Err(error) => {
                for (arrival, _) in &good {
                    metrics::model_failed("vision", FailureKind::Run);
                    engine.unusable(&arrival.frame, DropReason::Failed, &error);
                }
                return self.failures.failed(Instant::now(), &error);
            }
        };
        let goes_on = self.judge(&encoded);
        let mut kept = Vec::with_capacity(good.len());
        for ((arrival, jpeg), tokens) in good.into_iter().zip(encoded) {
            match tokens {
                Some(tokens) => {
                    engine.store(&arrival.frame, tokens, jpeg, arrival.at);
                    kept.push(arrival);
                }
                None => engine.unusable(&arrival.frame, DropReason::NotFinite, &NOT_FINITE),
            }
        }
        let took = begun.elapsed();
        for arrival in &kept {
            let frame = &arrival.frame;
            metrics::stage(&frame.camera, Stage::Encode, took / kept.len() as u32);
            let Some(camera) = engine.cameras.get(&frame.camera) else { continue };
            if camera.settings.is_paused {
                continue;
            }
            let closed = camera.windows().frame(frame.monotonic, arrival.at);
            if let Some(closed) = closed {
                engine.close(&frame.camera, closed, arrival.at, took);
            }
        }
        goes_on
    }

    /// Encodes a batch of a question's frames from their JPEGs. A corrupt one is left out, and the
    /// answer reports the gap.
    fn encode_again(
        &mut self,
        engine: &Engine,
        mut fetch: Box<FrameFetch>,
        pixels: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        if !fetch.is_wanted() {
            return Ok(());
        }
        fetch.take_over_from_cache(engine);
        let begun = Instant::now();
        let frame_len = self.frame_len();
        let mut good = Vec::new();
        pixels.clear();
        for (at, jpeg) in fetch.next() {
            let start = pixels.len();
            pixels.resize(start + frame_len, 0.0);
            match self.prepare_again(&jpeg, &mut pixels[start..]) {
                Ok(()) => good.push(at),
                Err(error) => {
                    pixels.truncate(start);
                    tracing::warn!(
                        camera = &*fetch.camera,
                        "a stored frame cannot be used: {error}"
                    );
                }
            }
        }
        let encoded =
            if good.is_empty() { Ok(Vec::new()) } else { self.encode(pixels, good.len()) };
        let encoded = match encoded {
            Ok(encoded) => encoded,
            Err(error) => {
                metrics::model_failed("vision", FailureKind::Run);
                tracing::warn!(camera = &*fetch.camera, "no answer: {error}");
                fetch.fail(AskError::ModelFailedTemporarily(error.to_string()));
                return self.failures.failed(Instant::now(), &error);
            }
        };
        let goes_on = self.judge(&encoded);
        let finite = good.into_iter().zip(encoded).filter_map(|(at, tokens)| Some((at, tokens?)));
        let encoded = fetch.encoded(engine, finite.collect(), begun.elapsed());
        engine.share(&fetch.camera, &encoded);
        engine.proceed(fetch);
        goes_on
    }

    /// Returns the number of values in one frame's pixels.
    fn frame_len(&self) -> usize {
        self.model.as_ref().map_or(0, |model| model.backend.frame_len())
    }

    /// Encodes the pixels of this number of frames, and pools each frame's features. A frame whose
    /// features are not finite becomes `None`.
    fn encode(
        &mut self,
        pixels: &[f32],
        frames: usize,
    ) -> Result<Vec<Option<FrameTokens>>, ModelError> {
        match &mut self.model {
            Some(model) => model.encode(pixels),
            None => Ok(vec![Some(FrameTokens::default()); frames]),
        }
    }

    /// Counts frames whose features are not finite. Returns an error if there were no others for a
    /// while.
    fn judge(&mut self, encoded: &[Option<FrameTokens>]) -> Result<(), ModelError> {
        let wrong = encoded.iter().filter(|tokens| tokens.is_none()).count();
        (0..wrong).for_each(|_| metrics::model_failed("vision", FailureKind::NotFinite));
        if wrong < encoded.len() {
            self.failures.worked();
        } else if wrong > 0 {
            return self.failures.failed(Instant::now(), &NOT_FINITE);
        }
        Ok(())
    }

    fn prepare_again(&mut self, jpeg: &[u8], out: &mut [f32]) -> Result<(), ImageError> {
        // Without a model, this finds a JPEG that is corrupt.
        let BgrxImage { bgrx, width, height } = self.jpeg_codec.decode(jpeg)?;
        self.pixels(&bgrx, width, height, out)
    }

    /// Fills `out` with the model's input and returns the JPEG.
    fn prepare(&mut self, frame: &Frame, out: &mut [f32]) -> Result<Arc<[u8]>, ImageError> {
        let Frame { bgrx, width, height, .. } = frame;
        self.pixels(bgrx, *width, *height, out)?;
        self.jpeg_codec.encode(bgrx, *width, *height)
    }

    fn pixels(
        &mut self,
        bgrx: &[u8],
        width: u32,
        height: u32,
        out: &mut [f32],
    ) -> Result<(), ImageError> {
        let Some(VisionModel { preprocess, scratch, .. }) = &mut self.model else { return Ok(()) };
        preprocess.pixels(scratch, bgrx, width, height, out)
    }
}

impl<B: VisionBackend> VisionModel<B> {
    /// Encodes `pixels`, `[B, 3, size, size]`, and pools each frame's features. A frame whose
    /// features are not finite becomes `None`.
    fn encode(&mut self, pixels: &[f32]) -> Result<Vec<Option<FrameTokens>>, ModelError> {
        let encoded = self.backend.encode(pixels)?;
        let (tokens, dim) = (self.backend.grid_tokens(), self.backend.dim());
        let pool = |rows: &[f32]| {
            let pooled = pool_frame(Grid { rows, tokens, dim }, &self.plan)
                .map_err(|e| ModelError(e.to_string()))?;
            // Both are checked, because pooling by the maximum can hide a value that is not finite.
            let finite = rows.iter().all(|number| number.is_finite()) && pooled.is_finite();
            Ok(finite.then_some(pooled))
        };
        encoded.features.chunks_exact(tokens * dim).map(pool).collect()
    }
}

impl Engine {
    /// Waits briefly for work. Returns `None` if the engine stops.
    fn next_work(&self) -> Option<Work<Box<FrameFetch>>> {
        self.inbox.wait(TICK, Inbox::is_ready).take(BATCH)
    }

    pub(super) fn store(
        &self,
        frame: &Frame,
        tokens: FrameTokens,
        jpeg: Arc<[u8]>,
        arrived: Instant,
    ) {
        let Frame { camera, monotonic, captured_at, clock, .. } = frame;
        let Some(known) = self.cameras.get(camera) else { return };
        let (monotonic, captured_at, clock) = (*monotonic, *captured_at, *clock);
        let id = FrameId { run: self.run, number: frame.number };
        let entry = Entry {
            id,
            monotonic,
            captured_at,
            clock,
            residency: Residency::Hot { tokens: Arc::new(tokens), jpeg: jpeg.clone() },
            disk_state: if self.disk.is_some() { DiskState::Pending } else { DiskState::Absent },
            left_before: None,
        };
        let mut is_held = false;
        self.change_ring(camera, |ring| is_held = ring.push(entry));
        if !is_held {
            return;
        }
        // The entry is added first, because the disk may finish before this thread continues.
        if let Some(disk) = &self.disk {
            let record = Record {
                camera: camera.clone(),
                id,
                monotonic,
                captured_at,
                clock,
                missing_before: false,
                deleted: false,
            };
            if !disk.write(WriteRequest { record, jpeg }) {
                metrics::frame_not_written(camera, NotWritten::Queue);
                self.change_ring(camera, |ring| ring.stored(id, None));
            }
        }
        let newest = Moment { monotonic, utc: captured_at };
        known.progress.set_newest(newest, arrived);
    }

    /// Drops a frame that arrived but cannot be used.
    fn unusable(&self, frame: &Frame, reason: DropReason, why: &dyn std::fmt::Display) {
        metrics::frames_dropped(&frame.camera, reason, 1);
        tracing::warn!(camera = &*frame.camera, "frame {} dropped: {why}", frame.number);
        let id = FrameId { run: self.run, number: frame.number };
        self.change_ring(&frame.camera, |ring| ring.corrupt(id));
    }

    /// Changes a camera's ring and updates the metrics.
    pub(super) fn change_ring(&self, camera: &str, change: impl FnOnce(&mut Ring)) {
        let Some(known) = self.cameras.get(camera) else { return };
        let mut ring = known.ring();
        let before = ring.usage().evicted;
        change(&mut ring);
        let usage = ring.usage();
        drop(ring);
        metrics::frames_evicted(camera, usage.evicted - before);
        for (tier, contents) in [
            (BufferTier::Hot, usage.hot),
            (BufferTier::Warm, usage.warm),
            (BufferTier::Disk, usage.disk),
        ] {
            metrics::buffer_tier(camera, tier, contents.frames, contents.bytes);
        }
        metrics::buffer_tokens(camera, usage.token_bytes);
    }

    /// Queues the jobs about a closed window: the scores of the rules that are due, and the caption,
    /// if the camera has captions. The window's UTC follows the clock of its newest frame.
    pub(super) fn close(
        &self,
        camera: &Arc<str>,
        window: Closed,
        closed: Instant,
        encode: Duration,
    ) {
        let Some(known) = self.cameras.get(camera) else { return };
        let Some(newest) = known.progress.newest() else { return };
        let range = TimeRange::in_run(window.to, window.length, newest);
        let rules = self.rules.due(camera, range.span);
        let has_caption = known.settings.caption_prompt.is_some();
        let number = if has_caption { known.progress.window_closed(window.passed_over) } else { 0 };
        if has_caption && window.passed_over > 0 {
            metrics::captions_skipped(camera, SkipReason::Replaced, window.passed_over);
        }
        let window = Window { camera: camera.clone(), range, number, closed, encode };
        let scores = (!rules.is_empty())
            .then(|| Job::Rules(Box::new(RulesOfWindow { window: window.clone(), rules })));
        let caption = has_caption.then_some(Job::Caption(window));
        let since_start = closed.saturating_duration_since(self.started);
        let max_delay = known.settings.max_caption_delay;
        let replaced: Vec<Job> = {
            let scheduler = &mut self.jobs().scheduler;
            let jobs = scores.into_iter().chain(caption);
            let replaced =
                jobs.filter_map(|job| scheduler.window(job, since_start, max_delay)).collect();
            metrics::waiting_jobs(scheduler.waiting());
            replaced
        };
        for older in replaced {
            self.skip(&older, SkipReason::Replaced);
        }
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
