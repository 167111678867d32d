//! Tests several questions at a time, on real graphs. The answers are the same with and without the
//! prefix cache, alone and together, and when other askers leave early.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use lookout::config::{Model, Sampling, Wording};
use lookout::language::{
    Budget, Decoder, Embedder, LanguageBackend, LanguageError, LanguageModel, Limits, Output,
    PrefixFrame, Reply, Request, SequenceId, Task, Turn, Urgency,
};
use lookout::model::{Package, Runtime};
use lookout::slowfast::VideoTokens;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Tokens of a video, and the longest sequence.
const VIDEO: usize = 192;
const CAPACITY: usize = 320;
/// Small and odd, so that prompts are read in many chunks.
const PREFILL_CHUNK: i64 = 61;
const MOST: usize = 12;

const QUESTIONS: [&str; 4] = [
    "What is happening?",
    "How many people are there, and what do they do?",
    "Is the gate open?",
    "Tell me of the cars.",
];

/// Returns one package of each kind of graph: keys and values written in place, in 32 and in 16
/// bits, and grown.
fn packages() -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plain = repository.join("target/golden-packages-plain/plain");
    assert!(plain.is_dir(), "{} is missing: run `make golden`", plain.display());
    vec![repository.join("models/demo/package"), repository.join("models/demo/package-fp16"), plain]
}

fn settings(package: &Path) -> Model {
    let keys = toml::toml! { device = "cpu" vision_threads = 1 language_threads = 1 };
    let more = [
        ("package", package.display().to_string().into()),
        ("plan", "1:slowfast-slow_1frms_concat-fast_1x1".into()),
        ("prefill_chunk", PREFILL_CHUNK.into()),
    ];
    let more = more.map(|(key, value): (&str, toml::Value)| (key.to_string(), value));
    Model::of(keys.into_iter().chain(more).collect()).expect("a model's settings")
}

/// Returns the shared runtime, because onnxruntime allows one environment per process.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::load(&settings(&packages()[0])).expect("onnxruntime"))
}

fn load(package: &Path, slots: usize, prefix_bytes: usize) -> LanguageModel {
    let model = settings(package);
    let package = Package::of(&model).expect("a package");
    let budget = Budget { max_new_tokens: MOST, slots, prefix_bytes };
    LanguageModel::with_capacity(runtime(), &package, &model, &Wording::default(), budget, CAPACITY)
        .expect("a model")
}

/// A window's video tokens, and the frames they stand for.
struct Window {
    video: VideoTokens,
    prefix_frames: Arc<[PrefixFrame]>,
}

fn window(package: &Path, number: u64) -> Window {
    let package = Package::read(package, &Default::default()).expect("a package");
    let dim = package.text.hidden_size;
    let mut random = StdRng::seed_from_u64(number);
    let rows = (0..VIDEO * dim).map(|_| random.random_range(-1.0..1.0)).collect();
    let prefix_frames =
        [PrefixFrame { camera: "gate".into(), run: 1, number, slow: true, reencoded: false }];
    Window { video: VideoTokens { rows, dim }, prefix_frames: prefix_frames.into() }
}

fn request<'a>(window: &'a Window, question: usize) -> Request<'a> {
    Request {
        video: &window.video,
        prefix_frames: Some(window.prefix_frames.clone()),
        jpegs: None,
        task: text(QUESTIONS[question], 4 + question * 2),
        urgency: Urgency::Now,
    }
}

/// Returns the request of the first question after earlier turns.
fn after<'a>(window: &'a Window, turns: &'a [Turn]) -> Request<'a> {
    let limits = Limits { max_new_tokens: 4, sampling: Sampling::Greedy };
    let task = Task::Text { turns, prompt: QUESTIONS[0], limits, schema: None };
    Request { task, ..request(window, 0) }
}

fn text(prompt: &str, max_new_tokens: usize) -> Task<'_> {
    let limits = Limits { max_new_tokens, sampling: Sampling::Greedy };
    Task::Text { turns: &[], prompt, limits, schema: None }
}

/// Steps the model until nothing is left, for at most `turns` steps.
fn work(
    language: &mut LanguageModel,
    texts: &mut BTreeMap<SequenceId, String>,
    turns: usize,
) -> BTreeMap<SequenceId, Reply> {
    let mut replies = BTreeMap::new();
    for _ in 0..turns {
        if language.sequences() == 0 {
            break;
        }
        let polled = language.poll(&mut |id, output| match output {
            Output::Text(piece) => texts.entry(id).or_default().push_str(piece),
            Output::Finished(reply) => {
                assert_eq!(texts[&id].trim_end(), reply.text);
                assert!(replies.insert(id, reply).is_none(), "finished twice");
            }
            Output::Scored(scored) => panic!("{scored:?}"),
            Output::Failed(failure) => panic!("{failure}"),
        });
        polled.expect("a step");
    }
    replies
}

