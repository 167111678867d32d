//! Tests the vision worker with a stand-in for the model: frames that are stored, corrupt frames,
//! features that are not finite, runs that fail, and frames that several requests need again.

mod shared;

use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::config::{Config, Resize};
use crate::frame::Clock;
use crate::journal::MemoryJournal;
use crate::run_clock::RunClock;
use crate::vision::Encoded;

const RUN: u64 = 1;

/// A vision model with one feature of width 1 for each of four cells: the frame's first pixel.
/// White frames have features that are not finite, and a run with a black frame fails.
#[derive(Default)]
struct StandIn {
    /// Number of frames that were encoded.
    encoded: usize,
    /// True if every run fails.
    fails: bool,
}

impl VisionBackend for StandIn {
    fn frame_len(&self) -> usize {
        3 * 2 * 2
    }

    fn grid_tokens(&self) -> usize {
        4
    }

    fn dim(&self) -> usize {
        1
    }

    fn encode(&mut self, pixels: &[f32]) -> Result<Encoded, ModelError> {
        let frames = pixels.chunks_exact(self.frame_len());
        if self.fails || frames.clone().any(|frame| frame[0] == 0.0) {
            return Err(ModelError("out of memory".into()));
        }
        self.encoded += frames.len();
        let feature = |frame: &[f32]| if frame[0] == 1.0 { f32::NAN } else { frame[0] };
        let features = frames.flat_map(|frame| [feature(frame); 4]).collect();
        Ok(Encoded { features, took: Duration::ZERO })
    }
}

fn engine() -> Arc<Engine> {
    engine_with(2, "", "")
}

/// Creates an engine of two cameras, with windows of `frames` frames. `gate` is added to the settings
/// of the first one, `more` to the end of the config.
fn engine_with(frames: u64, gate: &str, more: &str) -> Arc<Engine> {
    let plan = format!("{frames}:slowfast-slow_1frms_concat-fast_1x1");
    let gate = format!("[[camera]]\nname = \"gate\"\nurl = \"file:gate.mp4\"\n{gate}");
    let yard = r#"
        [[camera]]
        name = "yard"
        url = "file:yard.mp4"
    "#;
    let config = format!("[model]\npackage = \"nowhere\"\nplan = {plan:?}\n{gate}{yard}{more}");
    let config = Config::parse(&config, Path::new("")).expect("a config");
    Engine::new(&config, MemoryJournal::shared(RUN, 100), RUN, Arc::new(RunClock::start()))
}

fn worker() -> VisionWorker<StandIn> {
    let preprocess = Preprocess { size: 2, mean: [0.0; 3], std: [1.0; 3], resize: Resize::Stretch };
    let model = VisionModel {
        backend: StandIn::default(),
        preprocess,
        scratch: Scratch::default(),
        plan: "2:slowfast-slow_1frms_concat-fast_1x1".parse().expect("a plan"),
    };
    let jpeg_codec = JpegCodec::new(64, 2, 90).expect("a codec");
    VisionWorker { model: Some(model), jpeg_codec, failures: Failures::default() }
}

/// Creates a frame of 4 × 4 pixels of this grey.
fn frame(camera: &str, number: u64, grey: u8) -> Arrival {
    let frame = Frame {
        camera: camera.into(),
        number,
        monotonic: Duration::from_secs(number),
        captured_at: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
        clock: Clock::Host,
        width: 4,
        height: 4,
        bgrx: vec![grey; 4 * 4 * 4].into(),
    };
    Arrival { frame, at: Instant::now() }
}

fn stored(engine: &Engine, camera: &str) -> Vec<u64> {
    let camera = engine.cameras.get(camera).expect("known");
    let ring = camera.ring();
    (0..10).filter(|number| ring.get(FrameId { run: RUN, number: *number }).is_some()).collect()
}

#[test]
fn a_frame_that_is_corrupt_or_not_finite_is_dropped_and_the_others_of_its_batch_are_stored() {
    let engine = engine();
    let mut corrupt = frame("yard", 0, 100);
    corrupt.frame.bgrx = vec![100; 7].into();
    let batch = vec![frame("gate", 0, 100), corrupt, frame("gate", 1, 255), frame("yard", 1, 100)];
    assert!(worker().encode_new(&engine, batch, &mut Vec::new()).is_ok());
    assert_eq!((stored(&engine, "gate"), stored(&engine, "yard")), (vec![0], vec![1]));
    let camera = engine.cameras.get("gate").expect("known");
    let next = |number| FrameId { run: RUN, number };
    assert_eq!(camera.ring().corrupt_between(next(0), next(2)), 1);
    assert_eq!(camera.progress.newest().map(|newest| newest.monotonic), Some(Duration::ZERO));
}

#[test]
fn without_a_model_frames_have_jpegs_and_no_tokens() {
    let engine = engine();
    let mut corrupt = frame("gate", 0, 100);
    corrupt.frame.bgrx = vec![100; 7].into();
    let mut worker = VisionWorker { model: None, ..worker() };
    let batch = vec![corrupt, frame("gate", 1, 255), frame("gate", 2, 0)];
    assert!(worker.encode_new(&engine, batch, &mut Vec::new()).is_ok());
    assert_eq!(stored(&engine, "gate"), [1, 2]);
    let camera = engine.cameras.get("gate").expect("known");
    let ring = camera.ring();
    let entry = ring.get(FrameId { run: RUN, number: 2 }).expect("a frame");
    assert_eq!(entry.tokens().map(|tokens| tokens.bytes()), Some(0));
    let jpeg = entry.jpeg().expect("a JPEG");
    assert_eq!(worker.jpeg_codec.decode(jpeg).expect("an image").bgrx[0], 0);
    assert!(worker.prepare_again(&jpeg[..jpeg.len() / 2], &mut []).is_err());
}

#[test]
fn a_failed_run_drops_its_frames_and_the_next_run_stores_again() {
    let engine = engine();
    let (mut worker, mut pixels) = (worker(), Vec::new());
    let batch = vec![frame("gate", 0, 100), frame("yard", 0, 0)];
    assert!(worker.encode_new(&engine, batch, &mut pixels).is_ok());
    assert_eq!((stored(&engine, "gate").len(), stored(&engine, "yard").len()), (0, 0));
    assert!(worker.encode_new(&engine, vec![frame("gate", 1, 100)], &mut pixels).is_ok());
    assert_eq!(stored(&engine, "gate"), [1]);
}

#[test]
fn the_worker_stores_the_frames_that_arrive_until_the_engine_stops() {
    let engine = engine();
    engine.frame(frame("gate", 0, 100).frame);
    let thread = std::thread::spawn({
        let engine = engine.clone();
        move || worker().run(&engine)
    });
    let deadline = Instant::now() + Duration::from_secs(30);
    while stored(&engine, "gate").is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    engine.stop();
    assert!(thread.join().expect("no panic").is_ok());
    assert_eq!(stored(&engine, "gate"), [0]);
}
