//! The vision worker: every frame is encoded once, pooled at once, and put into the timeline.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::inbox::Arrival;
use super::windows::Windows;
use super::{Engine, Window};
use crate::frame::{Frame, Span};
use crate::model::ModelError;
use crate::slowfast::{Grid, Plan, pool_frame};
use crate::telemetry::{self, DropReason, SkipReason, Stage};
use crate::timeline::Entry;
use crate::vision::evidence::Evidence;
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
        let windows = |lens: &super::Lens| Windows::new(lens.period, lens.window, lens.every);
        let mut windows: HashMap<Arc<str>, Windows> =
            engine.cameras.iter().map(|(name, lens)| (name.clone(), windows(lens))).collect();
        let mut pixels = Vec::new();
        while let Some(arrivals) = engine.inbox.take(BATCH, TICK) {
            self.look(engine, arrivals, &mut pixels, &mut windows)?;
            let now = Instant::now();
            for (camera, windows) in &mut windows {
                if let Some(span) = windows.tick(now) {
                    engine.close(camera, span, now, Duration::ZERO);
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
        let encoded = self.encoder.encode(pixels)?;
        let (tokens, dim) = (self.encoder.grid_tokens(), self.encoder.dim());
        for ((arrival, jpeg), rows) in good.iter().zip(encoded.features.chunks_exact(tokens * dim))
        {
            let frame = &arrival.frame;
            let entry = Entry {
                number: frame.number,
                captured_at: frame.captured_at,
                clock: frame.clock,
                tokens: pool_frame(Grid { rows, tokens, dim }, &self.plan)
                    .map_err(|e| ModelError(e.to_string()))?,
                jpeg: jpeg.clone(),
            };
            engine.remember(&frame.camera, entry, arrival.at);
        }
        let took = begun.elapsed();
        for (arrival, _) in &good {
            let frame = &arrival.frame;
            telemetry::stage(&frame.camera, Stage::Encode, took / good.len() as u32);
            let closed = windows
                .get_mut(&frame.camera)
                .and_then(|windows| windows.frame(frame.captured_at, arrival.at));
            if let Some(span) = closed {
                engine.close(&frame.camera, span, arrival.at, took);
            }
        }
        Ok(())
    }

    /// Fills `out` for the model and makes the evidence.
    fn prepare(&mut self, frame: &Frame, out: &mut [f32]) -> Result<Arc<[u8]>, PictureError> {
        let Frame { bgrx, width, height, .. } = frame;
        self.preprocess.pixels(&mut self.scratch, bgrx, *width, *height, out)?;
        self.evidence.jpeg(bgrx, *width, *height)
    }
}

impl Engine {
    fn remember(&self, camera: &Arc<str>, entry: Entry, came: Instant) {
        let captured_at = entry.captured_at;
        if let Some(mut ring) = self.timeline.ring(camera) {
            let before = ring.usage().evicted;
            ring.push(entry);
            let usage = ring.usage();
            telemetry::frames_evicted(camera, usage.evicted - before);
            telemetry::buffer(camera, usage.bytes as u64, usage.frames as u64);
        }
        if let Some(lens) = self.cameras.get(camera) {
            *lens.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((captured_at, came));
        }
    }

    /// A window has closed: it wants a caption, if captions are wanted.
    fn close(&self, camera: &Arc<str>, span: Span, closed: Instant, encode: Duration) {
        let Some(lens) = self.cameras.get(camera).filter(|lens| lens.prompt.is_some()) else {
            return;
        };
        let window = Window { span, closed, encode };
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
