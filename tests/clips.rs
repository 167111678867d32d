//! Tests clips with real RTSP: a camera's encoded stream is cut, written as MP4, and decoded again.
//! Its pictures must be the frames of the same times. `of_alerts` tests the clips of alerts with the
//! whole daemon.
#![cfg(feature = "demo")]

#[path = "support/gst_server.rs"]
mod gst_server;
#[path = "clips/interruptions.rs"]
mod interruptions;
#[path = "clips/live_video.rs"]
mod live_video;
#[path = "clips/of_alerts.rs"]
mod of_alerts;
// These tests use few of the quirks.
#[allow(dead_code)]
#[path = "support/quirky.rs"]
mod quirky;
#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use gst::prelude::*;
use lookout::access_unit::{AccessUnit, VideoCodec};
use lookout::camera::{self, CameraHandle, Recorder, Sink};
use lookout::clips::{Cut, Limits, Ring};
use lookout::config::{Camera, DecodeFrames, Rtsp, RtspTls, Source, Transport};
use lookout::event::CameraStatus;
use lookout::frame::{Clock, Frame, Span};
use lookout::run_clock::RunClock;
use support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A camera's frames, and its encoded stream.
struct Recorded {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    frames: Vec<Frame>,
    ring: Ring,
    unsupported: Option<String>,
}

/// Gives both to a test.
struct Tap(Arc<Recorded>);

impl Sink for Tap {
    fn frame(&self, frame: Frame) {
        self.0.state.lock().unwrap().frames.push(frame);
        self.0.changed.notify_all();
    }

    fn status(&self, _: &Arc<str>, _: CameraStatus) {}

    fn recorder(&self, _: &Arc<str>) -> Option<Arc<dyn Recorder>> {
        Some(self.0.clone())
    }
}

impl Recorder for Recorded {
    fn unit(&self, unit: AccessUnit) {
        self.state.lock().unwrap().ring.push(unit, None);
        self.changed.notify_all();
    }

    fn unsupported(&self, reason: String) {
        self.state.lock().unwrap().unsupported = Some(reason);
        self.changed.notify_all();
    }
}

impl Recorded {
    fn new() -> Arc<Recorded> {
        let ring = Ring::new(Limits { age: PATIENCE * 2, bytes: 64 << 20 });
        let state = State { frames: Vec::new(), ring, unsupported: None };
        Arc::new(Recorded { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn wait<T>(&self, what: &str, mut ready: impl FnMut(&State) -> Option<T>) -> T {
        let mut found = None;
        let state = self.state.lock().unwrap();
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| {
            found = ready(state);
            found.is_none()
        });
        drop(waited.unwrap());
        found.unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}"))
    }
}

fn camera_at(source: Source) -> Camera {
    Camera {
        name: "gate".into(),
        source,
        fps: 5.0,
        window: Duration::from_secs(10),
        caption_interval: Duration::from_secs(10),
        max_caption_delay: Duration::from_secs(10),
        unchanged_threshold: 0.0,
        caption_prompt: None,
        decode_frames: DecodeFrames::All,
        masks: Vec::new(),
        stall_timeout: Duration::from_secs(5),
        max_reconnect_delay: Duration::from_secs(2),
        is_paused: false,
    }
}

fn rtsp(url: &str) -> Source {
    Source::Rtsp(Rtsp {
        url: url.parse().unwrap(),
        username: None,
        password: None,
        transport: Transport::Tcp,
        stream: None,
        tls: RtspTls::System,
    })
}

/// A decoded picture and its time in the file.
struct Picture {
    at: Duration,
    bgrx: Vec<u8>,
}

/// Decodes an MP4 file or a JPEG.
fn decode(file: &Path) -> Vec<Picture> {
    let launch = format!(
        "filesrc location={} ! decodebin ! videoconvert ! video/x-raw,format=BGRx \
         ! appsink name=sink sync=false",
        file.display()
    );
    let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut pictures = Vec::new();
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().unwrap();
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let at = buffer.pts().and_then(|pts| segment.to_running_time(pts)).unwrap_or_default();
        let bgrx = buffer.map_readable().unwrap().to_vec();
        pictures.push(Picture { at: at.into(), bgrx });
    }
    pipeline.set_state(gst::State::Null).unwrap();
    pictures
}

/// Returns the peak signal-to-noise ratio of two images in dB.
fn psnr(one: &[u8], other: &[u8]) -> f64 {
    assert_eq!(one.len(), other.len());
    // Every seventh pixel is enough.
    let samples = (0..one.len()).step_by(7 * 4).flat_map(|pixel| pixel..pixel + 3);
    let squares = samples.map(|at| (f64::from(one[at]) - f64::from(other[at])).powi(2));
    let error = squares.clone().sum::<f64>() / squares.count() as f64;
    10.0 * (255.0 * 255.0 / error.max(1e-9)).log10()
}