fn alone(package: &Path, windows: &[Window]) -> Vec<Vec<u32>> {
    let mut language = load(package, 1, 0);
    let mut answers = Vec::new();
    for window in windows {
        for question in 0..QUESTIONS.len() {
            let reply = language.answer(request(window, question), |_| {});
            let reply = reply.expect("an answer");
            assert_eq!(reply.usage.cached_tokens, 0);
            answers.push(reply.ids);
        }
    }
    let different: std::collections::HashSet<_> = answers.iter().collect();
    assert!(different.len() > 2, "answers that tell nothing: {answers:?}");
    answers
}

#[test]
fn the_prefix_cache_changes_no_answer() {
    for package in packages() {
        let windows = [window(&package, 1), window(&package, 2)];
        let wanted = alone(&package, &windows);
        let one = load(&package, 1, 0).prefix_bytes(VIDEO + 8);
        // Cache sizes: room for all windows; for one only, so that two in turn evict each other;
        // for none.
        for (bytes, in_turn, hits) in
            [(4 * one, false, 6), (4 * one, true, 6), (one, true, 0), (one / 4, false, 0)]
        {
            let mut language = load(&package, 1, bytes);
            let mut cached = 0;
            let order = (0..8).map(|at| if in_turn { (at % 2, at / 2) } else { (at / 4, at % 4) });
            for (at, question) in order {
                let reply = language.answer(request(&windows[at], question), |_| {});
                let reply = reply.expect("an answer");
                assert_eq!(reply.ids, wanted[at * 4 + question], "{} {bytes}", package.display());
                cached += usize::from(reply.usage.cached_tokens as usize > VIDEO);
                assert!(language.prefix_cache_bytes() <= bytes);
            }
            assert_eq!(cached, hits, "{} {bytes} {in_turn}", package.display());
        }
    }
}

/// Compares logits bit by bit, after a restored prefix and after one that was just read.
#[test]
fn a_restored_prefix_gives_the_same_bits() {
    for folder in packages() {
        let package = Package::read(&folder, &Default::default()).expect("a package");
        let mut decoder = Decoder::load(runtime(), &package, 1, CAPACITY).expect("a decoder");
        let mut embedder = Embedder::load(runtime(), &package, 1).expect("an embedder");
        let words = embedder.embed(&[5, 6, 7, 8, 9]).expect("embeddings");
        let (mut cache, window) = (decoder.cache(3).expect("a cache"), window(&folder, 3));
        decoder.read(&mut cache, 0, &window.video.rows).expect("logits");
        let mut prefix = decoder.keep(&mut cache, 0).expect("a prefix");
        let wanted = decoder.read(&mut cache, 0, &words).expect("logits");
        for slot in [0, 2, 1] {
            // The old contents of the slot must not affect the prefix.
            decoder.read(&mut cache, slot, &words).expect("logits");
            decoder.restore(&mut cache, slot, &mut prefix).expect("room");
            assert_eq!(decoder.read(&mut cache, slot, &words).expect("logits"), wanted);
        }
        // Slots with sequences of different lengths are swapped.
        decoder.clear(&mut cache, 1).expect("a free slot");
        decoder.read(&mut cache, 1, &words).expect("logits");
        for (a, b) in [(0, 1), (2, 1)] {
            decoder.swap(&mut cache, a, b).expect("two slots");
        }
        assert_eq!([0, 1, 2].map(|slot| cache.len(slot)), [5, VIDEO + 5, VIDEO + 5]);
        let [short, mut long] =
            [0, 1].map(|slot| decoder.read(&mut cache, slot, &words).expect("logits"));
        decoder.restore(&mut cache, 0, &mut prefix).expect("room");
        decoder.read(&mut cache, 0, &words).expect("logits");
        assert_eq!(decoder.read(&mut cache, 0, &words).expect("logits"), long);
        decoder.clear(&mut cache, 0).expect("a free slot");
        decoder.read(&mut cache, 0, &words).expect("logits");
        long = decoder.read(&mut cache, 0, &words).expect("logits");
        assert_eq!(long, short);
    }
}

