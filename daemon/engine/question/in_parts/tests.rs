//! Tests questions in parts against an engine without workers: the test answers as the language
//! worker would.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use half::f16;

use super::*;
use crate::config::Config;
use crate::disk::DiskEvents;
use crate::engine::job::Job;
use crate::engine::question::pass::PendingQuestion;
use crate::event::{Body, Devices, Placement};
use crate::frame::FrameId;
use crate::journal::MemoryJournal;
use crate::language::tokenizer::Tokenizer;
use crate::language::{Schema, SchemaCompiler};
use crate::question::{Draft, Limits, Question as Checked, RawTime};
use crate::run_clock::{Moment, RunClock};
use crate::service::AnswerStream;
use crate::slowfast::FrameTokens;
use crate::timeline::{DiskAddress, DiskState, Entry, Residency};

const RUN: u64 = 2000;
/// Number of frames, two per second.
const FRAMES: u64 = 80;

fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
}

/// Creates an engine with 40 s of frames. The frames before `lost` are on a disk that does not
/// exist.
fn engine(lost: u64) -> Arc<Engine> {
    let config = r#"
        [model]
        package = "package"
        plan = "4:slowfast-slow_2frms_concat-fast_1x1"
        [generate]
        max_waiting_questions = 2
        [[camera]]
        name = "gate"
        url = "rtsp://127.0.0.1/1"
        fps = 2.0
        window = "4s"
        caption_interval = "4s"
    "#;
    let config = Config::parse(config, Path::new("")).expect("a config");
    let engine =
        Engine::new(&config, MemoryJournal::shared(RUN, 100), RUN, Arc::new(RunClock::start()));
    let entry = |number: u64| Entry {
        id: FrameId { run: if number < lost { RUN - 1 } else { RUN }, number },
        monotonic: Duration::from_millis(number * 500),
        captured_at: at(number * 500),
        clock: Clock::Camera,
        residency: Residency::Disk,
        disk_state: DiskState::At(DiskAddress { segment: 1, offset: 0, length: 100 }),
        left_before: None,
    };
    engine.restored("gate", (0..lost).map(entry).collect());
    for number in lost..FRAMES {
        let [slow, fast] = [8, 2].map(|count| vec![f16::ZERO; count].into());
        let tokens = Arc::new(FrameTokens { slow, fast });
        let residency = Residency::Hot { tokens, jpeg: Arc::new([0]) };
        let entry = Entry { residency, disk_state: DiskState::Absent, ..entry(number) };
        engine.change_ring("gate", |ring| assert!(ring.push(entry)));
    }
    engine
}

fn ask(engine: &Arc<Engine>, draft: Draft) -> AnswerStream {
    try_ask(engine, draft).expect("it is accepted")
}

fn try_ask(engine: &Arc<Engine>, draft: Draft) -> Result<AnswerStream, AskError> {
    let time = |milliseconds| Some(RawTime::Parts { seconds: milliseconds / 1000, nanos: 0 });
    let (from, to) = match draft.conversation {
        Some(_) => (None, None),
        None => (time(0), time(FRAMES as i64 * 500)),
    };
    let (camera, text) = ("gate".into(), "What came?".into());
    let draft = Draft { camera, text, from, to, ..draft };
    let question = Checked::new(draft, &Limits::unknown()).expect("a question");
    engine.ask(question)
}

fn in_parts(engine: &Arc<Engine>) -> AnswerStream {
    ask(engine, Draft { detail: Some("parts".into()), ..Draft::default() })
}

/// Takes the next pass from the queue. Returns `None` if the question has ended, or waits for
/// nothing that the test can give.
async fn next(engine: &Engine) -> Option<PendingQuestion> {
    for _ in 0..100 {
        let next = engine.jobs().scheduler.take();
        match next {
            Some(Job::Question(asked)) => return Some(*asked),
            Some(_) => panic!("only questions are queued"),
            None => tokio::task::yield_now().await,
        }
    }
    None
}

/// Answers a question, as the language worker does.
fn reply(engine: &Engine, asked: PendingQuestion, text: &str) {
    let cpu = Placement { device: "cpu".into(), reason: String::new() };
    let inference = Inference {
        prompt: asked.text.clone(),
        text: text.into(),
        window: asked.window,
        coverage: asked.clip.coverage.clone(),
        frames: asked.clip.references.clone(),
        model: "model".into(),
        devices: Devices { vision: cpu.clone(), language: cpu },
        finish_reason: FinishReason::Stop,
        usage: Usage::default(),
        timing: Timing::default(),
    };
    let earlier_turns = asked.turns.len() as u32;
    let jpegs = engine.jpegs_of(&asked.camera, &asked.clip);
    asked.finish(engine, inference, jpegs, earlier_turns, None);
}

