//! Tests the language worker with a stand-in for the model: failures, refusals, waiting, and the
//! order in which captions come out.

mod rules;
mod stand_in;
mod trials;

use std::collections::VecDeque;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use half::f16;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::*;
use crate::config::Config;
use crate::engine::caption::windows::Closed;
use crate::engine::question::pass::{PendingQuestion, Receiver};
use crate::event::Placement;
use crate::frame::{Clock, Frame};
use crate::journal::MemoryJournal;
use crate::language::{OnOutput, Room, SchemaError, Submitted};
use crate::run_clock::RunClock;
use crate::service::AnswerItem;

use stand_in::{Fate, StandIn};

/// Number of frames of each camera, one per second.
const FRAMES: u64 = 60;

/// A prompt that the model rejects.
const TOO_LONG: &str = "too long";

fn scored(questions: usize) -> Scored {
    Scored {
        scores: vec![0.75; questions],
        usage: Usage::default(),
        started: Instant::now(),
        prefill: Duration::ZERO,
    }
}

fn reply() -> Reply {
    Reply {
        text: "A dog runs.".into(),
        ids: vec![1],
        finish: FinishReason::Stop,
        usage: Usage::default(),
        started: Instant::now(),
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// Creates an engine with two cameras. At `gate`, a window is unchanged if its frames, one number
/// each, differ by less than half of the first one's square.
fn engine() -> Arc<Engine> {
    engine_with("")
}

/// Creates that engine with more tables in its config.
fn engine_with(tables: &str) -> Arc<Engine> {
    let text = r#"
        [model]
        package = "nowhere"
        plan = "2:slowfast-slow_1frms_concat-fast_1x1"
        [[camera]]
        name = "gate"
        url = "file:gate.mp4"
        window = "2s"
        caption_interval = "1s"
        max_caption_delay = "1h"
        unchanged_threshold = 0.5
        [[camera]]
        name = "yard"
        url = "file:yard.mp4"
        window = "2s"
        caption_interval = "1s"
        max_caption_delay = "1h"
    "#;
    let config = Config::parse(&(text.to_owned() + tables), Path::new("")).expect("a config");
    Engine::new(&config, MemoryJournal::shared(1, 1000), 1, Arc::new(RunClock::start()))
}

/// Adds frame `number` of a camera, which shows `light`.
fn shows(engine: &Engine, camera: &str, number: u64, light: f32) {
    let frame = Frame {
        camera: camera.into(),
        number,
        monotonic: Duration::from_secs(number),
        captured_at: at(number),
        clock: Clock::Host,
        width: 0,
        height: 0,
        bgrx: bytes::Bytes::new(),
    };
    let row = || [f16::from_f32(light)].into();
    let tokens = FrameTokens { slow: row(), fast: row() };
    engine.store(&frame, tokens, [].into(), Instant::now());
}

fn with_frames() -> Arc<Engine> {
    filled(engine())
}

/// Adds the frames of both cameras.
fn filled(engine: Arc<Engine>) -> Arc<Engine> {
    for number in 0..FRAMES {
        for camera in ["gate", "yard"] {
            shows(&engine, camera, number, 1.0 + number as f32);
        }
    }
    engine
}

/// Closes the window of the two seconds up to `second`.
fn closes(engine: &Engine, camera: &str, second: u64) {
    closes_after(engine, camera, second, 0);
}

/// Closes the window of the two seconds up to `second`, after others that ended without a notice.
fn closes_after(engine: &Engine, camera: &str, second: u64, passed_over: u64) {
    let to = Duration::from_secs(second) + Duration::from_millis(500);
    let closed = Closed { length: Duration::from_secs(2), to, passed_over };
    engine.close(&camera.into(), closed, Instant::now(), Duration::ZERO);
}

fn asks(engine: &Engine, text: &str) -> mpsc::Receiver<AnswerItem> {
    asks_for(engine, text, false)
}

/// Asks a question. `is_scored` asks for its score.
fn asks_for(engine: &Engine, text: &str, is_scored: bool) -> mpsc::Receiver<AnswerItem> {
    let (to, answer) = mpsc::channel(8);
    let window = Span { from: at(0), to: at(4) };
    let asked = PendingQuestion {
        camera: "yard".into(),
        id: String::new(),
        text: text.into(),
        prompt: text.into(),
        turns: Arc::default(),
        conversation: "c".into(),
        max_new_tokens: 8,
        is_scored,
        schema: None,
        trace_parent: None,
        window,
        plan: engine.plan,
        clip: engine.clip("yard", window.into()).expect("frames"),
        encode: Duration::ZERO,
        asked_at: Instant::now(),
        to,
        receiver: Receiver::Asker,
    };
    assert!(
        engine.jobs().scheduler.ask(Job::Question(Box::new(asked))).is_ok(),
        "the queue is full"
    );
    answer
}

/// Runs the worker with four slots. `between` is called before each step, until it stops the engine.
fn work(
    engine: &Arc<Engine>,
    fates: Vec<Fate>,
    between: impl FnMut(&Arc<Engine>) + Send + 'static,
) -> Result<(), ModelError> {
    work_with(4, engine, fates, between)
}

fn work_with(
    slots: usize,
    engine: &Arc<Engine>,
    fates: Vec<Fate>,
    between: impl FnMut(&Arc<Engine>) + Send + 'static,
) -> Result<(), ModelError> {
    let backend = StandIn {
        engine: engine.clone(),
        slots,
        background: Vec::new(),
        fates: fates.into(),
        work: Vec::new(),
        questions: HashMap::new(),
        begun: 0,
        refused: Vec::new(),
        between: Box::new(between),
    };
    let device = Placement { device: "none".into(), reason: String::new() };
    let worker = LanguageWorker {
        backend,
        dim: 1,
        model: "stand-in".into(),
        devices: Devices { vision: device.clone(), language: device },
    };
    worker.run(engine)
}

/// Returns the end of an answer, if it has one.
fn last(mut answer: mpsc::Receiver<AnswerItem>) -> Option<Result<(), AskError>> {
    let mut last = None;
    while let Ok(item) = answer.try_recv() {
        last = match item {
            AnswerItem::Finished(_) => Some(Ok(())),
            AnswerItem::Failed(error) => Some(Err(error)),
            AnswerItem::Part(_) | AnswerItem::Token(_) => last,
        };
    }
    last
}

/// Returns a camera's captions as (second at which the window ends, text, skipped before).
fn captions(engine: &Engine, camera: &str) -> Vec<(u64, String, u32)> {
    let mut captions = Vec::new();
    for event in (1..).map_while(|sequence| engine.journal.get(None, sequence)) {
        if let Body::Caption(caption) = &event.body
            && *event.camera == *camera
        {
            let since = caption.inference.window.to.duration_since(at(0)).expect("later");
            captions.push((
                since.as_secs(),
                caption.inference.text.clone(),
                caption.skipped_windows,
            ));
        }
    }
    captions
}

/// Stops the engine before this many steps have passed.
fn for_steps(steps: usize) -> impl FnMut(&Arc<Engine>) + Send + 'static {
    let mut passed = 0;
    move |engine| {
        passed += 1;
        if passed == steps {
            engine.jobs().stopping = true;
        }
    }
}

#[test]
fn a_failed_run_is_reported_and_counted_and_the_next_job_runs() {
    let engine = with_frames();
    let not_finite = Fate::Fails(Failure::NotFinite);
    let failed = Fate::Fails(Failure::Run("out of memory".into()));
    let answers = ["a", "b", "c", "d"].map(|text| asks(&engine, text));
    closes(&engine, "yard", 10);
    // After the question that fails at once, the caption is started, then the last two questions.
    let fates = vec![
        failed.clone(),
        not_finite,
        Fate::FailsAtOnce,
        failed,
        Fate::Steps(2),
        Fate::Steps(20),
    ];
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            4 => closes(engine, "yard", 20),
            8 => engine.jobs().stopping = true,
            _ => {}
        }
    };
    // This keeps the worker busy until the end.
    let _listening = asks(&engine, "e");
    assert!(work(&engine, fates, between).is_ok());
    let [a, b, c, d] = answers.map(last);
    let unavailable = AskError::ModelFailedTemporarily("out of memory".into());
    assert_eq!(a, Some(Err(unavailable.clone())));
    assert_eq!(b, Some(Err(AskError::ModelFailed("the model's logits are not finite".into()))));
    assert_eq!(c, Some(Err(unavailable)));
    assert_eq!(d, Some(Ok(())));
    assert_eq!(captions(&engine, "yard"), [(20, "A dog runs.".into(), 1)]);
}

