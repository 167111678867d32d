//! Tests the back end for servers of vLLM against a stub that runs the demo's decoder: the same words
//! and scores as in this process, and what happens when servers fail.

#[path = "vllm/daemon.rs"]
mod daemon;
#[path = "support/http_stub.rs"]
mod http_stub;
#[path = "vllm/real.rs"]
mod real;
#[path = "support/requests.rs"]
mod requests;
#[path = "vllm/stub.rs"]
mod stub;
mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use half::f16;
use lookout::config::{Model, Precision, Sampling, Secret, Servers, Wording};
use lookout::language::{
    Budget, LanguageBackend, LanguageModel, Limits, PrefixFrame, PrefixFrames, Request, Scored,
    Task, Urgency, VllmModel,
};
use lookout::model::{Package, Runtime};
use lookout::slowfast::VideoTokens;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use requests::*;
use stub::{Engine, Fault, Stub};

/// Tokens of a video, and the longest sequence of the plan: video, text and answer.
const VIDEO: usize = 192;
const CAPACITY: usize = 1024;
const NEW_TOKENS: usize = 12;

const QUESTIONS: [&str; 4] = [
    "What is happening?",
    "How many people are there, and what do they do?",
    "Is there a dog?",
    "Tell me of the cars.",
];

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/package")
}

fn settings() -> Model {
    let keys = toml::toml! {
        device = "cpu"
        vision_threads = 1
        language_threads = 1
        plan = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4"
    };
    let package = ("package".to_string(), package().display().to_string().into());
    Model::of(keys.into_iter().chain([package]).collect()).expect("a model's settings")
}

/// Returns the shared runtime, because onnxruntime allows one environment per process.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::load(&settings()).expect("onnxruntime"))
}

/// Returns the engine that all stubs share.
fn engine() -> Arc<Mutex<Engine>> {
    static ENGINE: OnceLock<Arc<Mutex<Engine>>> = OnceLock::new();
    let load = || {
        let package = Package::read(&package(), &Precision::default()).expect("the package");
        Engine::load(runtime(), &package)
    };
    ENGINE.get_or_init(load).clone()
}

fn servers(stubs: &[&Stub]) -> Servers {
    Servers {
        endpoints: stubs.iter().map(|stub| stub.address.clone()).collect(),
        model: "yard".into(),
        api_key: None,
        ca_file: None,
        timeout: PATIENCE,
        stall_timeout: PATIENCE,
    }
}

fn budget() -> Budget {
    Budget { max_new_tokens: NEW_TOKENS, slots: 4, prefix_bytes: 0 }
}

/// Loads the back end from a package without a decoder.
fn try_load(servers: &Servers) -> Result<VllmModel, String> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("onnx")).expect("made");
    for part in ["", "onnx"] {
        for entry in std::fs::read_dir(package().join(part)).expect("a package") {
            let from = entry.expect("an entry").path();
            let name = from.file_name().expect("a name").to_string_lossy().into_owned();
            if from.is_file() && !name.starts_with("decoder") {
                std::fs::copy(&from, folder.path().join(part).join(name)).expect("copied");
            }
        }
    }
    let model = settings();
    let package = Package::without_decoder(folder.path(), &model.precision).expect("a package");
    VllmModel::load(runtime(), &package, &model, &Wording::default(), budget(), servers)
        .map_err(|error| error.to_string())
}

fn load(stubs: &[&Stub]) -> VllmModel {
    try_load(&servers(stubs)).expect("servers")
}

fn refusal(servers: &Servers) -> String {
    try_load(servers).err().expect("a refusal")
}

fn local() -> LanguageModel {
    let model = settings();
    let package = Package::of(&model).expect("the package");
    LanguageModel::load(runtime(), &package, &model, &Wording::default(), budget())
        .expect("the model")
}

/// A window: its tokens as they are stored, in 16 bits, and its frames.
struct Window {
    video: VideoTokens,
    frames: PrefixFrames,
}

