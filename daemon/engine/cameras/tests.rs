//! Tests adding and removing cameras of a running engine.

use std::path::Path;
use std::time::SystemTime;

use half::f16;
use tokio::sync::mpsc;

use super::*;
use crate::config::Config;
use crate::engine::caption::windows::Closed;
use crate::engine::job::Job;
use crate::engine::scheduler::Job as _;
use crate::event::{EventId, Unchanged};
use crate::frame::{Clock, Frame};
use crate::journal::MemoryJournal;
use crate::language::Turn;
use crate::question::{Draft, Limits as QuestionLimits, Question};
use crate::service::AnswerItem;
use crate::slowfast::FrameTokens;
use crate::timeline::FrameData;

const RUN: u64 = 7;

fn config(cameras: &[&str]) -> Config {
    let camera = |name: &&str| {
        format!("[[camera]]\nname = \"{name}\"\nurl = \"file:{name}.mp4\"\nwindow = \"2s\"\n")
    };
    let text = "[model]\npackage = \"nowhere\"\nplan = \"2:slowfast-slow_1frms_concat-fast_1x1\"\n"
        .to_owned()
        + &cameras.iter().map(camera).collect::<String>();
    Config::parse(&text, Path::new("")).expect("a config")
}

fn engine(cameras: &[&str]) -> Arc<Engine> {
    let clock = Arc::new(RunClock::start());
    Engine::new(&config(cameras), MemoryJournal::shared(RUN, 100), RUN, clock)
}

fn frame(camera: &str, number: u64) -> Frame {
    Frame {
        camera: camera.into(),
        number,
        monotonic: Duration::from_secs(number),
        captured_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + number),
        clock: Clock::Host,
        width: 0,
        height: 0,
        bgrx: bytes::Bytes::new(),
    }
}

fn tokens() -> FrameTokens {
    FrameTokens { slow: [f16::ONE].into(), fast: [f16::ONE].into() }
}

/// Returns the closed window of two seconds up to `second`.
fn window_to(second: u64) -> Closed {
    let (length, to) = (Duration::from_secs(2), Duration::from_secs(second));
    Closed { length, to, passed_over: 0 }
}

fn ask(engine: &Arc<Engine>, camera: &str) -> Result<mpsc::Receiver<AnswerItem>, AskError> {
    let draft = Draft { camera: camera.into(), text: "Who?".into(), ..Draft::default() };
    engine.ask(Question::new(draft, &QuestionLimits::unknown()).expect("a question"))
}

/// Leaves something of the camera in every place that can keep it.
fn use_everywhere(engine: &Arc<Engine>, camera: &str) -> mpsc::Receiver<AnswerItem> {
    let name: Arc<str> = camera.into();
    for number in 0..4 {
        engine.frame(frame(camera, number));
        engine.store(&frame(camera, number), tokens(), [].into(), Instant::now());
    }
    let known = engine.cameras.get(camera).expect("known");
    assert_eq!(known.windows().frame(Duration::from_secs(3), Instant::now()), None);
    let window =
        Unchanged { since: SystemTime::UNIX_EPOCH, event: EventId { run: RUN, sequence: 1 } };
    let clip = {
        let closed = window_to(4);
        engine.close(&name, closed, Instant::now(), Duration::ZERO);
        // The caption is in progress. Questions of other cameras wait.
        let mut jobs = engine.jobs();
        jobs.scheduler.refused();
        assert!(matches!(jobs.scheduler.take(), Some(Job::Caption(_))));
        drop(jobs);
        engine.close(&name, closed, Instant::now(), Duration::ZERO);
        let span = known.ring().span().expect("frames");
        engine.clip(camera, span.into()).expect("frames")
    };
    known.change().captioned(&clip.frames, 1, window);
    let id = crate::frame::FrameId { run: RUN, number: 0 };
    let data = FrameData { tokens: Some(Arc::new(tokens())), jpeg: None };
    engine.reencoded().put((name.clone(), id), data, 4);
    let known = crate::engine::question::conversations::Conversation {
        window: clip.coverage.covered_span.expect("frames"),
        frames: None,
        turns: Vec::new(),
    };
    let turn = Turn { question: "Who?".into(), answer: "Nobody.".into() };
    sync::lock(&engine.conversations).add(("talk".into(), name), known, turn, Instant::now());
    ask(engine, camera).expect("accepted")
}

