//! Measures receiving, decoding and sampling: this process watches a camera and does nothing else
//! at the same time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

use crate::bench::cpu::cpu_time;
use crate::camera::{self, Sink};
use crate::config;
use crate::event::CameraStatus;
use crate::frame::Frame;
use crate::run_clock::RunClock;
use crate::sync::lock;

/// Time after the first frame that is not measured, because joining a stream costs more than
/// watching it.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest wait for a frame, in addition to twice the frame interval.
const PATIENCE: Duration = Duration::from_secs(10);
/// Number of frames kept; frames of a large image take much memory.
const FRAMES_KEPT: usize = 16;

pub struct Received {
    /// The most recent frames.
    pub frames: Vec<Frame>,
    /// CPU-milliseconds per frame, for each round.
    pub cpu_ms: Vec<f64>,
}

/// Watches a camera for `rounds` rounds of `a_round` frames each.
pub fn receive(camera: config::Camera, rounds: usize, a_round: usize) -> anyhow::Result<Received> {
    camera::init()?;
    let fps = camera.fps;
    // The capacity exceeds the number of frames that ever wait.
    let (to, arrivals) = sync_channel(64);
    let status = Arc::new(Mutex::default());
    let watching = Arc::new(Watching { to, status: status.clone() });
    let _running = camera::start(camera, watching, Arc::new(RunClock::start()));
    let patience = PATIENCE + Duration::from_secs_f64(2.0 / fps);
    let next = || next(&arrivals, patience, &status);

    let first = next()?;
    let mut last = next()?;
    while last.came - first.came < SETTLE {
        last = next()?;
    }
    let begun = last.came;
    let mut frames = VecDeque::new();
    let mut cpu_ms = Vec::new();
    for round in 1..=rounds {
        let before = last.cpu;
        for _ in 0..a_round {
            last = next()?;
            frames.push_back(last.frame.clone());
            frames.drain(..frames.len().saturating_sub(FRAMES_KEPT));
        }
        cpu_ms.push((last.cpu - before).as_secs_f64() * 1e3 / a_round as f64);
        tracing::info!("camera, round {round} of {rounds}: {:.2} ms a frame", cpu_ms[round - 1]);
    }
    let rate = (rounds * a_round) as f64 / (last.came - begun).as_secs_f64();
    if rate < 0.8 * fps {
        bail!("the clip gave {rate:.1} frames a second; --fps wants {fps}");
    }
    Ok(Received { frames: frames.into(), cpu_ms })
}

fn next(
    arrivals: &Receiver<Arrival>,
    patience: Duration,
    status: &Mutex<Option<CameraStatus>>,
) -> anyhow::Result<Arrival> {
    arrivals.recv_timeout(patience).map_err(|_| {
        let status = lock(status);
        let why = status.as_ref().map_or("not connected", |status| &status.reason);
        anyhow!("the clip gave no frame for {} s: {why}", patience.as_secs())
    })
}

struct Arrival {
    frame: Frame,
    came: Instant,
    /// CPU time of this process until then.
    cpu: Duration,
}

struct Watching {
    to: SyncSender<Arrival>,
    status: Arc<Mutex<Option<CameraStatus>>>,
}

impl Sink for Watching {
    fn frame(&self, frame: Frame) {
        // The channel is full only when nobody reads it any more.
        let _ = self.to.try_send(Arrival { frame, came: Instant::now(), cpu: cpu_time() });
    }

    fn status(&self, _: &Arc<str>, status: CameraStatus) {
        *lock(&self.status) = Some(status);
    }
}