fn window(number: u64) -> Window {
    let dim = Package::read(&package(), &Precision::default()).expect("a package").text.hidden_size;
    let mut random = StdRng::seed_from_u64(number);
    let mut value = || f16::from_f32(random.random_range(-1.0..1.0)).to_f32();
    let rows = (0..VIDEO * dim).map(|_| value()).collect();
    let frame = PrefixFrame { camera: "gate".into(), run: 1, number, slow: true, reencoded: false };
    Window { video: VideoTokens { rows, dim }, frames: [frame].into() }
}

fn request<'a>(window: &'a Window, task: Task<'a>) -> Request<'a> {
    let prefix_frames = Some(window.frames.clone());
    Request { video: &window.video, prefix_frames, jpegs: None, task, urgency: Urgency::Now }
}

fn question<'a>(window: &'a Window, question: &'a str) -> Request<'a> {
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    request(window, Task::Text { turns: &[], prompt: question, limits, schema: None })
}

fn scores(model: &mut impl LanguageBackend, window: &Window, questions: &[Arc<str>]) -> Scored {
    scored(model, request(window, Task::Scores { questions }))
}

#[test]
fn words_and_scores_are_those_of_this_process() {
    let stub = Stub::start(&engine(), Fault::None);
    let mut remote = load(&[&stub]);
    let mut local = local();
    let rules: Vec<Arc<str>> =
        ["Is there a person?", "Is there a dog?", "Is there a red car?"].map(Arc::from).into();
    for number in 0..2 {
        let window = window(number);
        for text in QUESTIONS {
            let wanted = ask(&mut local, question(&window, text));
            let found = ask(&mut remote, question(&window, text));
            assert!(!wanted.text.is_empty());
            assert_eq!((&found.text, &found.ids), (&wanted.text, &wanted.ids), "{text}");
            assert_eq!(found.finish, wanted.finish);
            assert_eq!(found.usage.video_tokens, wanted.usage.video_tokens);
            assert_eq!(found.usage.text_tokens, wanted.usage.text_tokens);
            assert_eq!(found.usage.new_tokens, wanted.usage.new_tokens);
            assert_eq!(found.usage.cached_tokens, 128);
        }
        let wanted = scores(&mut local, &window, &rules);
        let found = scores(&mut remote, &window, &rules);
        assert_eq!(found.scores.len(), rules.len());
        for (found, wanted) in found.scores.iter().zip(&wanted.scores) {
            assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
        }
    }
    // Text and three scores per window.
    assert_eq!(stub.requests(), 2 * (QUESTIONS.len() + rules.len()));
    let window = window(0);
    ask(&mut remote, Request { urgency: Urgency::Later, ..question(&window, QUESTIONS[0]) });
    assert_eq!(stub.priorities().last(), Some(&1));
}

#[test]
fn a_server_that_cannot_be_used_is_refused_with_the_reason() {
    for (fault, wanted) in [
        (Fault::Model("other"), "it serves \"other\", but language.model is \"yard\""),
        (Fault::Table, "it runs another model than the package"),
        (Fault::Context(256), "it accepts 256 tokens"),
        (Fault::Unauthorized, "401 Unauthorized: Unauthorized; set language.api_key_file"),
        (Fault::PromptTokens, "a prompt of 11 tokens"),
        (Fault::Ignores, "it does not know logprob_token_ids"),
        (Fault::NotFiniteAfter(0), "not finite"),
    ] {
        let stub = Stub::start(&engine(), fault);
        if fault == Fault::NotFiniteAfter(0) {
            // It may work later: the daemon starts without it.
            let troubles = load(&[&stub]).health().troubles();
            assert!(troubles[0].contains(wanted), "{troubles:?}");
            continue;
        }
        let error = refusal(&servers(&[&stub]));
        assert!(error.starts_with(&format!("language server {}: ", stub.address)), "{error}");
        assert!(error.contains(wanted), "{fault:?}: {error}");
        assert_eq!(stub.requests(), 0);
        // Beside one that works, it is left out.
        let good = Stub::start(&engine(), Fault::None);
        let mut model = load(&[&stub, &good]);
        ask(&mut model, question(&window(0), QUESTIONS[0]));
        assert_eq!((stub.requests(), good.requests()), (0, 1));
        assert!(model.health().troubles()[0].contains(wanted));
    }
}

