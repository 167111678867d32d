//! Tests the whole daemon with a real llama-server: a camera that is red, then blue, and so on.
//!
//! `make test-openai` runs it, as the tests of `real`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lookout::vision::jpeg::JpegCodec;
use serde_json::Value;

use super::llama_server::{LlamaServer, SERVED, Served, WITHOUT_END, program};
use super::support::*;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Seconds for which the camera shows one colour.
const COLOUR: u32 = 8;

/// Makes the clip of the camera.
fn make_clip(file: &Path) {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "concat", "name=both", "!", "jpegenc", "!", "avimux", "!", "filesink"]);
    command.arg(format!("location={}", file.display()));
    for pattern in ["red", "blue"] {
        command.args(["videotestsrc", &format!("pattern={pattern}")]);
        command.args([&format!("num-buffers={}", COLOUR * 10), "!"]);
        command.args(["video/x-raw,format=I420,width=320,height=240,framerate=10/1", "!", "both."]);
    }
    assert!(command.status().expect("gst-launch-1.0").success());
}

/// Returns the text that is true about the frames that an event lists.
fn truth(daemon: &Daemon, dir: &Path, event: &Value) -> &'static str {
    let mut codec = JpegCodec::new(640, 0, 80).expect("a codec");
    let file = dir.join("frame.jpg");
    let (mut red, mut blue) = (false, false);
    for frame in event["frames"].as_array().expect("frames") {
        let (run, number) = (frame["run"].to_string(), frame["number"].to_string());
        let camera = event["camera"].as_str().expect("a camera");
        let output = file.to_str().expect("UTF-8");
        let (code, _, error) =
            daemon.client(&["frame", camera, &number, "--run", &run, "--output", output]);
        assert_eq!((code, &*error), (Some(0), ""));
        let image = codec.decode(&fs::read(&file).expect("a JPEG")).expect("a JPEG");
        let pixels = image.bgrx.as_chunks::<4>().0;
        let middle = pixels[pixels.len() / 2];
        *(if middle[2] > middle[0] { &mut red } else { &mut blue }) = true;
    }
    match (red, blue) {
        (true, true) => "I see red, blue.",
        (true, false) => "I see red.",
        (false, _) => "I see blue.",
    }
}

/// Returns true if a text says right whether there is red, and whether there is blue. The small model
/// sometimes adds another colour.
fn is_true(text: &str, truth: &str) -> bool {
    ["red", "blue"].iter().all(|colour| text.contains(colour) == truth.contains(colour))
}