#[test]
fn together_and_alone_answers_are_the_same() {
    for package in packages() {
        let windows = [window(&package, 1), window(&package, 2)];
        let wanted = alone(&package, &windows);
        for (slots, bytes) in [(1, 0), (2, 1 << 30), (8, 0), (8, 1 << 30)] {
            let mut language = load(&package, slots, bytes);
            let (mut texts, mut ids) = (BTreeMap::new(), BTreeMap::new());
            let mut replies = BTreeMap::new();
            // The next question starts as soon as there is room, while the others are at any step.
            for at in 0..8 {
                while language.sequences() == language.slots() {
                    replies.extend(work(&mut language, &mut texts, 1));
                }
                let id =
                    language.submit(request(&windows[at / 4], at % 4)).expect("a free slot").id;
                ids.insert(id, at);
                replies.extend(work(&mut language, &mut texts, 3));
            }
            replies.extend(work(&mut language, &mut texts, 1000));
            assert_eq!(replies.len(), 8);
            for (id, reply) in replies {
                let at = ids[&id];
                assert_eq!(reply.ids, wanted[at], "{} {slots} slots, {at}", package.display());
            }
        }
    }
}

#[test]
fn cancelling_at_any_step_leaves_nothing_behind() {
    for package in packages() {
        let windows = [window(&package, 1), window(&package, 2)];
        let wanted = alone(&package, &windows);
        let bytes = 4 * load(&package, 1, 0).prefix_bytes(VIDEO);
        let mut language = load(&package, 3, bytes);
        let mut texts = BTreeMap::new();
        // More steps than all three answers take.
        for steps in 0..40 {
            for leaver in 0..3 {
                let questions = [(0, 0), (1, 1), (0, 2)];
                let ids = questions.map(|(at, question)| {
                    language.submit(request(&windows[at], question)).expect("a free slot").id
                });
                let mut replies = work(&mut language, &mut texts, steps);
                let before = language.sequences();
                let had_ended = replies.contains_key(&ids[leaver]);
                language.cancel(ids[leaver]).expect("a slot is freed");
                assert_eq!(before - language.sequences(), usize::from(!had_ended), "step {steps}");
                replies.extend(work(&mut language, &mut texts, 1000));
                assert_eq!((language.sequences(), language.unread()), (0, 0));
                assert!(language.prefix_cache_bytes() <= bytes);
                for (id, (at, question)) in ids.into_iter().zip(questions) {
                    match replies.get(&id) {
                        Some(reply) => assert_eq!(reply.ids, wanted[at * 4 + question]),
                        None => assert_eq!(id, ids[leaver], "step {steps}"),
                    }
                }
            }
        }
    }
}

/// Another pathway, camera, frame or run means other tokens, which must not be taken from the
/// cache.
#[test]
fn a_prefix_is_identified_by_all_of_its_input() {
    let package = &packages()[0];
    let window = window(package, 1);
    let mut language = load(package, 1, 1 << 30);
    let mut cached = |seen: PrefixFrame| {
        let request = Request { prefix_frames: Some([seen].into()), ..request(&window, 0) };
        let reply = language.answer(request, |_| {}).expect("an answer");
        reply.usage.cached_tokens > 0
    };
    let seen =
        PrefixFrame { camera: "gate".into(), run: 1, number: 1, slow: true, reencoded: false };
    assert!(!cached(seen.clone()));
    assert!(!cached(PrefixFrame { slow: false, ..seen.clone() }));
    assert!(!cached(PrefixFrame { number: 2, ..seen.clone() }));
    assert!(!cached(PrefixFrame { run: 2, ..seen.clone() }));
    assert!(!cached(PrefixFrame { reencoded: true, ..seen.clone() }));
    assert!(!cached(PrefixFrame { camera: "yard".into(), ..seen.clone() }));
    assert!(cached(seen));
    // The frames behind these tokens are unknown.
    let unknown = Request { prefix_frames: None, ..request(&window, 0) };
    let reply = language.answer(unknown, |_| {}).expect("an answer");
    assert_eq!(reply.usage.cached_tokens, 0);
}

#[test]
fn a_long_prompt_delays_answers_by_at_most_a_chunk() {
    for folder in packages() {
        let model = settings(&folder);
        let mut package = Package::of(&model).expect("a package");
        package.end_tokens.clear();
        let budget = Budget { max_new_tokens: 64, slots: 2, prefix_bytes: 0 };
        let language = LanguageModel::with_capacity(
            runtime(),
            &package,
            &model,
            &Wording::default(),
            budget,
            CAPACITY,
        );
        let (mut language, window) = (language.expect("a model"), window(&folder, 1));
        let long = Request { task: text(QUESTIONS[0], 64), ..request(&window, 0) };
        let answer = language.submit(long).expect("a free slot").id;
        while language.unread() > 0 {
            language.poll(&mut |_, _| {}).expect("a step");
        }
        language.submit(request(&window, 1)).expect("a free slot");
        let mut chunks = 0;
        let mut was_chunk = false;
        let mut has_ended = false;
        while language.unread() > 0 && !has_ended {
            let mut tokens = 0;
            let polled = language.poll(&mut |id, output| {
                tokens += usize::from(id == answer);
                has_ended |= id == answer && matches!(output, Output::Finished(_));
            });
            polled.expect("a step");
            let is_chunk = tokens == 0;
            assert!(!(is_chunk && was_chunk), "{}: two chunks in a row", folder.display());
            chunks += usize::from(is_chunk);
            was_chunk = is_chunk;
        }
        assert!(chunks > 1, "{}: nothing was read beside it", folder.display());
    }
}

