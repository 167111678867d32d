//! Tests the back end with a real llama-server, which runs a small model that names the colours of
//! plain frames.
//!
//! `make test-openai` runs these tests: LOOKOUT_LLAMA_SERVER is the program. Without it they do
//! nothing.

use std::time::Instant;

use lookout::language::{Failure, Output};

use super::llama_server::{LlamaServer, SERVED, Served, WITHOUT_END, program};
use super::*;

const GREEN: [u8; 4] = [0, 255, 0, 0];

/// Number of frames that take a context of 256 tokens up to the answer.
const CUT_IMAGES: usize = 22;

/// Windows whose time is measured.
const MEASURED: u64 = 20;

fn real_settings(servers: &[&LlamaServer]) -> OpenAi {
    let servers = Servers {
        endpoints: servers.iter().map(|server| server.address.clone()).collect(),
        model: SERVED.into(),
        api_key: None,
        ca_file: None,
        timeout: PATIENCE,
        stall_timeout: PATIENCE,
    };
    OpenAi { servers, max_images: 8, scores: Scores::Logprobs }
}

fn real_model(servers: &[&LlamaServer]) -> OpenAiModel {
    try_load(&real_settings(servers)).expect("servers")
}

/// Returns a question whose answer has at most this many tokens.
fn at_length<'a>(window: &'a Window, prompt: &'a str, max_new_tokens: usize) -> Request<'a> {
    let limits = Limits { max_new_tokens, sampling: Sampling::Greedy };
    request(window, Task::Text { turns: &[], prompt, limits, schema: None })
}

#[test]
fn a_real_llama_server_is_proved_by_what_it_does() {
    if program().is_none() {
        return;
    }
    let server = LlamaServer::start(Served::Colours, &[]);
    let states = real_model(&[&server]).health().states();
    let found = states[0].1.as_ref().expect("ready");
    println!("{found}");
    assert!(
        found.starts_with("tells a red from a blue picture; the frames of a window"),
        "{found}"
    );
    assert!(found.ends_with("; log probabilities: yes; JSON Schemas: yes"), "{found}");
    let mut other = real_settings(&[&server]);
    other.servers.model = "other".into();
    let why = refusal(&other);
    assert!(why.contains("it serves \"seer\", but language.model is \"other\""), "{why}");

    let small = &["--ctx-size", "256", "--parallel", "1"][..];
    for (model, more, max_images, wanted) in [
        (Served::Blind, &[][..], 8, "the same colour"),
        (
            Served::WithoutVision,
            &[],
            8,
            "use a model that accepts images (llama-server: with --mmproj)",
        ),
        (Served::Colours, small, 40, "it refuses 40 frames of 64x48"),
        // The prompt fits, but not the answer.
        (Served::Colours, small, CUT_IMAGES, "so it would cut answers"),
    ] {
        let server = LlamaServer::start(model, more);
        let why = refusal(&OpenAi { max_images, ..real_settings(&[&server]) });
        println!("{model:?} {more:?}: {why}");
        assert!(why.contains(wanted), "{why}");
    }
}

#[test]
fn a_real_llama_server_answers_about_all_frames() {
    if program().is_none() {
        return;
    }
    let server = LlamaServer::start(Served::Colours, &["--parallel", "1"]);
    let mut model = real_model(&[&server]);
    for (number, colours) in [&[RED][..], &[BLUE, BLUE, RED]].into_iter().enumerate() {
        let window = window(number as u64, colours);
        // The small model sometimes adds white or black.
        let there = [("red", RED), ("green", GREEN), ("blue", BLUE)]
            .map(|(name, colour)| (name, colours.contains(&colour)));
        let reply = ask(&mut model, question(&window));
        let text = reply.text.clone();
        let check = |text: &str| {
            for (name, is_there) in &there {
                assert_eq!(text.contains(name), *is_there, "{colours:?}: {text}");
            }
        };
        check(&text);
        assert_eq!(reply.finish, FinishReason::Stop);
        let first = reply.usage;
        let turn = Turn { question: QUESTION.into(), answer: reply.text };
        let reply = ask(&mut model, request(&window, super::text(&[turn], "And now?")));
        check(&reply.text);
        // What the first question and the second one have in common was not read again.
        let second = reply.usage;
        assert!(second.cached_tokens as usize >= 4 * colours.len(), "{first:?} {second:?}");

        let rules = there.map(|(name, _)| format!("Is there {name}?"));
        let rules = questions(rules.each_ref().map(|rule| &**rule));
        let found = scored(&mut model, request(&window, Task::Scores { questions: &rules }));
        println!("{text} {first:?} {second:?}; scores of {there:?}: {:.3?}", found.scores);
        for ((name, is_there), score) in there.iter().zip(&found.scores) {
            assert!(if *is_there { *score > 0.8 } else { *score < 0.2 }, "{name}: {score}");
        }
        let by_word = OpenAi { scores: Scores::Text, ..real_settings(&[&server]) };
        let mut by_word = try_load(&by_word).expect("a server");
        let words = scored(&mut by_word, request(&window, Task::Scores { questions: &rules }));
        for (word, score) in words.scores.iter().zip(&found.scores) {
            assert_eq!(*word, score.round(), "{text}");
        }
    }
}

