//! Tests the whole daemon with the stub in place of the servers, and without a model package.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::support::*;
use super::{Fault, Stub};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// A rule that is always true: the demo's pictures are grey on the whole.
const RULE: &str = "[[rule]]\nname = \"grey\"\nquestion = \"Is it grey?\"\nof = \"1/1\"\n";

/// Returns the tables of a daemon whose model the stubs run, without cameras.
fn head(stubs: &[&Stub], grpc: u16, http: u16, language: &str) -> String {
    let endpoints: Vec<&str> = stubs.iter().map(|stub| &*stub.address).collect();
    format!(
        "[language]\nbackend = \"openai\"\nendpoints = {endpoints:?}\nmodel = \"seer\"\n\
         max_images = 4\n{language}\n[generate]\nmax_new_tokens = 48\n\
         [grpc]\nlisten = \"127.0.0.1:{grpc}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n"
    )
}

fn drive() -> String {
    camera("drive", &format!("file:{}", clip("drive").display()), "")
}

fn start(dir: &Path, stubs: &[&Stub], language: &str, rest: &str) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    Daemon::with_config(dir, &(head(stubs, grpc, http, language) + rest), grpc, http)
}

fn ask(daemon: &Daemon, camera: &str, question: &str, more: &[&str]) -> Value {
    let (code, answer, error) =
        daemon.client(&[&["ask", "--json", camera, question], more].concat());
    assert_eq!((code, error.as_str()), (Some(0), ""), "{more:?}");
    serde_json::from_str(&answer).expect("JSON")
}

/// Returns the frames that an event lists: the time of each as a request has it, and its JPEG from
/// the buffer.
fn listed(daemon: &Daemon, dir: &Path, event: &Value) -> Vec<(String, Vec<u8>)> {
    let file = dir.join("frame.jpg");
    let path = file.to_str().expect("UTF-8");
    let camera = event["camera"].as_str().expect("a camera");
    let frame = |frame: &Value| {
        assert_eq!(frame["slow"], true, "{frame}");
        let (run, number) = (frame["run"].to_string(), frame["number"].to_string());
        let (code, _, error) =
            daemon.client(&["frame", camera, &number, "--run", &run, "--output", path]);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        let time = frame["captured_at"].as_str().expect("a time");
        (format!("{} UTC", &time[11..19]), fs::read(&file).expect("a JPEG"))
    };
    event["frames"].as_array().expect("frames").iter().map(frame).collect()
}

/// Checks that the stub received exactly the frames that an event lists, in order, with the event's
/// question. Returns the number of earlier turns that it received.
fn assert_sent(stub: &Stub, daemon: &Daemon, dir: &Path, event: &Value) -> usize {
    let frames = listed(daemon, dir, event);
    assert!((1..=4).contains(&frames.len()), "{event}");
    let is_it =
        |seen: &super::stub::Seen| seen.question == event["prompt"] && seen.pictures == frames;
    let seen = stub.seen().into_iter().rfind(is_it);
    seen.unwrap_or_else(|| panic!("not sent: {event}")).turns.len()
}