#[test]
fn a_skipped_window_is_counted_by_the_caption_that_follows_it() {
    let engine = with_frames();
    closes(&engine, "yard", 10);
    let mut step = 0;
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            // The caption of the window to 10 s is in progress.
            2 => closes(engine, "yard", 12),
            3 => closes(engine, "yard", 14),
            8 => closes_after(engine, "yard", 20, 2),
            12 => engine.jobs().stopping = true,
            _ => {}
        }
    };
    // This keeps the worker busy until the end.
    let _listening = asks(&engine, "e");
    let fates = vec![Fate::Steps(20), Fate::Steps(4), Fate::Steps(2), Fate::Steps(2)];
    assert!(work(&engine, fates, between).is_ok());
    let ends: Vec<_> =
        captions(&engine, "yard").into_iter().map(|(end, _, skipped)| (end, skipped)).collect();
    assert_eq!(ends, [(10, 0), (14, 1), (20, 2)]);
}

#[test]
fn a_text_that_fails_by_its_schema_is_an_error_of_the_asker() {
    let engine = with_frames();
    let answers = ["a", "b"].map(|text| asks(&engine, text));
    // This keeps the worker busy until the end.
    let _listening = asks(&engine, "c");
    let too_costly = Failure::Schema(SchemaError("schema is too costly".into()));
    let fates = vec![Fate::Fails(too_costly), Fate::Steps(2), Fate::Steps(9)];
    assert!(work(&engine, fates, for_steps(6)).is_ok());
    let [failed, answered] = answers.map(last);
    let error = AskError::InvalidField { field: "schema", why: "schema is too costly".into() };
    assert_eq!(failed, Some(Err(error)));
    assert_eq!(answered, Some(Ok(())));
}

