//! Records the progress of an attempt and the stream found at the URL.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gst::prelude::*;

use super::decoder::Codec;
use super::error::CameraError;
use super::patience::Activity;
use crate::sync::lock;

/// The stream found at the URL.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub codec: String,
    /// Name of the decoder element.
    pub decoder: String,
    pub hardware: bool,
}

/// The progress of an attempt. GStreamer's threads write it, the camera's thread reads it.
pub struct Progress {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0 if not yet. The next four fields use the same
    /// format.
    connected: AtomicU64,
    packet: AtomicU64,
    frame: AtomicU64,
    decoded: AtomicU64,
    owed_since: AtomicU64,
    /// Number of key frames in the decoder.
    owed: AtomicU64,
    frames: AtomicU64,
    /// Longest recent interval between frames, in milliseconds.
    interval: AtomicU64,
    live: AtomicBool,
    closed: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    opened: Opened,
    /// The selected stream, by rtspsrc's number.
    selected: Option<u32>,
    /// All video streams that the camera describes: rtspsrc's number and the codec's name.
    described: Vec<(u32, String)>,
    failure: Option<CameraError>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            started: Instant::now(),
            connected: AtomicU64::new(0),
            packet: AtomicU64::new(0),
            frame: AtomicU64::new(0),
            decoded: AtomicU64::new(0),
            owed_since: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            interval: AtomicU64::new(0),
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
        self.lock().failure.clone()
    }

    /// Returns the reason why no stream was selected, once the camera has described all its
    /// streams.
    pub fn nothing_chosen(&self, wanted: Option<usize>) -> Option<CameraError> {
        let found = self.lock();
        if found.selected.is_some() {
            return None;
        }
        let names: Vec<&str> = found.described.iter().map(|(_, name)| name.as_str()).collect();
        let decoded = "lookout decodes H.264, H.265, MJPEG, MPEG-4, VP8 and VP9";
        Some(match (wanted, names.as_slice()) {
            (_, []) => CameraError::NoVideo,
            (Some(wanted), names) if wanted >= names.len() => CameraError::Refused(format!(
                "there is no stream = {wanted}: the camera describes {} (from 0)",
                names.join(", ")
            )),
            (Some(wanted), names) => {
                CameraError::Refused(format!("stream = {wanted} is {}; {decoded}", names[wanted]))
            }
            (None, names) => {
                CameraError::Refused(format!("the camera sends {}; {decoded}", names.join(", ")))
            }
        })
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed) != 0
    }

    pub fn has_shown(&self) -> bool {
        self.frame.load(Ordering::Relaxed) != 0
    }

    pub fn activity(&self) -> Activity {
        let since = |mark: &AtomicU64| Some(self.instant(mark)?.elapsed());
        Activity {
            connected: since(&self.connected),
            packet: since(&self.packet),
            frame: since(&self.frame),
            decoded: since(&self.decoded),
            owed: self.owed.load(Ordering::Relaxed),
            owed_since: since(&self.owed_since),
            frames: self.frames.load(Ordering::Relaxed),
            interval: Duration::from_millis(self.interval.load(Ordering::Relaxed)),
        }
    }

    /// Stops the delivery of frames.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Selects the video stream with the wanted index, or else the first that can be decoded.
    /// Returns true for the selected stream, also if it is called again for the same one.
    pub fn select(&self, id: u32, caps: &gst::CapsRef, wanted: Option<usize>) -> bool {
        let Some(structure) = caps.structure(0) else { return false };
        if !structure.get::<&str>("media").is_ok_and(|media| media == "video") {
            return false;
        }
        let mut found = self.lock();
        let index = match found.described.iter().position(|(known, _)| *known == id) {
            Some(index) => index,
            None => {
                let name = structure.get::<&str>("encoding-name").unwrap_or("an unknown codec");
                found.described.push((id, name.chars().take(30).collect()));
                found.described.len() - 1
            }
        };
        if found.selected.is_none()
            && Codec::of_caps(caps).is_some()
            && wanted.is_none_or(|wanted| wanted == index)
        {
            found.selected = Some(id);
        }
        found.selected == Some(id)
    }

    pub fn connected(&self) {
        self.connected.store(self.now(), Ordering::Relaxed);
    }

    pub fn found(&self, opened: Opened) {
        self.lock().opened = opened;
    }

    pub fn packet(&self) {
        self.packet.store(self.now(), Ordering::Relaxed);
    }

    /// Counts each buffer that passes this pad as a frame.
    pub fn watch(self: &Arc<Self>, pad: &gst::Pad) {
        let progress = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            progress.frame();
            gst::PadProbeReturn::Ok
        });
    }

    fn frame(&self) {
        let now = self.now();
        let last = self.frame.swap(now, Ordering::Relaxed);
        if last != 0 {
            // The longest recent interval: its weight fades over some ten frames.
            let longest = self.interval.load(Ordering::Relaxed);
            let longest = (longest - longest / 8).max(now - last);
            self.interval.store(longest, Ordering::Relaxed);
        }
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the key frames that enter a decoder and the frames that leave it.
    pub fn watch_decoder(self: &Arc<Self>, parsed: &gst::Pad, decoded: &gst::Pad) {
        self.watch_decoded(decoded);
        let progress = self.clone();
        parsed.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let is_key =
                |buffer: &gst::Buffer| !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
            if info.buffer().is_some_and(is_key)
                && progress.owed.fetch_add(1, Ordering::Relaxed) == 0
            {
                progress.owed_since.store(progress.now(), Ordering::Relaxed);
            }
            gst::PadProbeReturn::Ok
        });
    }

    pub fn watch_decoded(self: &Arc<Self>, decoded: &gst::Pad) {
        let progress = self.clone();
        decoded.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            progress.decoded();
            gst::PadProbeReturn::Ok
        });
    }

    fn decoded(&self) {
        self.decoded.store(self.now(), Ordering::Relaxed);
        self.owed.store(0, Ordering::Relaxed);
        self.owed_since.store(0, Ordering::Relaxed);
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
        lock(&self.found)
    }
}

/// Wakes the thread that watches the bus.
fn wake(element: &gst::Element, why: &str) {
    let message = gst::message::Application::builder(gst::Structure::new_empty(why)).src(element);
    // Only a pipeline that is ending refuses the message.
    let _ = element.post_message(message.build());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames_without_decoded_output_are_counted() {
        gst::init().unwrap();
        let pipeline = gst::parse::launch(
            "videotestsrc is-live=true ! identity name=parser ! valve name=decoder drop=true \
             ! fakesink sync=false async=false",
        )
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        let decoder = pipeline.by_name("decoder").unwrap();
        let pad = |element: &gst::Element| element.static_pad("src").unwrap();
        let progress = Arc::new(Progress::default());
        progress.watch_decoder(&pad(&pipeline.by_name("parser").unwrap()), &pad(&decoder));
        pipeline.set_state(gst::State::Playing).unwrap();
        let until = |met: &dyn Fn(&Activity) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !met(&progress.activity()) {
                assert!(Instant::now() < deadline, "{:?}", progress.activity());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until(&|activity| {
            activity.owed >= 4 && activity.owed_since.is_some() && activity.decoded.is_none()
        });
        decoder.set_property("drop", false);
        until(&|activity| {
            activity.owed == 0 && activity.owed_since.is_none() && activity.decoded.is_some()
        });
        pipeline.set_state(gst::State::Null).unwrap();
    }
}
