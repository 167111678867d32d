//! Turns GStreamer's samples into numbered, dated frames for a [`Sink`]. Each camera has one
//! delivery for all its pipelines, so numbers and times continue after a reconnect.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bytes::Bytes;
use gst_video::prelude::*;

use super::Sink;
use super::clock::{self, CaptureClock, ClockChange};
use super::colours;
use crate::event::CameraStatus;
use crate::frame::Frame;
use crate::metrics::{self, Stage};
use crate::run_clock::RunClock;
use crate::sync::lock;

pub struct Delivery {
    camera: Arc<str>,
    sink: Arc<dyn Sink>,
    sequence: Mutex<Sequence>,
    run: Arc<RunClock>,
}

/// A frame's timing, according to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time since the frame was captured, estimated from its presentation time and its arrival.
    pub age: Duration,
    /// True if the stream's clock is right, so that its UTC can be used.
    pub believed: bool,
}

#[derive(Default)]
struct Sequence {
    next: u64,
    clock: CaptureClock,
}

impl Delivery {
    /// Creates the delivery of one camera. `run` is the clock shared by all cameras.
    pub fn new(camera: Arc<str>, sink: Arc<dyn Sink>, run: Arc<RunClock>) -> Delivery {
        Delivery { camera, sink, sequence: Mutex::default(), run }
    }

    pub fn deliver(&self, sample: &gst::Sample, timing: Timing) -> Result<()> {
        let Timing { age, believed } = timing;
        let image = Image::of(sample)?;
        let now = self.run.now();
        let arrived = now.monotonic.saturating_sub(age);
        let mut sequence = self.sequence();
        let camera_time = image.camera_time.filter(|_| believed);
        let stamp = sequence.clock.stamp(arrived, now.utc_at(Duration::ZERO), camera_time);
        match stamp.change {
            Some(ClockChange::Distrusted(off)) => tracing::warn!(
                camera = %self.camera,
                "the camera's clock is off by {:.1} s: its frames get the time of arrival",
                off.unsigned_abs() as f64 / 1e9
            ),
            Some(ClockChange::Stepped(by)) => tracing::warn!(
                camera = %self.camera,
                "the camera's clock was set {} by {:.1} s: its frames have the new time from now on",
                if by > 0 { "on" } else { "back" },
                by.unsigned_abs() as f64 / 1e9
            ),
            None => {}
        }
        metrics::stage(&self.camera, Stage::Decode, age);
        let number = sequence.next;
        sequence.next += 1;
        // Holding the lock keeps frames in the order of their numbers. A sink never waits.
        self.sink.frame(Frame {
            camera: self.camera.clone(),
            number,
            monotonic: stamp.monotonic,
            captured_at: stamp.captured_at,
            clock: stamp.clock,
            width: image.width,
            height: image.height,
            bgrx: image.bgrx,
        });
        Ok(())
    }

    pub fn tell(&self, status: CameraStatus) {
        self.sink.status(&self.camera, status);
    }

    pub fn camera(&self) -> &Arc<str> {
        &self.camera
    }

    pub fn last_frame(&self) -> Option<SystemTime> {
        self.sequence().clock.last()
    }

    fn sequence(&self) -> MutexGuard<'_, Sequence> {
        lock(&self.sequence)
    }
}

struct Image {
    width: u32,
    height: u32,
    bgrx: Bytes,
    camera_time: Option<SystemTime>,
}

impl Image {
    fn of(sample: &gst::Sample) -> Result<Image> {
        let buffer = sample.buffer().context("a sample without an image")?;
        let caps = sample.caps().context("an image without format")?;
        let info = gst_video::VideoInfo::from_caps(caps)?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
        let (width, height) = (frame.width(), frame.height());
        let bgrx = colours::bgrx(sample, &frame)?;
        let camera_time = buffer
            .iter_meta::<gst::ReferenceTimestampMeta>()
            .find(|meta| meta.reference().structure(0).is_some_and(|s| s.name() == NTP))
            .and_then(|meta| clock::from_ntp(meta.timestamp().nseconds()));
        Ok(Image { width, height, bgrx, camera_time })
    }
}

const NTP: &str = "timestamp/x-ntp";