/// A caption goes first after a refused question. If that caption fails, a question is next.
#[test]
fn after_a_failed_caption_a_question_goes_before_the_next_caption() {
    let engine = with_frames();
    let _running = asks(&engine, "e");
    let _refused = asks(&engine, TOO_LONG);
    let question = asks(&engine, "a");
    closes(&engine, "gate", 10);
    closes(&engine, "yard", 10);
    let fates = vec![Fate::Steps(20), Fate::FailsAtOnce, Fate::Fails(Failure::NotFinite)];
    assert!(work(&engine, fates, for_steps(6)).is_ok());
    let not_finite = AskError::ModelFailed("the model's logits are not finite".into());
    assert_eq!(last(question), Some(Err(not_finite)));
}

#[test]
fn a_broken_model_fails_all_waiting_questions_at_once() {
    let engine = with_frames();
    let answers: Vec<_> = (0..7).map(|n| asks(&engine, &n.to_string())).collect();
    let error = work(&engine, vec![Fate::Steps(9), Fate::Breaks], |_| {}).expect_err("broken");
    assert_eq!(error.to_string(), "slots are lost");
    for answer in answers {
        assert_eq!(last(answer), Some(Err(AskError::ModelFailed("slots are lost".into()))));
    }
    assert!(engine.jobs().stopping, "nothing more is taken");
}

#[test]
fn refused_questions_do_not_delay_running_answers_and_captions() {
    let engine = with_frames();
    let running = asks(&engine, "Who is there?");
    closes(&engine, "yard", 10);
    let _asking = [TOO_LONG; 3].map(|text| asks(&engine, text));
    assert!(work(&engine, vec![Fate::Steps(6)], for_steps(5)).is_ok());
    assert_eq!(last(running), Some(Ok(())));
    assert_eq!(captions(&engine, "yard").len(), 1);
}

