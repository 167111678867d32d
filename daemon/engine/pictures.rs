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
use crate::telemetry::{self, Stage};
use crate::timeline::Entry;
use crate::vision::evidence::Evidence;
use crate::vision::preprocess::{Preprocess, Scratch};
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
            if !arrivals.is_empty() {
                self.look(engine, &arrivals, &mut pixels, &mut windows)?;
            }
            let now = Instant::now();
            for (camera, windows) in &mut windows {
                if let Some(span) = windows.tick(now) {
                    engine.close(camera, span, now, Duration::ZERO);
                }
            }
        }
        Ok(())
    }

    fn look(
        &mut self,
        engine: &Engine,
        arrivals: &[Arrival],
        pixels: &mut Vec<f32>,
        windows: &mut HashMap<Arc<str>, Windows>,
    ) -> Result<(), ModelError> {
        let begun = Instant::now();
        let frame_len = self.encoder.frame_len();
        pixels.resize(arrivals.len() * frame_len, 0.0);
        for (arrival, out) in arrivals.iter().zip(pixels.chunks_exact_mut(frame_len)) {
            let frame = &arrival.frame;
            self.preprocess
                .pixels(&mut self.scratch, &frame.rgb, frame.width, frame.height, out)
                .map_err(|e| of_frame(frame, e))?;
        }
        let encoded = self.encoder.encode(pixels)?;
        let (tokens, dim) = (self.encoder.grid_tokens(), self.encoder.dim());
        for (arrival, rows) in arrivals.iter().zip(encoded.features.chunks_exact(tokens * dim)) {
            let frame = &arrival.frame;
            let tokens = pool_frame(Grid { rows, tokens, dim }, &self.plan)
                .map_err(|e| of_frame(frame, e))?;
            let jpeg = self
                .evidence
                .jpeg(&frame.rgb, frame.width, frame.height)
                .map_err(|e| of_frame(frame, e))?;
            let entry = Entry {
                number: frame.number,
                captured_at: frame.captured_at,
                clock: frame.clock,
                tokens,
                jpeg,
            };
            engine.remember(&frame.camera, entry, arrival.at);
        }
        let took = begun.elapsed();
        for arrival in arrivals {
            let frame = &arrival.frame;
            telemetry::stage(&frame.camera, Stage::Encode, took / arrivals.len() as u32);
            let closed = windows
                .get_mut(&frame.camera)
                .and_then(|windows| windows.frame(frame.captured_at, arrival.at));
            if let Some(span) = closed {
                engine.close(&frame.camera, span, arrival.at, took);
            }
        }
        Ok(())
    }
}

fn of_frame(frame: &Frame, error: impl std::fmt::Display) -> ModelError {
    ModelError(format!("camera {}, frame {}: {error}", frame.camera, frame.number))
}

impl Engine {
    fn remember(&self, camera: &Arc<str>, entry: Entry, came: Instant) {
        let captured_at = entry.captured_at;
        if let Some(mut ring) = self.timeline.ring(camera) {
            ring.push(entry);
            let usage = ring.usage();
            telemetry::buffer(camera, usage.bytes as u64, usage.frames as u64);
        }
        if let Some(lens) = self.cameras.get(camera) {
            *lens.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((captured_at, came));
        }
    }

    /// A window has closed: it wants a caption, if captions are wanted.
    fn close(&self, camera: &Arc<str>, span: Span, closed: Instant, encode: Duration) {
        if self.cameras.get(camera).is_none_or(|lens| lens.prompt.is_none()) {
            return;
        }
        let mut jobs = self.jobs();
        if jobs.queue.caption(camera.clone(), Window { span, closed, encode }).is_some() {
            telemetry::caption_replaced(camera);
        }
        telemetry::queue_length(jobs.queue.waiting());
        drop(jobs);
        self.wake.notify_one();
    }
}
