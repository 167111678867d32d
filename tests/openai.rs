//! Tests the back end for servers of a vision model with a stub that looks at the pictures it gets:
//! what is sent, what is proved, and what happens when servers fail or ignore what they accept.

#[path = "openai/daemon.rs"]
mod daemon;
#[path = "support/http_stub.rs"]
mod http_stub;
#[path = "openai/llama_server.rs"]
mod llama_server;
#[path = "openai/real.rs"]
mod real;
#[path = "openai/real_daemon.rs"]
mod real_daemon;
#[path = "support/requests.rs"]
mod requests;
#[path = "openai/stub.rs"]
mod stub;
mod support;

use std::time::{Duration, SystemTime};

use lookout::config::{OpenAi, Sampling, Scores, Secret, Servers};
use lookout::event::FinishReason;
use lookout::language::{
    Budget, CheckPrompts, LanguageBackend, LanguageError, Limits, OpenAiModel, PrefixFrame,
    PrefixFrames, Request, Task, TimedJpeg, Turn, Urgency,
};
use lookout::slowfast::VideoTokens;
use lookout::vision::jpeg::JpegCodec;
use serde_json::json;

use requests::*;
use stub::{Fault, PICTURE_TOKENS, Stub};

const NEW_TOKENS: usize = 40;
const MAX_IMAGES: usize = 4;

const RED: [u8; 4] = [0, 0, 255, 0];
const BLUE: [u8; 4] = [255, 0, 0, 0];
const WHITE: [u8; 4] = [255; 4];

const QUESTION: &str = "What is happening?";

const TEXT: &str = "After 0 answers I see red at 00:00:01 UTC, blue at 00:00:02 UTC, white at \
                    00:00:03 UTC.";

fn settings(stubs: &[&Stub]) -> OpenAi {
    let servers = Servers {
        endpoints: stubs.iter().map(|stub| stub.address.clone()).collect(),
        model: "seer".into(),
        api_key: None,
        ca_file: None,
        timeout: PATIENCE,
        stall_timeout: PATIENCE,
    };
    OpenAi { servers, max_images: MAX_IMAGES, scores: Scores::Logprobs }
}

fn try_load(settings: &OpenAi) -> Result<OpenAiModel, String> {
    let budget = Budget { max_new_tokens: NEW_TOKENS, slots: 4, prefix_bytes: 0 };
    OpenAiModel::load(settings, "Be brief.", (64, 80), budget).map_err(|error| error.to_string())
}

fn load(stubs: &[&Stub]) -> OpenAiModel {
    try_load(&settings(stubs)).expect("servers")
}

fn refusal(settings: &OpenAi) -> String {
    try_load(settings).err().expect("a refusal")
}

/// A window: its frames one second apart, and no tokens.
struct Window {
    video: VideoTokens,
    frames: PrefixFrames,
    jpegs: Vec<TimedJpeg>,
}

fn window(number: u64, colours: &[[u8; 4]]) -> Window {
    let mut codec = JpegCodec::new(64, 0, 80).expect("a codec");
    let mut jpeg = |(second, colour): (u64, &[u8; 4])| {
        let jpeg = codec.encode(&colour.repeat(64 * 48), 64, 48).expect("a JPEG");
        let captured_at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        TimedJpeg { captured_at, jpeg }
    };
    let frame = PrefixFrame { camera: "gate".into(), run: 1, number, slow: true, reencoded: false };
    Window {
        video: VideoTokens { rows: Vec::new(), dim: 1 },
        frames: [frame].into(),
        jpegs: (1..).zip(colours).map(&mut jpeg).collect(),
    }
}

fn request<'a>(window: &'a Window, task: Task<'a>) -> Request<'a> {
    let (prefix_frames, jpegs) = (Some(window.frames.clone()), Some(&window.jpegs[..]));
    Request { video: &window.video, prefix_frames, jpegs, task, urgency: Urgency::Now }
}

fn text<'a>(turns: &'a [Turn], prompt: &'a str) -> Task<'a> {
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    Task::Text { turns, prompt, limits, schema: None }
}

fn question(window: &Window) -> Request<'_> {
    request(window, text(&[], QUESTION))
}