#[test]
fn a_real_llama_server_follows_schemas_lengths_and_seeds() {
    if program().is_none() {
        return;
    }
    let server = LlamaServer::start(Served::Colours, &[]);
    let mut model = real_model(&[&server]);
    let window = window(0, &[RED, WHITE, RED]);
    // Properties come in the order of the schema, not in that of the alphabet.
    let schema = r#"{"type": "object", "properties": {"red": {"type": "boolean"},
        "blue": {"type": "boolean"}}, "required": ["red", "blue"],
        "additionalProperties": false}"#;
    let schema = model.schemas().compile(schema).expect("a schema");
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    let prompt = "Is there red, and is there blue?";
    let task = Task::Text { turns: &[], prompt, limits, schema: Some(&schema) };
    let reply = ask(&mut model, request(&window, task));
    assert_eq!(reply.text, r#"{"red": true, "blue": false}"#);

    let reply = ask(&mut model, at_length(&window, WITHOUT_END, 9));
    assert_eq!((reply.finish, reply.usage.new_tokens), (FinishReason::Length, 9), "{reply:?}");
    let mut sampled = |seed: u64| {
        let sampling = Sampling::Nucleus { temperature: 2.0, top_p: 1.0, seed };
        let limits = Limits { max_new_tokens: 20, sampling };
        let task = Task::Text { turns: &[], prompt: QUESTION, limits, schema: None };
        ask(&mut model, request(&window, task)).text
    };
    // The second seed exceeds the server's integers.
    for seed in [7, u64::from(u32::MAX) + 7] {
        let (first, second) = (sampled(seed), sampled(seed));
        println!("seed {seed}: {first:?} {second:?}");
        assert_eq!(first, second, "{seed}");
    }
}

