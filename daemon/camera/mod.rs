//! Runs the cameras: one GStreamer pipeline each, in its own thread, from a URL to sampled RGB
//! frames.
//!
//! ```text
//!  rtspsrc ─► funnel ─► depay ─► parse ─► [key frames] ─► decode ─► [pace] ─► deinterlace
//!          ─► videoconvert ─► videoscale ─► appsink ─► Sink
//!                                 parse ─► Recorder, if the encoded stream is wanted
//! ```
//!
//! Guarantees: a camera's frames have rising numbers and strictly rising times of the run,
//! including over reconnects. Their UTC rises as long as no clock is set back. A camera that fails
//! in any way is retried until it is stopped, and does not affect other cameras. No text from this
//! module contains a user name or a password.
//!
//! Not here: the use of the frames ([`Sink`] must accept them without waiting), and sound.

mod attempt;
mod backoff;
mod clock;
mod colours;
mod decoder;
mod delivery;
mod element;
mod error;
mod keepalive;
mod mux;
mod pace;
mod packets;
mod patience;
mod pipeline;
mod progress;
mod reach;
mod reader;
mod recording;
mod relay;
mod retry;
mod rtsp;
mod tail;
mod tempo;
mod wire;

#[cfg(fuzzing)]
pub use wire::fuzz_wire;

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use error::CameraError;
pub use mux::{MuxError, TIMESCALE, mp4, mp4_head};

use crate::access_unit::AccessUnit;
use crate::config;
use crate::event::CameraStatus;
use crate::frame::Frame;
use crate::run_clock::RunClock;
use attempt::CameraAttempt;
use delivery::Delivery;
use retry::{Attempt, Report, Reporter, Stop};

/// The receiver of the cameras' frames and status changes. The cameras' own threads call it, so it
/// must never block.
pub trait Sink: Send + Sync + 'static {
    fn frame(&self, frame: Frame);
    /// Called for each change, and only then.
    fn status(&self, camera: &Arc<str>, status: CameraStatus);
    /// Returns the receiver of a camera's encoded stream, if there is one.
    fn recorder(&self, _camera: &Arc<str>) -> Option<Arc<dyn Recorder>> {
        None
    }
}

/// The receiver of a camera's encoded stream. GStreamer's threads call it, so it must never block.
pub trait Recorder: Send + Sync + 'static {
    /// Returns true while access units are wanted. They are copied for the recorder only then.
    fn is_wanted(&self) -> bool {
        true
    }
    /// Takes the next access unit, in the order of decoding.
    fn unit(&self, unit: AccessUnit);
    /// Is called when a new connection has access units that can be recorded.
    fn supported(&self) {}
    /// Takes the reason why the stream of this connection has no access units that can be recorded.
    fn unsupported(&self, reason: String);
}

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("GStreamer does not start: {0}")]
    GStreamer(#[from] gst::glib::Error),
    #[error("GStreamer lacks the element {element}: install {package} (Debian's name)")]
    Missing { element: &'static str, package: &'static str },
}

/// Initialises GStreamer and checks its elements. It must succeed before any other call of this
/// module, and may be called again.
pub fn init() -> Result<(), InitError> {
    gst::init()?;
    for (element, package) in NEEDED {
        if gst::ElementFactory::find(element).is_none() {
            return Err(InitError::Missing { element, package });
        }
    }
    decoder::set_ranks();
    Ok(())
}

const NEEDED: [(&str, &str); 16] = [
    ("filesrc", "libgstreamer1.0-0"),
    ("funnel", "libgstreamer1.0-0"),
    ("capsfilter", "libgstreamer1.0-0"),
    ("decodebin", "gstreamer1.0-plugins-base"),
    ("videoconvert", "gstreamer1.0-plugins-base"),
    ("videoscale", "gstreamer1.0-plugins-base"),
    ("deinterlace", "gstreamer1.0-plugins-good"),
    ("appsink", "gstreamer1.0-plugins-base"),
    ("appsrc", "gstreamer1.0-plugins-base"),
    ("mp4mux", "gstreamer1.0-plugins-good"),
    ("rtspsrc", "gstreamer1.0-plugins-good"),
    ("rtph264depay", "gstreamer1.0-plugins-good"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
    ("h265parse", "gstreamer1.0-plugins-bad"),
    ("avdec_h264", "gstreamer1.0-libav"),
    ("avdec_h265", "gstreamer1.0-libav"),
];

/// Runs the camera until the handle is stopped or dropped. `run` is the clock shared by all
/// cameras.
pub fn start(config: config::Camera, sink: Arc<dyn Sink>, run: Arc<RunClock>) -> CameraHandle {
    let stop = Arc::new(Stop::default());
    let delivery = Delivery::new(config.name.clone(), sink, run).with_masks(config.masks.clone());
    let delivery = Arc::new(delivery);
    let thread = thread::Builder::new().name(config.name.to_string()).spawn({
        let stop = stop.clone();
        move || {
            let mut reporter = Reporter::new(delivery.clone());
            let max_reconnect_delay = config.max_reconnect_delay;
            let mut attempt = CameraAttempt::new(config, delivery);
            retry::run(&mut attempt, max_reconnect_delay, &stop, &mut reporter);
        }
    });
    if let Err(error) = &thread {
        tracing::error!("no thread for a camera: {error}");
    }
    CameraHandle { stop, thread: thread.ok() }
}

pub struct CameraHandle {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl CameraHandle {
    /// Requests a stop without waiting. To stop many cameras, request all stops before waiting for
    /// the first camera.
    pub fn ask_to_stop(&self) {
        self.stop.ask();
    }

    /// Waits until the camera's thread has ended, normally less than a second.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for CameraHandle {
    fn drop(&mut self) {
        self.stop.ask();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a camera's thread had panicked");
        }
    }
}

/// A camera's result in `lookout check`.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub width: u32,
    pub height: u32,
    pub codec: String,
    pub decoder: String,
    pub first_frame_after: Duration,
}

/// Connects once and waits for one frame.
pub fn probe(config: &config::Camera, timeout: Duration) -> Result<Probed, CameraError> {
    let started = Instant::now();
    let stop = Arc::new(Stop::after(timeout));
    let (first, seen) = mpsc::sync_channel(1);
    let delivery = Arc::new(Delivery::new(
        config.name.clone(),
        Arc::new(FirstFrame { first, stop: stop.clone() }),
        Arc::new(RunClock::start()),
    ));
    let mut attempt = CameraAttempt::new(config.clone(), delivery);
    let mut waits = None;
    let outcome = attempt.run_once(&stop, &mut |report| {
        if let Report::Waiting(reason) = report {
            waits = Some(CameraError::Failed(reason.into()));
        }
    });
    match seen.try_recv() {
        Ok((frame, at)) => {
            let opened = attempt.opened();
            Ok(Probed {
                width: frame.width,
                height: frame.height,
                codec: opened.codec,
                decoder: opened.decoder,
                first_frame_after: at - started,
            })
        }
        Err(_) => Err(outcome.err().or(waits).unwrap_or(CameraError::Stalled(timeout))),
    }
}

struct FirstFrame {
    first: mpsc::SyncSender<(Frame, Instant)>,
    stop: Arc<Stop>,
}

impl Sink for FirstFrame {
    fn frame(&self, frame: Frame) {
        // The channel is full: this is a second frame, which is not needed.
        let _ = self.first.try_send((frame, Instant::now()));
        self.stop.ask();
    }

    fn status(&self, _: &Arc<str>, _: CameraStatus) {}
}