#[test]
fn events_are_about_the_frames_that_were_sent() {
    let folder = folder();
    let dir = folder.path();
    let stub = Stub::start(Fault::None);
    let streams = [("gate", &*clip("gate")), ("drive", &*clip("drive"))];
    let cameras = Cameras::start(dir, 0, &streams, &[]);
    let model = repository().join("target/embedding/all-MiniLM-L6-v2");
    assert!(model.is_dir(), "run `make setup`");
    let rest = format!(
        "[buffer]\ntoken_age = \"6s\"\njpeg_age = \"10s\"\n[buffer.disk]\nfolder = {:?}\n\
         [journal]\nfolder = {:?}\n[search]\nmodel = {model:?}\n{RULE}",
        dir.join("frames"),
        dir.join("journal"),
    );
    let of = |name: &str| camera(name, &cameras.url(name), "");
    let daemon = start(dir, &[&stub], "", &(rest + &of("gate") + &of("drive")));
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    let mut captions = Vec::new();
    for name in ["gate", "drive", "gate", "drive"] {
        let caption = events.until(name, SECONDS(60), &mut seen, |event| is_caption(event, name));
        assert_eq!(assert_sent(&stub, &daemon, dir, &caption), 0);
        let text = caption["text"].as_str().expect("a text");
        assert!(text.starts_with("After 0 answers I see "), "{text}");
        assert_eq!(text.matches(" at ").count(), caption["frames"].as_array().map_or(0, Vec::len));
        captions.push(caption);
    }
    let devices = &captions[0]["devices"];
    assert_eq!(
        (&devices["vision"]["device"], &devices["language"]["device"]),
        (&"none".into(), &"openai".into())
    );
    let reason = format!("model \"seer\" on {}", stub.address);
    assert_eq!(devices["language"]["reason"], reason);
    assert_eq!(captions[0]["model"], "seer");
    let is_alert = |event: &Value| event["kind"] == "alert" && event["rule"] == "grey";
    if !seen.iter().any(is_alert) {
        events.until("an alert", SECONDS(60), &mut seen, is_alert);
    }

    // A conversation has the same frames.
    let first = ask(&daemon, "drive", "Who is there?", &["--conversation", "talk"]);
    assert_eq!(assert_sent(&stub, &daemon, dir, &first), 0);
    let second = ask(&daemon, "drive", "And now?", &["--conversation", "talk"]);
    assert_eq!(assert_sent(&stub, &daemon, dir, &second), 1);
    assert_eq!(second["earlier_turns"], 1);
    assert_eq!(second["frames"], first["frames"]);

    // The frames of the first caption have left memory; their JPEGs come from the disk.
    let tier = |name: &str, tier: &str| {
        let label = format!("lookout_buffer_frames{{camera=\"{name}\",tier=\"{tier}\"}}");
        daemon.metric(&label)
    };
    wait_for("frames that are on disk only", SECONDS(60), || {
        let [hot, warm, disk] = ["hot", "warm", "disk"].map(|name| tier("drive", name));
        (disk > hot + warm + 20.0).then_some(())
    });
    for caption in &captions {
        let word = |value: &Value| value.as_str().expect("a word").to_string();
        let (from, to) = (word(&caption["window"]["from"]), word(&caption["window"]["to"]));
        let camera = word(&caption["camera"]);
        let answer = ask(&daemon, &camera, "What was there?", &["--from", &from, "--to", &to]);
        assert_eq!(answer["frames"], caption["frames"]);
        assert_eq!(assert_sent(&stub, &daemon, dir, &answer), 0);
    }
    // A long range is answered in parts, and the summary sees frames too.
    let long = ask(&daemon, "drive", "What happened?", &["--last", "20s"]);
    assert!(long["parts"].as_array().is_some_and(|parts| parts.len() > 1), "{long}");
    wait_for("a caption with a vector", SECONDS(60), || {
        let search = ["search", "--json", "--mode", "meaning", "a grey picture"];
        daemon.client(&search).1.contains("\"similarity\"").then_some(())
    });
    // No features were compared.
    assert_eq!(daemon.metric_sum("lookout_window_change_count", ""), 0.0);
    assert!(daemon.metric_sum("lookout_language_server_ready", "") > 0.0);
}