async fn finished(mut answer: AnswerStream) -> Result<Answer, AskError> {
    loop {
        match answer.recv().await.expect("an end") {
            AnswerItem::Finished(event) => {
                let Body::Answer(answer) = &event.body else { panic!("{event:?}") };
                return Ok(answer.clone());
            }
            AnswerItem::Failed(error) => return Err(error),
            AnswerItem::Part(_) | AnswerItem::Token(_) => {}
        }
    }
}

#[tokio::test]
async fn parts_without_frames_are_gaps_and_the_rest_is_answered() {
    let engine = engine(FRAMES / 2);
    let answer = in_parts(&engine);
    let mut asked = 0;
    while let Some(part) = next(&engine).await {
        assert!(part.window.from >= at(20_000 - 250), "{:?}", part.window);
        reply(&engine, part, "No.");
        asked += 1;
    }
    let whole = finished(answer).await.expect("an answer");
    assert_eq!((asked, whole.parts.len()), (8, 8));
    assert_eq!(whole.inference.text, "No, in none of 8 parts.");
    let [gap] = &whole.inference.coverage.gaps[..] else {
        panic!("{:?}", whole.inference.coverage)
    };
    assert_eq!((gap.cause, gap.span.from), (GapCause::Evicted, at(0)));
    assert_eq!(gap.span.to, whole.parts[0].window.from);
}

#[tokio::test]
async fn if_no_part_has_frames_the_question_fails() {
    let engine = engine(FRAMES);
    let answer = in_parts(&engine);
    assert!(next(&engine).await.is_none());
    let error = finished(answer).await.expect_err("nothing is seen");
    assert!(matches!(error, AskError::NoFrames { .. }), "{error}");
}

#[tokio::test]
async fn if_the_range_has_no_frames_left_for_a_summary_the_parts_are_listed() {
    let engine = engine(FRAMES - 8);
    let answer = in_parts(&engine);
    for text in ["A dog came.", "A car came."] {
        let part = next(&engine).await.expect("a part");
        assert_eq!(part.prompt, "What came?");
        reply(&engine, part, text);
    }
    assert!(next(&engine).await.is_none());
    let whole = finished(answer).await.expect("an answer");
    assert_eq!(whole.summary_method, Some(SummaryMethod::List));
    assert!(whole.inference.text.ends_with(" UTC: A car came."), "{}", whole.inference.text);
}

/// Asks a question whose sixteen parts get long answers.
async fn with_sixteen_parts(engine: &Arc<Engine>) -> AnswerStream {
    let answer = in_parts(engine);
    for number in 0..parts::MAX_PARTS {
        let part = next(engine).await.expect("a part");
        reply(engine, part, &format!("Car {number}: {}", "it drives by. ".repeat(30)));
    }
    answer
}

#[tokio::test]
async fn a_summary_that_does_not_fit_is_tried_with_fewer_frames_and_shorter_notes() {
    let engine = engine(0);
    let answer = with_sixteen_parts(&engine).await;
    let mut tried = Vec::new();
    for _ in 1..SUMMARY_SETTINGS.len() {
        let look = next(&engine).await.expect("a look at the whole");
        tried.push((look.clip.frames.len(), look.plan.slow_frames, look.prompt.len() / 100));
        look.reject("no room".into());
    }
    assert_eq!(tried, [(4, 2, 36), (2, 1, 36), (1, 1, 20), (1, 1, 12)]);
    let look = next(&engine).await.expect("the last look");
    assert!(look.prompt.ends_with(": What came?") && look.prompt.contains("Car 15"));
    reply(&engine, look, "Sixteen cars came.");
    let whole = finished(answer).await.expect("an answer");
    assert_eq!(
        (whole.summary_method, &*whole.inference.text),
        (Some(SummaryMethod::Model), "Sixteen cars came.")
    );
    assert_eq!(whole.parts.len(), 16);
}

/// Asks by a schema, after the engine got a compiler for it.
fn by_schema(engine: &Arc<Engine>, schema: &str, detail: &str) -> AnswerStream {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers/llama_bos");
    let tokenizer = Tokenizer::load(&folder).expect("a tokenizer");
    let vocabulary = tokenizer.vocab_size();
    engine.accept_schemas(Arc::new(SchemaCompiler::new(Arc::new(tokenizer), &[2], vocabulary)));
    let (schema, detail) = (Some(schema.into()), Some(detail.into()));
    ask(engine, Draft { schema, detail, ..Draft::default() })
}