#[test]
fn a_real_llama_server_serves_a_whole_daemon() {
    if program().is_none() {
        return;
    }
    let folder = folder();
    let dir = folder.path();
    let clip = dir.join("colours.avi");
    make_clip(&clip);
    let mut server = LlamaServer::start(Served::Colours, &["--parallel", "1"]);
    let (grpc, http) = (free_port(), free_port());
    let config = format!(
        "[language]\nbackend = \"openai\"\nendpoints = [{:?}]\nmodel = {SERVED:?}\n\
         [generate]\nmax_new_tokens = 1500\n\
         [grpc]\nlisten = \"127.0.0.1:{grpc}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n{}\
         [[rule]]\nname = \"red\"\nquestion = \"Is there red?\"\nof = \"1/1\"\n",
        server.address,
        camera("wall", &format!("file:{}", clip.display()), ""),
    );
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    let is_of_wall = |event: &Value| is_caption(event, "wall");

    // Captions are true while the camera changes its colour, and an alert begins and ends with it.
    let mut texts = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let caption = events.until("a caption", SECONDS(60), &mut seen, is_of_wall);
        let text = caption["text"].as_str().expect("a text");
        let wanted = truth(&daemon, dir, &caption);
        assert!(is_true(text, wanted), "{wanted}: {caption}");
        texts.insert(wanted);
    }
    println!("captions: {texts:?}");
    assert_eq!(texts.len(), 3, "{texts:?}");
    let is_alert = |event: &Value| event["kind"] == "alert" && event["rule"] == "red";
    let alert = seen.iter().find(|event| is_alert(event)).expect("an alert");
    println!("alert: {alert}");
    assert!(alert["score"].as_f64() > Some(0.8), "{alert}");

    let ask = |question: &str, more: &[&str]| -> Value {
        let (code, answer, error) =
            daemon.client(&[&["ask", "--json", "wall", question], more].concat());
        assert_eq!((code, &*error), (Some(0), ""));
        serde_json::from_str(&answer).expect("JSON")
    };
    // The second question finds the frames of the first one in the server's cache.
    let first = ask("What do you see?", &["--conversation", "talk"]);
    let text = first["text"].as_str().expect("a text");
    assert!(is_true(text, truth(&daemon, dir, &first)), "{first}");
    let second = ask("And now?", &["--conversation", "talk"]);
    let text = second["text"].as_str().expect("a text");
    assert!(is_true(text, truth(&daemon, dir, &second)), "{second}");
    println!("usage of two questions: {} {}", first["usage"], second["usage"]);
    let schema = r#"{"type": "object", "properties": {"red": {"type": "boolean"},
        "blue": {"type": "boolean"}}, "required": ["red", "blue"],
        "additionalProperties": false}"#;
    let by_schema = ask("Is there red, and is there blue?", &["--schema", schema]);
    let found: Value = serde_json::from_str(by_schema["text"].as_str().expect("a text"))
        .unwrap_or_else(|error| panic!("{error}: {by_schema}"));
    let wanted = truth(&daemon, dir, &by_schema);
    assert_eq!(
        (&found["red"], &found["blue"]),
        (&wanted.contains("red").into(), &wanted.contains("blue").into())
    );

    // The server is killed in the middle of an answer.
    let written = server.metric("n_decode_total");
    let mut client = Command::new(LOOKOUT);
    client.args(["ask", "wall", WITHOUT_END, "--server", &daemon.server]);
    let mut client = Process::start("ask", &mut client, dir);
    wait_for("the answer", SECONDS(30), || {
        (server.metric("n_decode_total") > written + 60.0).then_some(())
    });
    server.kill();
    let code = client.ended(SECONDS(30)).expect("the client's end");
    let said = client.log();
    println!("the client ended with {code}: {said}");
    assert!(code != 0 && said.contains(&server.address), "{said}");
    let (_, ready) = get(http, "/readyz").expect("a response");
    assert!(ready.contains(&format!("language server {}", server.address)), "{ready}");
    let skipped = || daemon.metric_sum("lookout_captions_skipped_total", "server_failed");
    wait_for("a skipped caption", SECONDS(60), || (skipped() > 0.0).then_some(()));

    server.start_again();
    wait_for("the server is proved", SECONDS(60), || {
        (daemon.metric_sum("lookout_language_server_ready", "") > 0.0).then_some(())
    });
    events.rest(SECONDS(1));
    let caption = events.until("a caption", SECONDS(60), &mut seen, is_of_wall);
    let text = caption["text"].as_str().expect("a text");
    assert!(is_true(text, truth(&daemon, dir, &caption)), "{caption}");

    // A client that leaves ends the server's work.
    let mut client = Command::new(LOOKOUT);
    client.args(["ask", "wall", WITHOUT_END, "--server", &daemon.server]);
    let client = Process::start("ask", &mut client, dir);
    let written = server.metric("n_decode_total");
    wait_for("the answer", SECONDS(30), || {
        (server.metric("n_decode_total") > written + 60.0).then_some(())
    });
    drop(client);
    wait_for("the server is idle", SECONDS(30), || (!server.is_busy()).then_some(()));
    let written = server.metric("n_decode_total") - written;
    println!("the server wrote {written} tokens for a client that left");
    assert!(written < 1400.0, "{written} tokens");
}