/// Three askers about the same window: it is read once. Urgent prompts are read first, but after a
/// prompt that already reads the prefix they need.
#[test]
fn a_window_is_read_once_for_all_questions() {
    let package = &packages()[0];
    let (one, other) = (window(package, 1), window(package, 2));
    let mut language = load(package, 4, 1 << 30);
    let mut texts = BTreeMap::new();
    let later = |window| Request { urgency: Urgency::Later, ..request(window, 0) };
    let caption = language.submit(later(&one)).expect("a free slot").id;
    // The first chunk of the caption.
    assert!(work(&mut language, &mut texts, 1).is_empty());
    let asked = language.submit(request(&other, 1)).expect("a free slot").id;
    let same = language.submit(request(&one, 3)).expect("a free slot").id;
    let mut order = Vec::new();
    let mut cached = BTreeMap::new();
    while language.sequences() > 0 {
        for (id, reply) in work(&mut language, &mut texts, 1) {
            order.push((reply.started, id));
            cached.insert(id, reply.usage.cached_tokens as usize);
        }
    }
    order.sort();
    let order: Vec<SequenceId> = order.into_iter().map(|(_, id)| id).collect();
    assert_eq!(order, [caption, asked, same]);
    assert_eq!((cached[&caption], cached[&asked]), (0, 0));
    assert!(cached[&same] > VIDEO, "{cached:?}");
}

#[test]
fn a_conversation_sees_its_earlier_turns() {
    let package = &packages()[0];
    let window = window(package, 1);
    let mut language = load(package, 1, 1 << 30);
    let turn =
        |question: &str, answer: &str| Turn { question: question.into(), answer: answer.into() };
    let turns = [turn("Is the gate open?", "No."), turn("Why not?", "It is night.")];
    let mut ask = |turns: &[Turn]| language.answer(after(&window, turns), |_| {});
    let (first, later) = (ask(&[]).expect("an answer"), ask(&turns).expect("an answer"));
    assert_eq!(first.usage.cached_tokens, 0);
    assert!(later.usage.cached_tokens as usize > VIDEO, "the same prefix");
    let prompt = language.prompt(&turns, QUESTIONS[0]).expect("a prompt");
    assert_eq!(later.usage.text_tokens as usize, prompt.text_tokens());
    assert!(later.usage.text_tokens > first.usage.text_tokens + 8);

    let bad = |turns: &[Turn]| match language.prompt(turns, "What?") {
        Err(LanguageError::BadPrompt(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        bad(&[turn("a <image>", "")]),
        "an earlier question must not contain the model's special token \"<image>\""
    );
    assert_eq!(
        bad(&[turn("a", "b </s>")]),
        "an earlier answer must not contain the model's special token \"</s>\""
    );
    // Of too many turns, the oldest are left out.
    let many = vec![turn("Is the gate open?", "No, it is closed, and has been all day."); 40];
    let submitted = language.submit(after(&window, &many));
    let submitted = submitted.expect("the latest turns fit");
    assert!((1..40).contains(&submitted.turns), "{submitted:?}");
    language.cancel(submitted.id).expect("a slot is freed");
    let long = "Is the gate open? ".repeat(40);
    match language.answer(Request { task: text(&long, 4), ..request(&window, 0) }, |_| {}) {
        Err(LanguageError::BadPrompt(why)) => {
            assert!(why.contains("too long") && why.contains(&CAPACITY.to_string()), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(language.sequences(), 0);
}

#[test]
fn a_request_beyond_the_slots_fails_and_harms_no_other() {
    let package = &packages()[0];
    let window = window(package, 1);
    let mut language = load(package, 1, 0);
    let first = language.submit(request(&window, 0)).expect("a free slot").id;
    match language.submit(request(&window, 1)) {
        Err(LanguageError::Failed(failure)) => {
            assert!(failure.to_string().contains("max_concurrent_sequences"), "{failure}");
        }
        other => panic!("{other:?}"),
    }
    let replies = work(&mut language, &mut BTreeMap::new(), 1000);
    assert_eq!(replies.keys().collect::<Vec<_>>(), [&first]);
}
