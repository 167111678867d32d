//! Tests long ranges, answered part by part, and conversations: the whole daemon with the demo's
//! model.

use std::time::Duration;

use crate::support::truth::{Sidecar, Verdict};
use crate::support::*;
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn ask(daemon: &Daemon, question: &str, more: &[&str]) -> Value {
    let (code, answer, error) =
        daemon.client(&[&["ask", "--json", "gate", question], more].concat());
    assert_eq!((code, error.as_str()), (Some(0), ""), "{more:?}");
    serde_json::from_str(&answer).expect("JSON")
}

fn list<'a>(answer: &'a Value, key: &str) -> &'a Vec<Value> {
    answer[key].as_array().unwrap_or_else(|| panic!("no {key} in {answer}"))
}

#[test]
fn a_long_range_is_answered_part_by_part() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let quiet = camera("gate", &cameras.url("gate"), "captions = false");
    let (grpc, http) = (free_port(), free_port());
    // Six seconds are hot; the rest is re-encoded from the JPEGs in memory.
    let config = head(grpc, http, None) + "[buffer]\ntoken_age = \"6s\"\n" + &quiet;
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"warm\"}";
    wait_for("forty seconds", SECONDS(60), || (daemon.metric(frames) > 67.0).then_some(()));

    // Eight frames in one pass, at two per second: sixteen seconds are still covered well, forty
    // are not.
    let question = "Is there a person?";
    assert!(ask(&daemon, question, &["--last", "15s"])["parts"].is_null());
    let sparse = ask(&daemon, question, &["--last", "38s", "--detail", "overview"]);
    assert!(sparse["parts"].is_null() && list(&sparse, "frames").len() == 8, "{sparse}");
    let whole = ask(&daemon, question, &["--last", "38s"]);
    let parts = list(&whole, "parts");
    assert_eq!(parts.len(), 10, "{whole}");
    assert_eq!(whole["summary_method"], "yes_no");
    assert!(whole["timing"]["encode_seconds"].as_f64() > Some(0.0), "{whole}");

    // Each part is right about its own time, and the parts follow each other.
    let sidecar = Sidecar::of("gate");
    let (mut judged, mut yes) = (0, 0);
    for part in parts {
        let event = serde_json::json!({
            "window": part["window"], "prompt": question, "text": part["text"],
        });
        match sidecar.judge_answer(&event) {
            Verdict::Wrong(why) => panic!("{why}"),
            Verdict::Right => judged += 1,
            Verdict::NotJudged => {}
        }
        yes += usize::from(part["text"].as_str().expect("text").starts_with("Yes"));
    }
    assert!(judged >= 2, "only {judged} parts can be judged: {whole}");
    for pair in parts.windows(2) {
        assert_eq!(pair[0]["window"]["to"], pair[1]["window"]["from"]);
    }
    let text = whole["text"].as_str().expect("text");
    let wanted = match yes {
        0 => "No, in none of 10 parts.".into(),
        10 => "Yes, in all of 10 parts.".into(),
        _ => format!("Yes, in {yes} of 10 parts: "),
    };
    assert!(text.starts_with(&wanted), "{text}: {yes} parts said yes");
    // All frames of the range were used, each named once.
    let numbers: Vec<u64> =
        list(&whole, "frames").iter().filter_map(|frame| frame["number"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    assert!(numbers.len() >= 74, "{} frames", numbers.len());
    assert_eq!(whole["coverage"]["frames_used"], numbers.len());
    assert_eq!(whole["coverage"]["gaps"], Value::Array(Vec::new()), "{whole}");

    // No rule combines these answers: the model summarises them, and the parts are listed as well.
    // The frames re-encoded for the last question are still available for this one.
    let again = "lookout_frames_reencoded_total{camera=\"gate\"}";
    let before = daemon.metric(again);
    let answer = ask(&daemon, "What is happening?", &["--last", "38s"]);
    let more = daemon.metric(again) - before;
    assert!(before >= 50.0 && more <= before / 2.0, "{before} frames, then {more} more");
    assert_eq!(list(&answer, "parts").len(), 10);
    assert_eq!(answer["summary_method"], "model", "{answer}");
    let (code, text, _) = daemon.client(&["ask", "gate", question, "--last", "38s"]);
    let lines: Vec<&str> = text.lines().collect();
    let [parts @ .., answer, grounds] = &lines[..] else { panic!("{text}") };
    assert!(code == Some(0) && grounds.contains(", in 10 parts"), "{text}");
    assert!(answer.contains(" 10 parts"), "{text}");
    assert_eq!(parts.iter().filter(|line| line.starts_with("  ")).count(), 10, "{text}");
}

/// Sixteen parts with answers of maximum length: the model's context has no room for all of them
/// together with a full pass over the range.
#[test]
fn the_model_sums_up_sixteen_long_parts() {
    let folder = folder();
    let dir = folder.path();
    // The package's end token is one that its model cannot generate.
    let package = dir.join("endless");
    copy_folder(&repository().join("models/demo/package"), &package).expect("copy");
    std::fs::write(package.join("generation_config.json"), r#"{"eos_token_id": 999999}"#)
        .expect("write");
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let (grpc, http) = (free_port(), free_port());
    let of_demo = repository().join("models/demo/package");
    let config = head(grpc, http, None)
        .replace("max_new_tokens = 48", "max_new_tokens = 128")
        .replace(of_demo.to_str().expect("path"), package.to_str().expect("path"))
        + &camera("gate", &cameras.url("gate"), "captions = false").replace("fps = 2", "fps = 8");
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}";
    wait_for("seconds", SECONDS(60), || (daemon.metric(frames) > 130.0).then_some(()));

    let question = "What is happening?";
    let answer = ask(&daemon, question, &["--last", "60s", "--detail", "parts"]);
    let parts = list(&answer, "parts");
    assert_eq!(parts.len(), 16, "{answer}");
    let letters: usize = parts.iter().map(|part| part["text"].as_str().map_or(0, str::len)).sum();
    // Tokens such as the end token have no letters, and each answer has some of them.
    assert!(letters > 16 * 100, "{letters} letters are no long answers: {answer}");
    assert_eq!(answer["summary_method"], "model", "{answer}");
}

#[test]
fn a_conversation_stays_with_its_window() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let quiet = camera("gate", &cameras.url("gate"), "captions = false");
    let daemon = Daemon::start(dir, &[quiet], None);
    let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}";
    wait_for("frames", SECONDS(30), || (daemon.metric(frames) > 10.0).then_some(()));

    let first = ask(&daemon, "Is there a person?", &["--conversation", "talk"]);
    assert_eq!((&first["conversation"], &first["earlier_turns"]), (&"talk".into(), &0.into()));
    let seen = daemon.metric(frames);
    wait_for("other frames", SECONDS(30), || (daemon.metric(frames) > seen + 6.0).then_some(()));
    let second = ask(&daemon, "What colour is the car?", &["--conversation", "talk"]);
    assert_eq!((&second["window"], &second["frames"]), (&first["window"], &first["frames"]));
    assert_eq!(second["earlier_turns"], 1);
    let words = |answer: &Value| answer["usage"]["text_tokens"].as_u64().expect("tokens");
    assert!(words(&second) > words(&first) + 4, "the first turn is not in {second}");
    assert!(second["usage"]["cached_tokens"].as_u64() > Some(0), "read again: {second}");
    assert_eq!(ask(&daemon, "And a dog?", &["--conversation", "talk"])["earlier_turns"], 2);

    // A conversation without a name gets one; one with another name does not share its turns.
    let unnamed = ask(&daemon, "Is there a person?", &[]);
    assert_ne!(unnamed["window"], first["window"]);
    let name = unnamed["conversation"].as_str().expect("a name");
    assert_eq!(ask(&daemon, "And a dog?", &["--conversation", name])["earlier_turns"], 1);
    let other = ask(&daemon, "And a dog?", &["--conversation", "another"]);
    assert_eq!(other["earlier_turns"], 0, "{other}");
    // If there is no room for all turns, the oldest are left out; the conversation never ends.
    let mut turns = Vec::new();
    for number in 0..9 {
        let question =
            format!("Is there a person? Look at the {number}th: {}", "a car, ".repeat(30));
        let answer = ask(&daemon, &question, &["--conversation", "long"]);
        assert_eq!(answer["window"], ask(&daemon, "And?", &["--conversation", "long"])["window"]);
        turns.push(answer["earlier_turns"].as_u64().unwrap_or(0));
    }
    assert_eq!(turns[..2], [0, 2], "{turns:?}");
    assert!(turns[8] >= 1 && turns[8] < 8, "nothing had to be left out: {turns:?}");
    let ranged = ["ask", "gate", "And?", "--conversation", "talk", "--last", "3s"];
    let (code, _, error) = daemon.client(&ranged);
    assert_eq!(code, Some(1));
    assert!(error.contains("is about the window of its first question"), "{error}");
}