#[test]
fn a_server_gets_the_frames_in_order_with_their_times_and_then_the_question() {
    let stub = Stub::start(Fault::None);
    let mut model = load(&[&stub]);
    let window = window(0, &[RED, BLUE, WHITE]);
    let reply = ask(&mut model, question(&window));
    assert_eq!((&*reply.text, reply.finish), (TEXT, FinishReason::Stop));
    let usage = reply.usage;
    assert_eq!((usage.text_tokens, usage.new_tokens, usage.cached_tokens), (0, 17, 5));
    assert!(usage.video_tokens as usize > 3 * PICTURE_TOKENS, "{usage:?}");
    let turn = Turn { question: QUESTION.into(), answer: reply.text };
    let reply = ask(&mut model, request(&window, text(&[turn], "And now?")));
    assert!(reply.text.starts_with("After 1 answers I see red"), "{}", reply.text);

    let [first, second] = &stub.seen()[..] else { panic!("two requests") };
    let sent: Vec<(String, Vec<u8>)> = window
        .jpegs
        .iter()
        .zip(1..)
        .map(|(frame, second)| (format!("00:00:0{second} UTC"), frame.jpeg.to_vec()))
        .collect();
    for seen in [first, second] {
        assert_eq!(seen.pictures, sent);
        assert_eq!(seen.system.as_deref(), Some("Be brief."));
        assert_eq!(
            (&seen.fields["temperature"], &seen.fields["stream"]),
            (&0.into(), &true.into())
        );
        assert_eq!(seen.fields["max_tokens"], NEW_TOKENS);
        assert_eq!(seen.fields.get("seed"), None);
    }
    assert_eq!(second.turns, [(QUESTION.to_owned(), TEXT.to_owned())]);
    assert_eq!(second.question, "And now?");
    let sampling = Sampling::Nucleus { temperature: 0.5, top_p: 0.25, seed: 7 };
    let limits = Limits { max_new_tokens: 2, sampling };
    let task = Task::Text { turns: &[], prompt: QUESTION, limits, schema: None };
    let reply = ask(&mut model, request(&window, task));
    assert_eq!((&*reply.text, reply.finish), ("After 0", FinishReason::Length));
    let fields = &stub.seen()[2].fields;
    let sampled = [&fields["temperature"], &fields["top_p"], &fields["seed"]];
    assert_eq!(sampled, [&json!(0.5), &json!(0.25), &json!(7)]);
}

#[test]
fn a_server_that_cannot_be_used_is_refused_with_the_reason() {
    for (fault, wanted) in [
        (Fault::Model("other"), "it serves \"other\", but language.model is \"seer\""),
        (Fault::Unauthorized, "401 Unauthorized: Unauthorized; set language.api_key_file"),
        (Fault::NoChat, "404 Not Found: File Not Found"),
        (
            Fault::DropsPictures,
            "it reads 19 tokens with a picture and 19 without it, so it drops pictures",
        ),
        (Fault::RefusesPictures(400), "image input is not supported; use a model that accepts"),
        (Fault::RefusesPictures(500), "image input is not supported; use a model that accepts"),
        (Fault::Blind, "the same colour, \"grey\", so it does not see them"),
        (
            Fault::Context(300),
            "language.max_images = 4: it refuses 4 frames of 64x48 with an answer of 40 tokens \
             (generate.max_new_tokens): it answered 400 Bad Request: maximum context length is 300",
        ),
        (
            Fault::CutsAnswers(300),
            "language.max_images = 4: 4 frames of 64x48 and a question take 275 tokens, and an \
             answer up to 40 (generate.max_new_tokens), but its context has 300, so it would cut \
             answers",
        ),
        (
            Fault::Truncates(2),
            "language.max_images = 4: it reads 4 frames of 64x48 as 128 tokens, but one frame as \
             64, so it leaves frames out; raise the context",
        ),
    ] {
        let stub = Stub::start(fault);
        let error = refusal(&settings(&[&stub]));
        assert!(error.starts_with(&format!("language server {}: ", stub.address)), "{error}");
        assert!(error.contains(wanted), "{fault:?}: {error}");
        assert_eq!(stub.requests(), 0);
        // Beside one that works, it is left out.
        let good = Stub::start(Fault::None);
        let mut model = load(&[&stub, &good]);
        ask(&mut model, question(&window(0, &[RED])));
        assert_eq!((stub.requests(), good.requests()), (0, 1));
        assert!(model.health().troubles()[0].contains(wanted));
    }
}

