//! Turns GStreamer's samples into numbered, dated frames for a [`Sink`]. Each camera has one
//! delivery for all its pipelines, so numbers and times continue after a reconnect.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use gst_video::prelude::*;

use super::clock::{self, CaptureClock, ClockChange};
use super::colours;
use super::{Recorder, Sink};
use crate::access_unit::{AccessUnit, VideoCodec};
use crate::event::CameraStatus;
use crate::frame::{Frame, difference, shift};
use crate::masks::{Mask, Painter};
use crate::metrics::{self, Stage};
use crate::run_clock::{Moment, RunClock};
use crate::sync::lock;

pub struct Delivery {
    camera: Arc<str>,
    sink: Arc<dyn Sink>,
    /// The receiver of the encoded stream, if it is wanted.
    recorder: Option<Arc<dyn Recorder>>,
    /// The privacy masks, if the camera has any.
    painter: Option<Mutex<Painter>>,
    sequence: Mutex<Sequence>,
    run: Arc<RunClock>,
}

/// An access unit as the stream has it.
pub struct Encoded {
    pub codec: VideoCodec,
    pub data: Bytes,
    pub is_key: bool,
    pub pts: gst::ClockTime,
    /// Time of capture that the camera reports.
    pub camera_time: Option<SystemTime>,
    /// Number of the connection.
    pub connection: u64,
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
    /// Number of the newest connection.
    connection: u64,
    /// The newest frame of that connection.
    dated: Option<Dated>,
}

/// The times of a frame, by which access units are dated.
#[derive(Clone, Copy)]
struct Dated {
    pts: gst::ClockTime,
    camera_time: Option<SystemTime>,
    captured_at: SystemTime,
}

impl Dated {
    /// Returns the time of capture of an access unit. The camera's clock is more even than the
    /// presentation time, which follows the arrival of packets.
    fn date(&self, encoded: &Encoded) -> SystemTime {
        let since = match (self.camera_time, encoded.camera_time) {
            (Some(frame), Some(unit)) => difference(frame, unit),
            _ => i128::from(encoded.pts.nseconds()) - i128::from(self.pts.nseconds()),
        };
        shift(self.captured_at, since)
    }
}

impl Delivery {
    /// Creates the delivery of one camera. `run` is the clock shared by all cameras.
    pub fn new(camera: Arc<str>, sink: Arc<dyn Sink>, run: Arc<RunClock>) -> Delivery {
        let recorder = sink.recorder(&camera);
        Delivery { camera, sink, recorder, painter: None, sequence: Mutex::default(), run }
    }

    /// Paints masks over the frames. The encoded stream is then not recorded, because it shows what
    /// they hide. This is so also while their schedules are off.
    pub fn with_masks(mut self, masks: Vec<Mask>) -> Delivery {
        if masks.is_empty() {
            return self;
        }
        if let Some(recorder) = self.recorder.take() {
            recorder.unsupported("the camera has privacy masks, which its stream does not".into());
        }
        self.painter = Some(Mutex::new(Painter::new(masks)));
        self
    }

    /// Begins a connection to the camera. Returns its number.
    pub fn connect(&self) -> u64 {
        let mut sequence = self.sequence();
        sequence.dated = None;
        sequence.connection += 1;
        sequence.connection
    }

    pub fn recorder(&self) -> Option<&Arc<dyn Recorder>> {
        self.recorder.as_ref()
    }

    /// Dates an access unit by the newest frame of its connection, and gives it to the recorder.
    pub fn record(&self, encoded: Encoded) {
        let Some(recorder) = &self.recorder else { return };
        let now = self.run.now();
        let dated = {
            let sequence = self.sequence();
            sequence.dated.filter(|_| sequence.connection == encoded.connection)
        };
        // The first units come before a frame of the connection has been decoded.
        let captured_at = dated.map_or(now.utc, |dated| dated.date(&encoded));
        let Encoded { codec, data, is_key, pts, connection, .. } = encoded;
        recorder.unit(AccessUnit {
            codec,
            data,
            is_key,
            pts: pts.into(),
            connection,
            captured_at,
            arrived_at: now.monotonic,
        });
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
        let image = match &self.painter {
            Some(painter) => image.masked(&mut lock(painter), stamp.captured_at, now),
            None => image,
        };
        metrics::stage(&self.camera, Stage::Decode, age);
        let pts = sample.buffer().and_then(|buffer| buffer.pts());
        let captured_at = stamp.captured_at;
        sequence.dated = pts.map(|pts| Dated { pts, camera_time, captured_at });
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
        Ok(Image { width, height, bgrx, camera_time: camera_time(buffer) })
    }

    fn masked(self, painter: &mut Painter, captured_at: SystemTime, now: Moment) -> Image {
        let copy = |shared: Bytes| BytesMut::from(&shared[..]);
        let mut bgrx = self.bgrx.try_into_mut().unwrap_or_else(copy);
        painter.paint(&mut bgrx, self.width as usize, captured_at, now);
        Image { bgrx: bgrx.freeze(), ..self }
    }
}

/// Returns the time of capture that the camera reports for an image, encoded or not.
pub fn camera_time(buffer: &gst::BufferRef) -> Option<SystemTime> {
    buffer
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .find(|meta| meta.reference().structure(0).is_some_and(|s| s.name() == NTP))
        .and_then(|meta| clock::from_ntp(meta.timestamp().nseconds()))
}

const NTP: &str = "timestamp/x-ntp";