#[test]
fn the_key_is_sent() {
    let stub = Stub::start(&engine(), Fault::Unauthorized);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, "wrong\n").expect("written");
    let servers = Servers { api_key: Some(Secret::File(file.clone())), ..servers(&[&stub]) };
    assert!(refusal(&servers).contains("401"));
    std::fs::write(&file, "right\n").expect("written");
    let mut model = try_load(&servers).expect("the right key");
    ask(&mut model, question(&window(0), QUESTIONS[0]));
    std::fs::remove_file(file).expect("removed");
    let (_, why) = failure(&mut model, question(&window(0), QUESTIONS[0]));
    assert!(why.contains("language.api_key_file"), "{why}");
}

/// Loads two servers, of which the first one gets the request and has a fault.
fn with_fault(fault: Fault, change: impl FnOnce(&mut Servers)) -> (VllmModel, [Stub; 2], Window) {
    let stubs = [(); 2].map(|()| Stub::start(&engine(), Fault::None));
    let mut settings = servers(&[&stubs[0], &stubs[1]]);
    change(&mut settings);
    let mut model = try_load(&settings).expect("servers");
    let window = window(0);
    ask(&mut model, question(&window, QUESTIONS[0]));
    let [a, b] = stubs;
    let (first, second) = if a.requests() == 1 { (a, b) } else { (b, a) };
    first.set(fault);
    (model, [first, second], window)
}

#[test]
fn another_server_answers_with_the_same_words() {
    let wanted = ask(&mut local(), question(&window(0), QUESTIONS[0]));
    assert!(wanted.ids.len() > 5, "{wanted:?}");
    let wanted = wanted.text;
    for fault in [
        Fault::DiesAfter(0),
        Fault::DiesAfter(3),
        Fault::NotFiniteAfter(2),
        Fault::PromptTokens,
        Fault::Fails,
    ] {
        let (mut model, [first, second], window) = with_fault(fault, |_| {});
        let reply = ask(&mut model, question(&window, QUESTIONS[0]));
        assert_eq!(reply.text, wanted, "{fault:?}");
        assert_eq!((first.requests(), second.requests()), (2, 1), "{fault:?}");
        // One whose fault the proof does not find may be ready again already.
        if fault != Fault::NotFiniteAfter(2) {
            let troubles = model.health().troubles();
            assert!(troubles[0].contains(&first.address), "{troubles:?}");
        }
        // Requests go past it, until it has passed its proof again.
        assert_eq!(ask(&mut model, question(&window, QUESTIONS[0])).text, wanted);
        first.set(Fault::None);
        wait_until("the server is back", || model.health().troubles().is_empty());
        let before = first.requests();
        assert_eq!(ask(&mut model, question(&window, QUESTIONS[0])).text, wanted);
        assert_eq!(first.requests(), before + 1, "the window is back at its server");
    }
}

#[test]
fn another_server_answers_in_place_of_one_that_stalls() {
    let (mut model, [first, second], window) = with_fault(Fault::StallsAfter(2), |settings| {
        settings.stall_timeout = Duration::from_secs(5);
    });
    let wanted = ask(&mut local(), question(&window, QUESTIONS[0])).text;
    assert_eq!(ask(&mut model, question(&window, QUESTIONS[0])).text, wanted);
    assert_eq!((first.requests(), second.requests()), (2, 1));
    // The scores of rules change to the other server as well.
    let rules = ["Is there a person?".into()];
    let wanted = scores(&mut local(), &window, &rules).scores[0];
    let found = scores(&mut model, &window, &rules).scores[0];
    assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
}