#[test]
fn the_proof_tells_what_a_server_can_do() {
    for (fault, wanted) in [
        (Fault::None, "take 256 tokens; log probabilities: yes; JSON Schemas: yes"),
        (Fault::NamesWrongly, "log probabilities: yes; JSON Schemas: yes"),
        (Fault::NoUsage, "it does not report the length of prompts; log probabilities: yes"),
        (Fault::NoLogprobs, "log probabilities: no (it accepts top_logprobs and sends none)"),
        (
            Fault::RefusesLogprobs,
            "log probabilities: no (it answered 400 Bad Request: logprobs are",
        ),
        (Fault::Blanks, "JSON Schemas: yes"),
        (Fault::NoSchemas, "JSON Schemas: no (it accepts response_format and answers \"RED.\")"),
    ] {
        let stub = Stub::start(fault);
        let states = load(&[&stub]).health().states();
        let found = states[0].1.as_ref().expect("ready");
        assert!(found.contains(wanted), "{fault:?}: {found}");
    }
}

#[test]
fn the_key_is_sent() {
    let stub = Stub::start(Fault::Unauthorized);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, "right\n").expect("written");
    let mut settings = settings(&[&stub]);
    settings.servers.api_key = Some(Secret::File(file));
    let mut model = try_load(&settings).expect("the right key");
    ask(&mut model, question(&window(0, &[RED])));
}

/// Loads two servers, of which the first one gets the request and has a fault.
fn with_fault(fault: Fault, change: impl FnOnce(&mut OpenAi)) -> (OpenAiModel, [Stub; 2], Window) {
    let stubs = [(); 2].map(|()| Stub::start(Fault::None));
    let mut settings = settings(&[&stubs[0], &stubs[1]]);
    change(&mut settings);
    let mut model = try_load(&settings).expect("servers");
    let window = window(0, &[RED, BLUE, WHITE]);
    ask(&mut model, question(&window));
    let [a, b] = stubs;
    let (first, second) = if a.requests() == 1 { (a, b) } else { (b, a) };
    first.set(fault);
    (model, [first, second], window)
}

#[test]
fn another_server_answers_with_the_same_words() {
    for fault in [
        Fault::DiesAfter(0),
        Fault::DiesAfter(3),
        Fault::Fails,
        Fault::Empty,
        // Pictures that are left out after the proof show in the prompt's length.
        Fault::DropsPictures,
    ] {
        let (mut model, [first, second], window) = with_fault(fault, |_| {});
        let answered = run(&mut model, question(&window));
        if fault == Fault::DropsPictures {
            // Its words were passed on already, and are not those of the other one.
            let why = answered.1.expect_err("no answer").to_string();
            assert!(why.contains("continued it differently"), "{why}");
        } else {
            let (streamed, Ok(End::Reply(reply))) = answered else { panic!("{answered:?}") };
            assert_eq!((&*streamed, &*reply.text), (TEXT, TEXT), "{fault:?}");
        }
        assert_eq!((first.requests(), second.requests()), (2, 1), "{fault:?}");
        // Requests go past it, until it has passed its proof again.
        if fault != Fault::Empty {
            assert!(model.health().troubles()[0].contains(&first.address));
        }
        assert_eq!(ask(&mut model, question(&window)).text, TEXT);
        first.set(Fault::None);
        wait_until("the server is back", || model.health().troubles().is_empty());
        let before = first.requests();
        assert_eq!(ask(&mut model, question(&window)).text, TEXT);
        assert_eq!(first.requests(), before + 1, "the window is back at its server");
    }
}

#[test]
fn an_answer_ends_with_an_error_rather_than_with_other_or_doubled_words() {
    let (mut model, [_first, second], window) = with_fault(Fault::DiesAfter(3), |_| {});
    second.set(Fault::Drifts(2));
    let (streamed, why) = failure(&mut model, question(&window));
    assert_eq!(streamed, "After 0 answers ");
    assert!(why.contains("continued it differently"), "{why}");
    // Frames were left out without an error, and nobody else can answer.
    let stub = Stub::start(Fault::None);
    let mut model = load(&[&stub]);
    stub.set(Fault::Truncates(1));
    let (_, why) = failure(&mut model, question(&window));
    assert!(why.contains("3 frames take at least 192, so its answer is not about all"), "{why}");
    let (streamed, why) = failure(&mut model, question(&window));
    assert_eq!(streamed, "");
    assert!(why.starts_with("no language server is ready: http://127.0.0.1:"), "{why}");
}

