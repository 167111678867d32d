//! How far an attempt has come, and what was found behind the URL.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::error::CameraError;
use super::rtsp::codec_of;

/// What was found behind the URL.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub codec: String,
    /// The element's name.
    pub decoder: String,
    pub hardware: bool,
}

/// How far an attempt has come: written by GStreamer's threads, read by the camera's.
pub struct Progress {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0: not yet.
    connected: AtomicU64,
    last_picture: AtomicU64,
    live: AtomicBool,
    closed: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    opened: Opened,
    selected: bool,
    failure: Option<CameraError>,
    /// Video streams that cannot be decoded.
    unknown: Vec<String>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            started: Instant::now(),
            connected: AtomicU64::new(0),
            last_picture: AtomicU64::new(0),
            live: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            found: Mutex::default(),
        }
    }
}

impl Progress {
    pub fn opened(&self) -> Opened {
        self.lock().opened.clone()
    }

    pub fn failure(&self) -> Option<CameraError> {
        let found = self.lock();
        found.failure.clone().or_else(|| {
            let nothing = !found.selected && !found.unknown.is_empty();
            nothing.then(|| {
                let names = found.unknown.join(", ");
                CameraError::Lost(format!("its video is {names}: only H.264 and H.265 are read"))
            })
        })
    }

    pub fn connected_at(&self) -> Option<Instant> {
        self.instant(&self.connected)
    }

    pub fn last_picture(&self) -> Option<Instant> {
        self.instant(&self.last_picture)
    }

    /// No frame is delivered from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Takes the first video stream that can be decoded.
    pub fn select(&self, caps: &gst::CapsRef) -> bool {
        let mut found = self.lock();
        if codec_of(caps).is_some() {
            return !std::mem::replace(&mut found.selected, true);
        }
        if let Some(structure) = caps.structure(0)
            && structure.get::<&str>("media").is_ok_and(|media| media == "video")
        {
            let name = structure.get::<&str>("encoding-name").unwrap_or("unknown");
            found.unknown.push(name.to_string());
        }
        false
    }

    pub fn connected(&self) {
        self.connected.store(self.now(), Ordering::Relaxed);
    }

    pub fn found(&self, opened: Opened) {
        self.lock().opened = opened;
    }

    /// Counts what passes this pad as a picture.
    pub fn watch(self: &Arc<Self>, pad: &gst::Pad) {
        let progress = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            progress.last_picture.store(progress.now(), Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }

    pub fn delivered(&self, element: &gst::Element) {
        if !self.live.swap(true, Ordering::Relaxed) {
            wake(element, "live");
        }
    }

    /// Keeps the first cause of a failure that GStreamer will report.
    pub fn note(&self, error: CameraError) {
        self.lock().failure.get_or_insert(error);
    }

    pub fn fail(&self, pipeline: &gst::Pipeline, error: CameraError) {
        self.note(error);
        wake(pipeline.upcast_ref(), "failed");
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn instant(&self, mark: &AtomicU64) -> Option<Instant> {
        let after = mark.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started + Duration::from_millis(after))
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the thread that watches the bus look at once.
fn wake(element: &gst::Element, why: &str) {
    let message = gst::message::Application::builder(gst::Structure::new_empty(why)).src(element);
    // Refused only by a pipeline that is ending.
    let _ = element.post_message(message.build());
}