/// Returns the types of the boxes of an MP4 file, from the outermost down to the sample entry.
fn boxes(data: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = data;
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let name = String::from_utf8_lossy(&rest[4..8]).into_owned();
        let inner = match name.as_str() {
            "moov" | "trak" | "mdia" | "minf" | "stbl" => Some(8),
            "stsd" => Some(16),
            _ => None,
        };
        let end = size.clamp(8, rest.len());
        let below = inner.map(|from| boxes(&rest[from..end])).unwrap_or_default();
        found.push(name);
        found.extend(below);
        rest = &rest[end..];
    }
    found
}

/// Starts a camera that plays a video by RTSP. Returns its server, what is recorded of it, and its
/// handle.
fn play(folder: &Path, video: &str) -> (Cameras, Arc<Recorded>, CameraHandle) {
    camera::init().unwrap();
    let video = repository().join("tests/media").join(video);
    let server = Cameras::start(folder, 0, &[("video", &video)], &[]);
    let recorded = Recorded::new();
    let run = Arc::new(RunClock::start());
    let source = rtsp(&server.url("video"));
    let running = camera::start(camera_at(source), Arc::new(Tap(recorded.clone())), run);
    (server, recorded, running)
}

/// Plays a video by RTSP, cuts a clip of `length`, and compares it with the frames of that time.
fn record_and_compare(video: &str, codec: VideoCodec, entry: &str) {
    let folder = folder();
    let (_server, recorded, running) = play(folder.path(), video);
    let frames = recorded.wait("frames", |state| {
        let dated = state.frames.iter().filter(|frame| frame.clock == Clock::Camera);
        let last = dated.clone().nth(30)?.captured_at;
        let is_held = state.ring.newest()? > last + Duration::from_secs(1);
        (dated.clone().count() >= 40 && is_held).then(|| dated.cloned().collect::<Vec<_>>())
    });
    // The first frames are left out: their times approach those of the camera's clock.
    let wanted = &frames[10..30];
    let second = Duration::from_secs(1);
    let span = Span {
        from: wanted[0].captured_at - second,
        to: wanted[wanted.len() - 1].captured_at + second,
    };
    let units = recorded.state.lock().unwrap().ring.of(span);
    running.stop();
    let cut = Cut::of(units, span, span.from).expect("a key frame");
    assert_eq!((cut.codec, &cut.flaws[..]), (codec, &[][..]));
    assert!(cut.units[0].unit.is_key);
    // The videos have B-frames.
    assert!(cut.units.windows(2).any(|pair| pair[1].presented_at < pair[0].presented_at));

    let mp4 = camera::mp4(cut.codec, &cut.units).unwrap();
    let boxes = boxes(&mp4);
    let place = |name: &str| boxes.iter().position(|found| found == name).expect(name);
    assert!(place("moov") < place("mdat"), "{boxes:?}");
    assert_eq!(boxes.iter().filter(|name| *name == "trak").count(), 1, "{boxes:?}");
    assert!(boxes.iter().any(|name| name == entry), "{boxes:?}");
    let file = folder.path().join("clip.mp4");
    std::fs::write(&file, &mp4).unwrap();
    let pictures = decode(&file);
    assert_eq!(pictures.len(), cut.units.len(), "pictures are missing");
    assert_eq!(pictures[0].at, Duration::ZERO);
    for frame in wanted {
        let likeness = |picture: &Picture| psnr(&picture.bgrx, &frame.bgrx);
        let best = pictures.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap();
        assert!(likeness(best) > 30.0, "frame {}: {} dB", frame.number, likeness(best));
        let expected = since(frame.captured_at, cut.span.from);
        let off = best.at.as_secs_f64() - expected;
        // A repeated video shows each picture once in 4 s.
        let off = (off + 2.0).rem_euclid(4.0) - 2.0;
        assert!(off.abs() < 0.4, "frame {} is {off:.3} s off", frame.number);
    }
}

fn since(time: SystemTime, begin: SystemTime) -> f64 {
    match time.duration_since(begin) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

#[test]
fn a_clip_of_h264_with_b_frames_shows_the_frames_of_its_time() {
    record_and_compare("b-frames.h264.mp4", VideoCodec::H264, "avc1");
}

#[test]
fn a_clip_of_h265_with_open_groups_shows_the_frames_of_its_time() {
    record_and_compare("open-gop.h265.mp4", VideoCodec::H265, "hvc1");
}

#[test]
fn a_file_has_no_encoded_stream_to_record() {
    camera::init().unwrap();
    let recorded = Recorded::new();
    let source = Source::File(repository().join("tests/media/b-frames.h264.mp4"));
    let run = Arc::new(RunClock::start());
    let running = camera::start(camera_at(source), Arc::new(Tap(recorded.clone())), run);
    let reason = recorded.wait("a reason", |state| state.unsupported.clone());
    assert_eq!(reason, "the camera is a file");
    running.stop();
}