#[test]
fn a_real_llama_server_whose_requests_share_too_small_a_context_is_told_apart() {
    if program().is_none() {
        return;
    }
    // Without --parallel four requests at a time share the context.
    for (more, has_room) in [(&[][..], false), (&["--parallel", "4", "--no-kv-unified"], true)] {
        let context = if has_room { "1024" } else { "256" };
        let server =
            LlamaServer::start(Served::Colours, &[more, &["--ctx-size", context]].concat());
        let mut model = real_model(&[&server]);
        let window = window(0, &[RED; 8]);
        let names = ["red", "green", "blue", "white", "black", "red", "green", "blue"];
        let rules = names.map(|name| format!("Is there {name}?"));
        let rules = questions(rules.each_ref().map(|rule| &**rule));
        let (_, end) = run(&mut model, request(&window, Task::Scores { questions: &rules }));
        println!("{more:?}: {end:?}");
        match end {
            Ok(End::Scored(scored)) => assert!(has_room && scored.scores.len() == rules.len()),
            Err(error) => {
                let why = error.to_string();
                assert!(!has_room && why.contains("share the context"), "{why}");
                assert!(why.contains("--parallel"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Asks, and kills the server at the first words of the answer. Returns the words, and the end.
fn kill_in_mid_answer(
    server: &mut LlamaServer,
    model: &mut OpenAiModel,
    request: Request<'_>,
) -> (String, Result<String, String>) {
    model.submit(request).expect("submitted");
    let (mut streamed, mut end) = (String::new(), None);
    let begun = Instant::now();
    while end.is_none() {
        assert!(begun.elapsed() < PATIENCE, "no end");
        let polled = model.poll(&mut |_, output| match output {
            Output::Text(text) => {
                streamed += text;
                server.kill();
            }
            Output::Finished(reply) => end = Some(Ok(reply.text)),
            Output::Failed(Failure::Server(why)) => end = Some(Err(why)),
            other => panic!("{other:?}"),
        });
        polled.expect("a poll");
    }
    (streamed, end.expect("an end"))
}

#[test]
fn a_real_llama_server_may_be_killed_in_mid_answer_and_return() {
    if program().is_none() {
        return;
    }
    let mut server = LlamaServer::start(Served::Colours, &[]);
    let mut model = real_model(&[&server]);
    let window = window(0, &[RED, BLUE]);
    let wanted = ask(&mut model, at_length(&window, WITHOUT_END, 1500)).text;
    let request = || at_length(&window, WITHOUT_END, 1500);
    let (streamed, end) = kill_in_mid_answer(&mut server, &mut model, request());
    let why = end.expect_err("the answer did not end with the server");
    println!("after {} of {} bytes: {why}", streamed.len(), wanted.len());
    assert!(wanted.starts_with(&streamed) && streamed.len() < wanted.len(), "{streamed}");
    assert!(why.starts_with("no language server answered: "), "{why}");
    assert!(why.contains(&server.address), "{why}");
    let (_, why) = failure(&mut model, question(&window));
    assert!(why.starts_with("no language server is ready: "), "{why}");
    let begun = Instant::now();
    server.start_again();
    wait_until("the server is proved", || model.health().troubles().is_empty());
    println!("the server was back after {:.1} s", begun.elapsed().as_secs_f64());
    assert!(ask(&mut model, question(&window)).text.starts_with("I see red, blue"));

    // Another server continues the answer with the same words.
    let mut servers = [server, LlamaServer::start(Served::Colours, &[])];
    let mut model = real_model(&servers.each_ref());
    let before = servers.each_ref().map(|server| server.metric("n_decode_total"));
    ask(&mut model, question(&window));
    let is_first = servers[0].metric("n_decode_total") > before[0];
    let killed = &mut servers[if is_first { 0 } else { 1 }];
    let (streamed, end) = kill_in_mid_answer(killed, &mut model, request());
    assert_eq!(end.as_deref(), Ok(&*wanted));
    assert_eq!(streamed.trim_end(), wanted);
}

#[test]
fn a_real_llama_server_ends_its_work_when_a_request_is_cancelled() {
    const SCORES: usize = 400;
    if program().is_none() {
        return;
    }
    let server = LlamaServer::start(Served::Colours, &["--parallel", "1"]);
    let mut model = real_model(&[&server]);
    let window = window(0, &[RED, BLUE]);
    let many: Vec<_> = (0..SCORES).map(|n| format!("Is there red {n}?").into()).collect();
    let scores = || request(&window, Task::Scores { questions: &many });
    for (what, request) in [("a text", at_length(&window, WITHOUT_END, 1500)), ("scores", scores())]
    {
        let before = server.metric("n_decode_total");
        let id = model.submit(request).expect("submitted").id;
        wait_until("the server works", || server.is_busy());
        model.cancel(id).expect("cancelled");
        let begun = Instant::now();
        wait_until("the server has stopped", || !server.is_busy());
        println!("{what}: the server stopped after {:.0?}", begun.elapsed());
        let written = server.metric("n_decode_total") - before;
        println!("{what}: {written} tokens were written");
        assert!(written < SCORES as f64 / 2.0, "{what}: the server went on: {written} tokens");
    }
    assert!(ask(&mut model, question(&window)).text.starts_with("I see red, blue"));
}

/// Returns a window of eight frames of 640x480 which, as JPEGs, are as large as those of a street.
fn detailed_window(number: u64) -> Window {
    let mut codec = JpegCodec::new(640, 0, 80).expect("a codec");
    let mut state = number;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 59) as u8
    };
    let mut jpegs = Vec::new();
    for second in 1..=8 {
        let pixels: Vec<u8> = (0..640 * 480 * 4).map(|_| noise()).collect();
        let jpeg = codec.encode(&pixels, 640, 480).expect("a JPEG");
        let captured_at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        jpegs.push(TimedJpeg { captured_at, jpeg });
    }
    Window { jpegs, ..window(number, &[]) }
}

#[test]
fn a_real_llama_server_is_asked_with_little_overhead() {
    if program().is_none() {
        return;
    }
    let server = LlamaServer::start(Served::Colours, &["--parallel", "1"]);
    let mut model = real_model(&[&server]);
    let (mut bytes, mut overheads, mut wholes) = (0, Vec::new(), Vec::new());
    for number in 0..MEASURED {
        let window = detailed_window(number);
        bytes += window.jpegs.iter().map(|frame| frame.jpeg.len()).sum::<usize>();
        let before = server.time_spent();
        let begun = Instant::now();
        ask(&mut model, question(&window));
        let whole = begun.elapsed();
        wholes.push(whole);
        overheads.push(whole.saturating_sub(server.time_spent() - before));
    }
    overheads.sort();
    wholes.sort();
    let median = |times: &[Duration]| times[times.len() / 2].as_secs_f64() * 1e3;
    println!(
        "{MEASURED} windows of 8 frames of 640x480, {} kB of JPEGs each: an answer took {:.1} ms \
         (median), of which {:.1} ms were not the server's time for the prompt and the answer \
         ({:.1} to {:.1} ms)",
        bytes / 1000 / MEASURED as usize,
        median(&wholes),
        median(&overheads),
        overheads[0].as_secs_f64() * 1e3,
        overheads[overheads.len() - 1].as_secs_f64() * 1e3,
    );
    assert!(overheads[overheads.len() / 2] < Duration::from_secs(2));
}