#[test]
fn a_request_that_is_refused_is_not_tried_elsewhere() {
    for (fault, wanted) in [
        (Fault::Context(100), "400 Bad Request: maximum context length is 100 tokens"),
        (Fault::Filters, "it ended its answer for the reason \"content_filter\""),
        (Fault::Reasons, "the model reasoned until generate.max_new_tokens and gave no answer"),
    ] {
        let (mut model, [first, second], window) = with_fault(fault, |_| {});
        let (_, why) = failure(&mut model, question(&window));
        assert!(why.contains(wanted), "{fault:?}: {why}");
        assert_eq!((first.requests(), second.requests()), (2, 0), "{fault:?}");
        assert!(model.health().troubles().is_empty());
    }
}

#[test]
fn an_answer_ends_at_its_length_although_the_server_goes_on() {
    let stub = Stub::start(Fault::None);
    let mut model = load(&[&stub]);
    stub.set(Fault::Endless);
    let reply = ask(&mut model, question(&window(0, &[RED])));
    assert_eq!(reply.finish, FinishReason::Length);
    // The first word of the endless end follows a full stop without a space.
    assert_eq!(reply.text.split(' ').count(), NEW_TOKENS - 1);
}

#[test]
fn another_server_answers_in_place_of_one_that_stalls() {
    let (mut model, [first, second], window) = with_fault(Fault::StallsAfter(2), |settings| {
        settings.servers.stall_timeout = Duration::from_secs(3);
    });
    assert_eq!(ask(&mut model, question(&window)).text, TEXT);
    assert_eq!((first.requests(), second.requests()), (2, 1));
    let questions = questions(["Is it blue?"]);
    let task = Task::Scores { questions: &questions };
    assert!((scored(&mut model, request(&window, task)).scores[0] - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn a_request_has_a_maximum_time_and_closes_its_connection() {
    let stub = Stub::start(Fault::None);
    let mut settings = settings(&[&stub]);
    settings.servers.timeout = Duration::from_secs(1);
    let mut model = try_load(&settings).expect("a server");
    stub.set(Fault::Hangs);
    let window = window(0, &[RED]);
    let (_, why) = failure(&mut model, question(&window));
    assert!(why.contains("within language.timeout of 1 s"), "{why}");
    wait_until("the client leaves", || stub.left() == 1);

    let mut model = load(&[&stub]);
    let id = model.submit(question(&window)).expect("submitted").id;
    wait_until("the request arrives", || stub.requests() == 2);
    assert_eq!(stub.left(), 1);
    model.cancel(id).expect("cancelled");
    wait_until("the client leaves", || stub.left() == 2);
    model.poll(&mut |_, output| panic!("{output:?}")).expect("a poll");
}

#[test]
fn rules_are_scored_by_probabilities_or_by_the_first_word() {
    let stub = Stub::start(Fault::None);
    let window = window(0, &[RED, BLUE, WHITE, RED]);
    let questions = questions(["Is it red?", "Is it blue?", "Is it green?"]);
    let task = Task::Scores { questions: &questions };
    for (scores, wanted) in [(Scores::Logprobs, [0.5, 0.25, 0.01]), (Scores::Text, [1.0, 0.0, 0.0])]
    {
        let mut model = try_load(&OpenAi { scores, ..settings(&[&stub]) }).expect("a server");
        let found = scored(&mut model, request(&window, task));
        for (found, wanted) in found.scores.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-9, "{scores:?}: {found} {wanted}");
        }
        assert_eq!(found.scores.len(), 3);
        assert!(found.usage.video_tokens as usize > 12 * PICTURE_TOKENS, "{:?}", found.usage);
    }
    let seen = stub.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|seen| seen.pictures.len() == 4));
    assert_eq!(seen[0].question, "Is it red? Answer only yes or no.");
    assert_eq!(
        (&seen[0].fields["logprobs"], &seen[0].fields["top_logprobs"]),
        (&true.into(), &20.into())
    );
    assert_eq!(seen[3].fields.get("logprobs"), None);

    for (scores, wanted) in [
        (Scores::Logprobs, "neither yes nor no: the likeliest tokens are \"Perhaps\", \"I\""),
        (Scores::Text, "its answer begins with \"perhaps\", neither yes nor no"),
    ] {
        let mut model = try_load(&OpenAi { scores, ..settings(&[&stub]) }).expect("a server");
        stub.set(Fault::Evades);
        let (_, why) = failure(&mut model, request(&window, task));
        assert!(why.contains(wanted), "{why}");
        assert!(model.health().troubles().is_empty());
        stub.set(Fault::None);
    }
}

