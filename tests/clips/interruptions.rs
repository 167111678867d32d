//! Clips of cameras that reconnect or change their format while the clip is recorded.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use gst::prelude::*;
use lookout::access_unit::AccessUnit;
use lookout::camera;
use lookout::clips::{Cut, Flaw};
use lookout::frame::{Frame, Span};
use lookout::run_clock::RunClock;

use super::gst_server::serve;
use super::quirky::{Quirks, Quirky};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Starts to record a camera.
fn record(url: &str) -> (Arc<Recorded>, camera::CameraHandle) {
    camera::init().unwrap();
    let recorded = Recorded::new();
    let run = Arc::new(RunClock::start());
    let running = camera::start(camera_at(rtsp(url)), Arc::new(Tap(recorded.clone())), run);
    (recorded, running)
}

impl Recorded {
    /// Returns the units of a span.
    fn units(&self, span: Span) -> Vec<AccessUnit> {
        self.state.lock().unwrap().ring.of(span)
    }
}

/// Writes a cut and decodes it.
fn pictures(cut: &Cut) -> Vec<Picture> {
    let folder = folder();
    let file = folder.path().join("clip.mp4");
    std::fs::write(&file, camera::mp4(cut.codec, &cut.units).unwrap()).unwrap();
    decode(&file)
}

/// Checks that the pictures show a frame at about the time of its capture.
fn assert_shown(pictures: &[Picture], cut: &Cut, frame: &Frame) {
    let expected = since(frame.captured_at, cut.span.from);
    let near = pictures.iter().filter(|picture| (picture.at.as_secs_f64() - expected).abs() < 1.0);
    let likeness = near.map(|picture| psnr(&picture.bgrx, &frame.bgrx)).max_by(f64::total_cmp);
    assert!(
        likeness.is_some_and(|likeness| likeness > 25.0),
        "frame {} at {expected:.3} s of the clip: {likeness:?} dB",
        frame.number
    );
}

#[test]
fn a_clip_continues_after_a_reconnect() {
    let quirks = Quirks { closes_after: Some(3 * SECOND), ..Quirks::default() };
    let camera = Quirky::start(quirks);
    let (recorded, running) = record(&format!("rtsp://127.0.0.1:{}/live", camera.port));
    let all = Span { from: SystemTime::UNIX_EPOCH, to: SystemTime::now() + 3600 * SECOND };
    // Two connections, and frames of both.
    let (units, frames) = recorded.wait("a reconnect", |state| {
        let units = state.ring.of(Span { from: state.frames.first()?.captured_at, ..all });
        let second = units.iter().find(|unit| unit.connection == units[0].connection + 1)?;
        let after = state.frames.iter().filter(|frame| frame.captured_at > second.captured_at);
        (after.count() >= 5).then(|| (units.clone(), state.frames.clone()))
    });
    running.stop();
    let first = units[0].connection;
    let place = units.iter().position(|unit| unit.connection != first).unwrap();
    let (before, after) = (&units[place - 1], &units[place]);
    assert!(after.is_key, "the second connection begins with a key frame");
    let span = Span { from: units[0].captured_at, to: units[units.len() - 1].captured_at };

    let cut = Cut::of(units.clone(), span, span.from).expect("a key frame");
    assert!(!cut.flaws.contains(&Flaw::FormatChanged), "{:?}", cut.flaws);
    assert!(cut.units.iter().any(|unit| unit.unit.connection != first));
    let pictures = pictures(&cut);
    assert_eq!(pictures.len(), cut.units.len(), "pictures are missing");
    let is_in = |frame: &&Frame| span.from <= frame.captured_at && frame.captured_at < span.to;
    let shown: Vec<&Frame> = frames.iter().filter(is_in).collect();
    // The times of a connection's first frames are estimates.
    let of = |from: SystemTime, to: SystemTime| {
        let inside = move |frame: &&&Frame| from < frame.captured_at && frame.captured_at < to;
        shown.iter().filter(inside).copied().collect::<Vec<&Frame>>()
    };
    let [old, new] = [
        of(span.from + SECOND / 2, before.captured_at),
        of(after.captured_at + SECOND / 2, span.to),
    ];
    assert!(old.len() >= 2 && new.len() >= 2, "{} and {} frames", old.len(), new.len());
    for frame in old.into_iter().chain(new) {
        assert_shown(&pictures, &cut, frame);
    }
}

/// The camera goes on sending while its pictures become larger.
#[test]
fn a_clip_of_a_camera_that_changes_its_format_has_the_format_around_the_alert() {
    let size = |width: u32, height: u32| {
        format!("video/x-raw,format=I420,width={width},height={height},framerate=10/1")
    };
    let launch = format!(
        "videotestsrc is-live=true pattern=ball ! capsfilter name=control caps={} \
         ! openh264enc gop-size=10 scene-change-detection=false ! h264parse \
         ! rtph264pay name=pay0 config-interval=-1",
        size(160, 128)
    );
    let controls = Arc::<Mutex<Vec<gst::Element>>>::default();
    let port = serve(&[("live", &launch)], &controls);
    let (recorded, running) = record(&format!("rtsp://127.0.0.1:{port}/live"));
    let frames_of = |width: u32| {
        recorded.wait("frames of a size", |state| {
            let frames = || state.frames.iter().filter(|frame| frame.width == width);
            let last = frames().next_back()?.captured_at;
            let is_held = state.ring.newest()? > last;
            (frames().count() >= 15 && is_held).then(|| frames().cloned().collect::<Vec<_>>())
        })
    };
    let small = frames_of(160);
    let caps: gst::Caps = size(320, 256).parse().unwrap();
    controls.lock().unwrap().iter().for_each(|control| control.set_property("caps", &caps));
    let large = frames_of(320);
    running.stop();

    let span = Span { from: small[5].captured_at, to: large[large.len() - 1].captured_at };
    for (around, frames, pixels) in
        [(span.from + SECOND, &small[6..12], 160 * 128), (span.to, &large[5..10], 320 * 256)]
    {
        let cut = Cut::of(recorded.units(span), span, around).expect("a key frame");
        assert!(cut.flaws.contains(&Flaw::FormatChanged), "{:?}", cut.flaws);
        let pictures = pictures(&cut);
        assert_eq!(pictures.len(), cut.units.len(), "pictures are missing");
        assert!(pictures.iter().all(|picture| picture.bgrx.len() == 4 * pixels));
        for frame in frames {
            assert_shown(&pictures, &cut, frame);
        }
    }
}