/// Returns the places in which something of the camera is kept.
fn kept(engine: &Engine, camera: &str) -> Vec<&'static str> {
    let key = ("talk".into(), camera.into());
    let mut reencoded = engine.reencoded();
    let id = crate::frame::FrameId { run: RUN, number: 0 };
    let jobs = engine.jobs();
    let places = [
        ("registry", engine.cameras.get(camera).is_some()),
        ("inbox", engine.inbox.lock().knows(camera)),
        ("scheduler", jobs.scheduler.knows(&camera.into())),
        ("questions", jobs.scheduler.questions().any(|job| **job.camera() == *camera)),
        ("conversations", sync::lock(&engine.conversations).get(&key, Instant::now()).is_some()),
        ("re-encoded tokens", reencoded.get(&(camera.into(), id)).is_some()),
    ];
    places.into_iter().filter(|(_, is_kept)| *is_kept).map(|(place, _)| place).collect()
}

#[test]
fn nothing_remains_of_a_removed_camera_and_the_others_are_untouched() {
    let engine = engine(&["gate", "yard"]);
    let mut gate = use_everywhere(&engine, "gate");
    let mut yard = use_everywhere(&engine, "yard");
    assert_eq!(kept(&engine, "gate").len(), 6, "{:?}", kept(&engine, "gate"));
    let known = Arc::downgrade(&engine.cameras.get("gate").expect("known"));
    assert!(engine.remove_camera("gate"));
    assert_eq!(kept(&engine, "gate"), [""; 0]);
    assert!(known.upgrade().is_none(), "the ring, the windows and the settings are freed");
    let gone = AskError::CameraNotFound("gate".into());
    match gate.try_recv().expect("an end") {
        AnswerItem::Failed(error) => assert_eq!(error, gone),
        item => panic!("{item:?}"),
    }
    assert_eq!(ask(&engine, "gate").expect_err("gone"), gone);
    // What is still on its way leaves nothing behind.
    engine.frame(frame("gate", 9));
    engine.store(&frame("gate", 8), tokens(), [].into(), Instant::now());
    let closed = window_to(9);
    engine.close(&"gate".into(), closed, Instant::now(), Duration::ZERO);
    assert_eq!(kept(&engine, "gate"), [""; 0]);
    assert!(!engine.remove_camera("gate"));
    assert_eq!(kept(&engine, "yard").len(), 6);
    assert!(yard.try_recv().is_err(), "the question about the other camera waits");
}

#[test]
fn a_camera_that_is_added_works_and_its_frame_numbers_are_new() {
    let engine = engine(&["gate", "yard"]);
    let gate = &config(&["gate"]).cameras[0];
    assert!(!engine.add_camera(gate), "there is one of this name");
    let _question = use_everywhere(&engine, "gate");
    assert!(engine.remove_camera("gate") && engine.add_camera(gate));
    assert_eq!(kept(&engine, "gate"), ["registry"]);
    engine.frame(frame("gate", 0));
    let known = engine.cameras.get("gate").expect("known");
    assert_eq!(known.progress.next_number(), 5, "frames 0 to 3 were those of the first one");
    let names: Vec<_> = engine.cameras.all().iter().map(|camera| camera.name.clone()).collect();
    assert_eq!(names, ["gate".into(), "yard".into()]);
}

#[test]
fn other_settings_leave_the_ring_the_windows_and_the_numbers_alone() {
    let engine = engine(&["gate"]);
    let _question = use_everywhere(&engine, "gate");
    let known = engine.cameras.get("gate").expect("known");
    let (frames, next) = (known.ring().usage().frames, known.progress.next_number());
    let mut changed = config(&["gate"]).cameras[0].clone();
    changed.caption_prompt = Some("Who is there?".into());
    assert!(engine.update_camera(&changed, false));
    let updated = engine.cameras.get("gate").expect("known");
    assert_eq!(updated.settings.caption_prompt.as_deref(), Some("Who is there?"));
    assert_eq!((updated.ring().usage().frames, updated.progress.next_number()), (frames, next));
    assert_eq!(kept(&engine, "gate").len(), 6, "nothing was forgotten");

    // A thread that was restarted numbers its frames from 0.
    assert!(engine.update_camera(&changed, true));
    engine.frame(frame("gate", 0));
    let restarted = engine.cameras.get("gate").expect("known");
    assert_eq!(restarted.progress.next_number(), next + 1);
    let yard = config(&["yard"]);
    assert!(!engine.update_camera(&yard.cameras[0], false));
}