#[test]
fn rules_and_schemas_are_refused_if_no_server_can_do_them() {
    let refused = |result: Result<(), LanguageError>| match result {
        Err(LanguageError::BadPrompt(why)) => why,
        other => panic!("{other:?}"),
    };
    let window = window(0, &[RED]);
    let rules = questions(["Is it red?"]);
    let scores = || request(&window, Task::Scores { questions: &rules });
    let stub = Stub::start(Fault::NoLogprobs);
    let mut model = load(&[&stub]);
    let why = refused(model.prompts().check_scored("Is it red?", 0));
    assert!(why.contains("none); set language.scores = \"text\", or use a server that"), "{why}");
    assert_eq!(refused(model.submit(scores()).map(drop)), why);
    assert!(model.prompts().check_schemas().is_ok());
    // With the first word, no probabilities are needed.
    let by_word = OpenAi { scores: Scores::Text, ..settings(&[&stub]) };
    let mut by_word = try_load(&by_word).expect("a server");
    assert!(by_word.prompts().check_scored("Is it red?", 0).is_ok());
    assert_eq!(scored(&mut by_word, scores()).scores, [1.0]);
    // Beside a server that can do it, the other one gets no such request.
    let good = Stub::start(Fault::None);
    let mut both = load(&[&stub, &good]);
    let before = stub.requests();
    for number in 0..8 {
        let other = self::window(number, &[RED]);
        scored(&mut both, request(&other, Task::Scores { questions: &rules }));
    }
    assert_eq!((stub.requests() - before, good.requests()), (0, 8));

    let stub = Stub::start(Fault::NoSchemas);
    let mut model = load(&[&stub]);
    let why = refused(model.prompts().check_schemas());
    assert!(why.contains("no language server follows JSON Schemas"), "{why}");
    let schema = model.schemas().compile(r#"{"type": "integer"}"#).expect("a schema");
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    let task = Task::Text { turns: &[], prompt: QUESTION, limits, schema: Some(&schema) };
    assert_eq!(refused(model.submit(request(&window, task)).map(drop)), why);
}

#[test]
fn answers_by_a_schema_are_checked() {
    let stub = Stub::start(Fault::None);
    let mut model = load(&[&stub]);
    let window = window(0, &[RED, BLUE]);
    let schema = r#"{"type": "object", "properties": {"colours": {"type": "string"},
        "count": {"type": "integer"}}, "required": ["colours", "count"],
        "additionalProperties": false}"#;
    let compiled = model.schemas().compile(schema).expect("a schema");
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    let task = Task::Text { turns: &[], prompt: QUESTION, limits, schema: Some(&compiled) };
    let reply = ask(&mut model, request(&window, task));
    let found: serde_json::Value = serde_json::from_str(&reply.text).expect("JSON");
    assert_eq!(found, serde_json::json!({ "colours": "red blue", "count": 2 }));
    let sent = &stub.seen()[0].fields["response_format"];
    assert_eq!(sent["type"], "json_schema");
    let wanted: serde_json::Value = serde_json::from_str(schema).expect("JSON");
    assert_eq!(sent["json_schema"]["schema"], wanted);
    stub.set(Fault::OtherSchema);
    let (streamed, why) = failure(&mut model, request(&window, task));
    assert_eq!(streamed, "");
    assert!(why.contains("does not follow the schema"), "{why}");
}

#[test]
fn a_frame_without_a_jpeg_is_not_left_out_in_silence() {
    let stub = Stub::start(Fault::None);
    let mut model = load(&[&stub]);
    let window = window(0, &[RED]);
    let (_, why) = failure(&mut model, Request { jpegs: None, ..question(&window) });
    assert!(why.contains("a frame has no JPEG"), "{why}");
    assert_eq!(stub.requests(), 0);
}

#[test]
fn servers_may_start_later_than_the_daemon() {
    let stub = Stub::start(Fault::Down);
    let mut model = load(&[&stub]);
    let window = window(0, &[RED]);
    let (_, why) = failure(&mut model, question(&window));
    assert!(why.starts_with("no language server is ready: "), "{why}");
    // What the server can do is not known yet.
    assert!(model.prompts().check_scored("Is it red?", 0).is_ok());
    stub.set(Fault::None);
    wait_until("the server is ready", || model.health().troubles().is_empty());
    ask(&mut model, question(&window));
}