#[test]
fn rules_and_schemas_that_no_server_can_do_are_refused_by_name() {
    let folder = folder();
    let dir = folder.path();
    let (grpc, http) = (free_port(), free_port());
    let wanted = "rule \"grey\": question: no language server sends log probabilities";
    let stub = Stub::start(Fault::NoLogprobs);
    let config = |more: &str| head(&[&stub], grpc, http, "") + &drive() + more;
    let file = dir.join("lookout.toml");
    let run = |config: &str| {
        fs::write(&file, config).expect("config");
        let output = Command::new(LOOKOUT).args(["run", "--config"]).arg(&file).output();
        let output = output.expect("lookout");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = run(&config(RULE));
    assert!(
        error.contains(wanted) && error.contains("language.scores = \\\"text\\\"")
            || error.contains(wanted) && error.contains("language.scores = \"text\""),
        "{error}"
    );
    let daemon = Daemon::with_config(dir, &config(""), grpc, http);
    fs::write(&file, config(RULE)).expect("config");
    let (code, _, error) = daemon.client(&["reload"]);
    assert!(code != Some(0) && error.contains(wanted), "{error}");
    let (code, _, error) =
        daemon.client(&["ask", "drive", "Is it grey?", "--score", "--last", "4s"]);
    assert!(code != Some(0) && error.contains("sends log probabilities"), "{error}");
    drop(daemon);

    stub.set(Fault::NoSchemas);
    let by_schema =
        format!("{RULE}describe = \"What?\"\ndescribe_schema = '{{\"type\": \"integer\"}}'\n");
    let error = run(&config(&by_schema));
    let wanted = "rule \"grey\": describe_schema: no language server follows JSON Schemas";
    assert!(error.contains(wanted), "{error}");
    // Without a package, its keys have no effect.
    let error = run(&format!("{}[model]\nplan = \"paper\"\n", config("")));
    assert!(error.contains("model.plan: without effect"), "{error}");
}

#[test]
fn scores_by_the_first_word_are_reported_as_such() {
    let folder = folder();
    let dir = folder.path();
    // The server needs no log probabilities for them.
    let stub = Stub::start(Fault::NoLogprobs);
    let daemon = start(dir, &[&stub], "scores = \"text\"", &(drive() + RULE));
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    let caption =
        events.until("a caption", SECONDS(60), &mut seen, |event| is_caption(event, "drive"));
    let reason = caption["devices"]["language"]["reason"].as_str().expect("a reason");
    assert!(reason.ends_with("; scores are the first word of an answer, 1 or 0"), "{reason}");
    let is_alert = |event: &Value| event["kind"] == "alert" && event["rule"] == "grey";
    if !seen.iter().any(is_alert) {
        events.until("an alert", SECONDS(60), &mut seen, is_alert);
    }
    let alert = seen.iter().find(|event| is_alert(event)).expect("an alert");
    assert_eq!(alert["score"], 1.0, "{alert}");
}

#[test]
fn another_server_takes_over_and_one_that_returns_is_used_again() {
    let folder = folder();
    let dir = folder.path();
    let stubs = [Stub::start(Fault::None), Stub::start(Fault::Down)];
    let [first, second] = &stubs;
    let mut daemon = start(dir, &[first, second], "", &drive());
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    let mut caption = |seen: &mut Vec<Value>| {
        events.until("a caption", SECONDS(60), seen, |event| is_caption(event, "drive"))
    };
    caption(&mut seen);
    let ready = |wanted: &str| {
        wait_for(wanted, SECONDS(60), || {
            let (_, ready) = get(daemon.http, "/readyz").expect("a response");
            ready.contains(wanted).then_some(())
        });
    };
    ready(&format!("language server {}", second.address));
    second.set(Fault::None);
    wait_for("both servers", SECONDS(60), || {
        (daemon.metric_sum("lookout_language_server_ready", "") == 2.0).then_some(())
    });
    first.set(Fault::Down);
    let before = second.requests();
    wait_for("requests to the other server", SECONDS(60), || {
        (second.requests() > before + 1).then_some(())
    });
    ready(&format!("language server {}", first.address));
    caption(&mut seen);
    // A client that leaves closes the request.
    second.set(Fault::Hangs);
    let mut client = Command::new(LOOKOUT);
    client.args(["ask", "drive", "Who is there?", "--server", &daemon.server]);
    let asked = |stub: &Stub| stub.seen().iter().any(|seen| seen.question == "Who is there?");
    let client = Process::start("ask", &mut client, dir);
    wait_for("the question", SECONDS(60), || asked(second).then_some(()));
    let left = second.left();
    drop(client);
    wait_for("the client leaves", SECONDS(30), || (second.left() > left).then_some(()));
    assert!(daemon.process.is_running(), "{}", daemon.process.log());
}

#[test]
fn check_shows_what_is_sent_and_what_servers_can_do() {
    let folder = folder();
    let check = |stub: &Stub| {
        let file = folder.path().join("check.toml");
        let config = head(&[stub], free_port(), free_port(), "") + &drive();
        fs::write(&file, config).expect("written");
        let output = Command::new(LOOKOUT).args(["check", "--config"]).arg(&file).output();
        let output = output.expect("lookout");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let stub = Stub::start(Fault::None);
    let (code, lines) = check(&stub);
    assert_eq!(code, Some(0), "{lines}");
    for wanted in [
        "seer: language servers get at most 4 frames of a window as JPEGs, which leave this machine",
        &format!("{}: tells a red from a blue picture; the frames of a window take", stub.address),
        "log probabilities: yes; JSON Schemas: yes",
        "vision none, language openai",
        "by the language servers' own template",
    ] {
        assert!(lines.contains(wanted), "{wanted}: {lines}");
    }
    assert!(!lines.contains("onnxruntime") && !lines.contains("threads"), "{lines}");
    for (fault, wanted) in [
        (Fault::Down, "FAIL  language server"),
        (Fault::Blind, "so it does not see them"),
        (Fault::Model("other"), "it serves \"other\""),
    ] {
        stub.set(fault);
        let (code, lines) = check(&stub);
        assert_eq!(code, Some(2), "{lines}");
        assert!(lines.contains(wanted), "{lines}");
    }
}

#[test]
fn neither_the_key_nor_pictures_are_logged() {
    let (folder, secret) = (folder(), folder());
    let dir = folder.path();
    // The stub accepts only this key.
    let stub = Stub::start(Fault::Unauthorized);
    let file = secret.path().join("key");
    fs::write(&file, "right-49c1d0e7\n").expect("written");
    let (grpc, http) = (free_port(), free_port());
    let language = format!("api_key_file = {file:?}");
    let config = head(&[&stub], grpc, http, &language) + &drive();
    let config_file = dir.join("lookout.toml");
    fs::write(&config_file, &config).expect("config");
    let mut command = Command::new(LOOKOUT);
    command.args(["run", "--config"]).arg(&config_file).env("RUST_LOG", "trace");
    let daemon = Daemon::by(command, dir, grpc, http);
    wait_for("a caption", SECONDS(60), || {
        (daemon.metric("lookout_captions_total{camera=\"drive\"}") >= 1.0).then_some(())
    });
    fs::write(&file, "wrong-49c1d0e7\n").expect("written");
    wait_for("a refusal", SECONDS(60), || {
        let (_, ready) = get(http, "/readyz").expect("a response");
        ready.contains("401").then_some(())
    });
    let log = daemon.process.log();
    assert!(log.contains("TRACE"), "the log is not complete");
    assert!(!log.contains("49c1d0e7"), "the key is in the log");
    // The first bytes of each JPEG in base64.
    assert!(!log.contains("/9j/4AAQ"), "a picture is in the log");
    assert!(!stub.seen().is_empty());
}