/// Waits for the next pass while the schema is compiled on another thread.
async fn next_after_compiling(engine: &Engine) -> PendingQuestion {
    for _ in 0..6000 {
        if let Some(asked) = next(engine).await {
            return asked;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no pass is queued")
}

const SCHEMA: &str = r#"{"type": "object", "properties": {"cars": {"type": "integer"}}}"#;

#[tokio::test]
async fn only_the_last_pass_of_a_question_in_parts_follows_the_schema() {
    let engine = engine(0);
    let answer = by_schema(&engine, SCHEMA, "parts");
    let mut pass = next_after_compiling(&engine).await;
    // Without a schema, the answers of the parts would be combined by a rule.
    while pass.prompt == "What came?" {
        assert!(pass.schema.is_none());
        reply(&engine, pass, "Yes.");
        pass = next(&engine).await.expect("a further pass");
    }
    let sha256 = pass.schema.as_deref().map(Schema::sha256).expect("a schema").to_owned();
    reply(&engine, pass, r#"{"cars": 3}"#);
    let whole = finished(answer).await.expect("an answer");
    assert_eq!(whole.inference.text, r#"{"cars": 3}"#);
    assert_eq!(whole.summary_method, Some(SummaryMethod::Model));
    assert_eq!(whole.schema_sha256.as_deref(), Some(&*sha256));
    assert_eq!(sha256.len(), 64);
}

#[tokio::test]
async fn if_no_pass_can_follow_the_schema_the_question_fails() {
    let engine = engine(0);
    let answer = by_schema(&engine, SCHEMA, "parts");
    let mut pass = next_after_compiling(&engine).await;
    while pass.prompt == "What came?" {
        reply(&engine, pass, "A car.");
        pass = next(&engine).await.expect("a further pass");
    }
    for _ in 1..SUMMARY_SETTINGS.len() {
        pass.reject("no room".into());
        pass = next(&engine).await.expect("a further pass");
    }
    pass.reject("no room".into());
    let error = finished(answer).await.expect_err("there is no list of parts");
    assert!(error.to_string().contains("do not fit into the model's context"), "{error}");
}

#[tokio::test]
async fn a_schema_that_cannot_be_compiled_is_refused_before_any_pass() {
    let engine = engine(0);
    for detail in ["overview", "parts"] {
        let answer = by_schema(&engine, r#"{"not": {}}"#, detail);
        let error = finished(answer).await.expect_err("a refusal");
        let AskError::InvalidField { field: "schema", why } = &error else { panic!("{error}") };
        assert!(why.contains("not"), "{why}");
        assert!(next(&engine).await.is_none());
    }
    // The refused questions have left the queue.
    let both = [in_parts(&engine), in_parts(&engine)];
    drop(both);
}

#[tokio::test]
async fn if_no_summary_fits_the_parts_are_listed() {
    let engine = engine(0);
    let answer = with_sixteen_parts(&engine).await;
    for _ in 0..SUMMARY_SETTINGS.len() {
        next(&engine).await.expect("a look at the whole").reject("no room".into());
    }
    assert!(next(&engine).await.is_none());
    let whole = finished(answer).await.expect("an answer");
    assert_eq!((whole.summary_method, whole.parts.len()), (Some(SummaryMethod::List), 16));
}

#[tokio::test]
async fn two_questions_of_a_conversation_at_once_both_become_turns() {
    let engine = engine(0);
    let newest = Moment { monotonic: Duration::from_millis(39_500), utc: at(39_500) };
    engine.cameras.get("gate").expect("known").progress.set_newest(newest, Instant::now());
    let talk = || ask(&engine, Draft { conversation: Some("a".into()), ..Draft::default() });
    let first = talk();
    reply(&engine, next(&engine).await.expect("the first"), "A dog.");
    let window = finished(first).await.expect("an answer").inference.window;
    let both = [talk(), talk()];
    for text in ["It is brown.", "It runs."] {
        reply(&engine, next(&engine).await.expect("a further one"), text);
    }
    for answer in both {
        let further = finished(answer).await.expect("an answer");
        assert_eq!((further.earlier_turns, further.inference.window), (1, window));
    }
    let _third = talk();
    let turns = next(&engine).await.expect("the third").turns;
    let answers: Vec<&str> = turns.iter().map(|turn| &*turn.answer).collect();
    assert_eq!(answers, ["A dog.", "It is brown.", "It runs."]);
}

fn fail(asked: PendingQuestion, why: &str) {
    asked.fail(AskError::ModelFailedTemporarily(why.into()));
}

#[tokio::test]
async fn a_part_on_which_the_model_fails_is_a_gap_and_the_rest_is_answered() {
    let engine = engine(FRAMES / 2);
    let answer = in_parts(&engine);
    let mut windows = Vec::new();
    while let Some(part) = next(&engine).await {
        windows.push(part.window);
        if windows.len() == 3 {
            fail(part, "out of memory");
        } else {
            reply(&engine, part, "No.");
        }
    }
    let whole = finished(answer).await.expect("an answer");
    assert_eq!((windows.len(), whole.parts.len()), (8, 7));
    let gap = Gap { span: windows[2], cause: GapCause::ModelFailed };
    assert!(whole.inference.coverage.gaps.contains(&gap), "{:?}", whole.inference.coverage);
    assert_eq!(whole.inference.coverage.gaps.len(), 2, "{:?}", whole.inference.coverage);
}

#[tokio::test]
async fn if_the_model_fails_on_every_part_the_question_fails() {
    let engine = engine(0);
    let answer = in_parts(&engine);
    while let Some(part) = next(&engine).await {
        fail(part, "out of memory");
    }
    let error = finished(answer).await.expect_err("no part is answered");
    assert_eq!(error, AskError::ModelFailedTemporarily("out of memory".into()));
}

#[tokio::test]
async fn a_broken_model_ends_the_question_with_its_error() {
    let engine = engine(0);
    let answer = in_parts(&engine);
    let part = next(&engine).await.expect("a part");
    engine.broken("no GPU");
    part.fail(AskError::ModelFailed("no GPU".into()));
    assert!(next(&engine).await.is_none());
    let error = finished(answer).await.expect_err("the model is broken");
    assert_eq!(error, AskError::ModelFailed("no GPU".into()));
}

/// The queue has room for two questions. One in parts takes one place, also while its part waits.
#[tokio::test]
async fn a_question_in_parts_counts_once_and_frees_its_place_when_cancelled() {
    let engine = engine(0);
    let slots = |engine: &Engine| engine.queue_slots.load(std::sync::atomic::Ordering::Relaxed);
    let long = in_parts(&engine);
    tokio::task::yield_now().await;
    assert_eq!((engine.jobs().scheduler.questions().count(), slots(&engine)), (1, 1));
    let whole = || Draft { detail: Some("overview".into()), ..Draft::default() };
    let _short = ask(&engine, whole());
    assert!(matches!(try_ask(&engine, whole()), Err(AskError::QueueFull { waiting: 2, .. })));
    drop(long);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(slots(&engine), 0);
    assert!(try_ask(&engine, whole()).is_ok());
    engine.finish_tasks().await;
}

/// Sets the clock back by 20 s after the event, so that the times of its frames occur twice.
#[tokio::test]
async fn a_question_about_an_event_finds_its_frames_after_the_clock_was_set_back() {
    let engine = engine(0);
    let first = ask(&engine, Draft { detail: Some("overview".into()), ..Draft::default() });
    let asked = next(&engine).await.expect("the question");
    let seen = asked.clip.references.clone();
    reply(&engine, asked, "A dog.");
    let event = finished(first).await.expect("an answer");
    for number in FRAMES..FRAMES + 40 {
        let [slow, fast] = [8, 2].map(|count| vec![f16::ZERO; count].into());
        let residency =
            Residency::Hot { tokens: Arc::new(FrameTokens { slow, fast }), jpeg: Arc::new([0]) };
        let entry = Entry {
            id: FrameId { run: RUN, number },
            monotonic: Duration::from_millis(number * 500),
            captured_at: at(number * 500 - 20_000),
            clock: Clock::Camera,
            residency,
            disk_state: DiskState::Absent,
            left_before: None,
        };
        engine.change_ring("gate", |ring| assert!(ring.push(entry)));
    }
    let draft = Draft {
        camera: "gate".into(),
        text: "What colour?".into(),
        event: Some(1),
        detail: Some("overview".into()),
        ..Draft::default()
    };
    let question = Checked::new(draft, &Limits::unknown()).expect("a question");
    let _answer = engine.ask(question).expect("accepted");
    let asked = next(&engine).await.expect("the question");
    assert_eq!(asked.window, event.inference.window);
    assert_eq!(asked.clip.references, seen);
}