#[test]
fn a_window_whose_frames_were_evicted_is_skipped_and_counted_in_the_next_caption() {
    let engine = with_frames();
    closes(&engine, "yard", FRAMES + 1000);
    let mut step = 0;
    let _listening = asks(&engine, "Who?");
    let between = move |engine: &Arc<Engine>| {
        step += 1;
        match step {
            2 => closes(engine, "yard", 10),
            6 => engine.jobs().stopping = true,
            _ => {}
        }
    };
    assert!(work(&engine, vec![Fate::Steps(20)], between).is_ok());
    assert_eq!(captions(&engine, "yard"), [(10, "A dog runs.".into(), 1)]);
}

#[test]
fn a_scored_question_is_answered_with_its_score() {
    let engine = with_frames();
    let mut answer = asks_for(&engine, "Is there a dog?", true);
    assert!(work(&engine, Vec::new(), for_steps(1)).is_ok());
    let text = match answer.try_recv() {
        Ok(AnswerItem::Token(text)) => text,
        other => panic!("{other:?}"),
    };
    let Ok(AnswerItem::Finished(event)) = answer.try_recv() else { panic!("no answer") };
    let Body::Answer(answer) = &event.body else { panic!("{event:?}") };
    assert_eq!((&*text, &*answer.inference.text, answer.yes_score), ("Yes.", "Yes.", Some(0.75)));
    assert_eq!(answer.inference.prompt, "Is there a dog?");
}

#[test]
fn an_idle_worker_ends_when_the_engine_stops() {
    let engine = engine();
    let worker = thread::spawn({
        let engine = engine.clone();
        move || work(&engine, Vec::new(), |_| {})
    });
    engine.stop();
    assert!(worker.join().expect("no panic").is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Captions may take any time, and any may fail, be skipped or be unchanged: a camera's
    /// captions come out in the order of its windows, and each window is published or counted as
    /// skipped.
    #[test]
    fn captions_of_a_camera_are_published_in_order(
        lights in prop::collection::vec(1u8..3, FRAMES as usize),
        closing in prop::collection::vec((any::<bool>(), any::<bool>()), FRAMES as usize - 2),
        fates in prop::collection::vec(0usize..9, 2 * FRAMES as usize),
    ) {
        let engine = engine();
        for (number, light) in (0..).zip(&lights) {
            shows(&engine, "gate", number, f32::from(*light));
            shows(&engine, "yard", number, f32::from(*light));
        }
        // The question keeps the worker from waiting for this thread's actions.
        let _listening = asks(&engine, "Who?");
        let fate = |steps: usize| match steps {
            0 => Fate::Fails(Failure::Run("out of memory".into())),
            steps => Fate::Steps(steps),
        };
        let fates = [Fate::Steps(1000)].into_iter().chain(fates.into_iter().map(fate)).collect();
        let mut seconds = (2..).zip(closing.clone());
        let mut rest = for_steps(60);
        let between = move |engine: &Arc<Engine>| match seconds.next() {
            Some((second, (gate, yard))) => {
                for camera in [gate.then_some("gate"), yard.then_some("yard")].into_iter().flatten() {
                    closes(engine, camera, second);
                }
            }
            None => rest(engine),
        };
        prop_assert!(work(&engine, fates, between).is_ok());
        for (camera, wanted) in [
            ("gate", closing.iter().filter(|(gate, _)| *gate).count()),
            ("yard", closing.iter().filter(|(_, yard)| *yard).count()),
        ] {
            let published = captions(&engine, camera);
            let ends: Vec<u64> = published.iter().map(|(end, _, _)| *end).collect();
            prop_assert!(ends.is_sorted_by(|a, b| a < b), "{} {:?}", camera, ends);
            let reported: u32 = published.iter().map(|(_, _, skipped)| skipped).sum();
            let progress = &engine.cameras.get(camera).expect("known").progress;
            let (closed, captioned) = progress.windows();
            prop_assert_eq!(published.len() + reported as usize, captioned as usize);
            prop_assert_eq!(closed as usize, wanted);
        }
    }
}