#[test]
fn an_answer_ends_with_an_error_rather_than_with_other_words() {
    // The next server continues differently.
    let (mut model, [_first, second], window) = with_fault(Fault::DiesAfter(3), |_| {});
    second.set(Fault::Drifts(1));
    let (streamed, why) = failure(&mut model, question(&window, QUESTIONS[0]));
    assert!(why.contains("continued it differently"), "{why}");
    let wanted = ask(&mut local(), question(&window, QUESTIONS[0])).text;
    assert!(wanted.starts_with(streamed.trim_end()), "{streamed}");
    // No server is left.
    let stub = Stub::start(&engine(), Fault::None);
    let mut model = load(&[&stub]);
    stub.set(Fault::PromptTokens);
    let (streamed, why) = failure(&mut model, question(&window, QUESTIONS[0]));
    assert_eq!(streamed, "");
    assert!(why.contains("a prompt of 11 tokens, but"), "{why}");
    let (streamed, why) = failure(&mut model, question(&window, QUESTIONS[0]));
    assert_eq!(streamed, "");
    assert!(why.starts_with("no language server is ready: http://127.0.0.1:"), "{why}");
    // A request that is refused is not tried elsewhere, and the server stays ready.
    let (mut model, [first, second], window) = with_fault(Fault::TooLong, |_| {});
    let (_, why) = failure(&mut model, question(&window, QUESTIONS[0]));
    assert!(why.ends_with("400 Bad Request: maximum context length is 1024 tokens"), "{why}");
    assert_eq!((first.requests(), second.requests()), (2, 0));
    assert!(model.health().troubles().is_empty());
}

#[test]
fn a_request_has_a_maximum_time() {
    let stub = Stub::start(&engine(), Fault::Hangs);
    let settings = Servers { timeout: Duration::from_secs(1), ..servers(&[&stub]) };
    let mut model = try_load(&settings).expect("a server");
    let (_, why) = failure(&mut model, question(&window(0), QUESTIONS[0]));
    assert!(why.contains("within language.timeout of 1 s"), "{why}");
    wait_until("the client leaves", || stub.left() == 1);
}

#[test]
fn a_cancelled_sequence_closes_its_connection() {
    let stub = Stub::start(&engine(), Fault::None);
    let mut model = load(&[&stub]);
    stub.set(Fault::Hangs);
    let window = window(0);
    let id = model.submit(question(&window, QUESTIONS[0])).expect("submitted").id;
    wait_until("the request arrives", || stub.requests() == 1);
    assert_eq!(stub.left(), 0);
    model.cancel(id).expect("cancelled");
    wait_until("the client leaves", || stub.left() == 1);
    model.poll(&mut |_, output| panic!("{output:?}")).expect("a poll");
}

#[test]
fn a_server_that_does_not_follow_the_schema_is_found_out() {
    let stub = Stub::start(&engine(), Fault::None);
    let mut model = load(&[&stub]);
    let schema = model.schemas().compile(r#"{"type": "integer"}"#);
    let schema = schema.expect("a schema");
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    let task = Task::Text { turns: &[], prompt: QUESTIONS[0], limits, schema: Some(&schema) };
    let (streamed, why) = failure(&mut model, request(&window(0), task));
    assert_eq!(streamed, "");
    assert!(why.contains("does not follow the schema"), "{why}");
}

#[test]
fn servers_may_start_later_than_the_daemon() {
    let stub = Stub::start(&engine(), Fault::Down);
    let mut model = load(&[&stub]);
    let (_, why) = failure(&mut model, question(&window(0), QUESTIONS[0]));
    assert!(why.starts_with("no language server is ready: "), "{why}");
    stub.set(Fault::None);
    wait_until("the server is ready", || model.health().troubles().is_empty());
    ask(&mut model, question(&window(0), QUESTIONS[0]));
}
