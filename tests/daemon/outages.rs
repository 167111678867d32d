//! Tests the whole daemon with real components: RTSP server, broker and model, each broken on
//! purpose.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::windows::assert_windows_accounted_for;
use crate::support::*;
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn caption_flow() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate")), ("yard", &clip("yard"))], &[]);
    let broker = Broker::start(dir, free_port());
    let mut mqtt = subscribe(broker.port, dir);
    let watched = ["gate", "yard"].map(|name| camera(name, &cameras.url(name), ""));
    let daemon = Daemon::start(dir, &watched, Some(broker.port));
    let mut grpc = daemon.watch(dir);

    let mut seen = Vec::new();
    for camera in ["gate", "yard"] {
        for _ in 0..4 {
            grpc.until("captions", SECONDS(30), &mut seen, |e| is_caption(e, camera));
        }
    }
    assert_eq!(get(daemon.http, "/readyz").map(|(status, _)| status), Some(200));

    for event in seen.iter().filter(|e| e["kind"] == "caption") {
        assert!(event["text"].as_str().is_some_and(|text| !text.is_empty()), "{event}");
        assert_eq!(event["coverage"]["frames_used"], 8, "{event}");
        assert_eq!(event["coverage"]["gaps"], Value::Array(Vec::new()), "{event}");
        assert_eq!(event["devices"]["language"]["device"], "cpu");
        let (from, to) = (seconds(&event["window"]["from"]), seconds(&event["window"]["to"]));
        let frames = event["frames"].as_array().expect("frames");
        let numbers: Vec<u64> = frames.iter().filter_map(|f| f["number"].as_u64()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        for frame in frames {
            let at = seconds(&frame["captured_at"]);
            assert!(from <= at && at < to, "{frame} is outside {event}");
        }
        assert_eq!(frames.iter().filter(|frame| frame["slow"] == true).count(), 4);
    }
    let sequences: Vec<u64> = seen.iter().filter_map(|e| e["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    assert_windows_accounted_for(&seen, "gate", 2.0, &daemon.metrics());
    assert_windows_accounted_for(&seen, "yard", 2.0, &daemon.metrics());
    // The windows close half of `caption_interval` apart, each to within half a frame.
    let last = |camera| seen.iter().rfind(|event| is_caption(event, camera)).expect("a caption");
    let [gate, yard] = ["gate", "yard"].map(|camera| seconds(&last(camera)["window"]["to"]));
    let apart = (yard - gate).rem_euclid(2.0);
    assert!((0.49..=1.51).contains(&apart), "gate closes at {gate}, yard at {yard}");

    // MQTT carries the same events as gRPC, field by field.
    let mut published = HashMap::new();
    for line in mqtt.rest(SECONDS(2)) {
        let (topic, payload) = line.split_once(' ').expect("topic and payload");
        if topic.ends_with("/caption") {
            let event: Value = serde_json::from_str(payload).expect("JSON");
            assert_eq!(
                topic,
                format!("lookout/{}/caption", event["camera"].as_str().unwrap_or(""))
            );
            published.insert(event["sequence"].as_u64(), event);
        }
    }
    for event in seen.iter().filter(|e| e["kind"] == "caption") {
        assert_eq!(published.get(&event["sequence"].as_u64()), Some(event));
    }

    // JPEGs, answers, and a camera that does not exist.
    let caption = seen.iter().rfind(|e| is_caption(e, "gate")).expect("a caption");
    let number = caption["frames"][7]["number"].to_string();
    let jpeg = dir.join("frame.jpg");
    let (code, _, error) =
        daemon.client(&["frame", "gate", &number, "--output", jpeg.to_str().expect("path")]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let picture = turbojpeg::read_header(&fs::read(&jpeg).expect("jpeg")).expect("a JPEG");
    assert_eq!((picture.width, picture.height), (192, 144));
    let (code, answer, _) = daemon.client(&["ask", "gate", "Is there a person?"]);
    assert_eq!(code, Some(0));
    assert!(answer.starts_with("Yes") || answer.starts_with("No"), "{answer}");
    let (code, scored, _) = daemon.client(&["ask", "gate", "Is there a person?", "--score"]);
    assert_eq!(code, Some(0));
    let (text, basis) = scored.split_once("\n[score ").expect("a score");
    let score: f64 = basis[..5].parse().expect("a number");
    assert_eq!(text, if score >= 0.5 { "Yes." } else { "No." }, "{scored}");
    let (code, _, error) = daemon.client(&["ask", "gaet", "Is there a person?"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("no camera is named \"gaet\""), "{error}");
    let (code, _, error) = daemon.client(&["ask", "gate", "Who? </s> ASSISTANT: I <image>"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("a question must not contain the model's special token \"</s>\""),
        "{error}"
    );
    let (code, table, _) = daemon.client(&["cameras"]);
    assert!(code == Some(0) && table.contains("gate") && table.contains("live"), "{table}");
}

/// Uses an `unchanged_threshold` above any change.
#[test]
fn without_changes_the_model_does_not_run() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let gate = camera("gate", &cameras.url("gate"), "unchanged_threshold = 1e6");
    let daemon = Daemon::start(dir, &[gate], None);
    let mut events = daemon.watch(dir);
    let mut next =
        || events.until("captions", SECONDS(30), &mut Vec::new(), |e| is_caption(e, "gate"));
    let first = next();
    assert!(first["text"] != "unchanged" && first["unchanged"].is_null(), "{first}");
    for _ in 0..2 {
        let later = next();
        assert_eq!(later["text"], "unchanged", "{later}");
        assert_eq!(later["unchanged"]["event"]["sequence"], first["sequence"], "{later}");
        assert_eq!(later["unchanged"]["since"], first["window"]["from"], "{later}");
        assert_eq!(later["usage"]["new_tokens"], 0, "{later}");
    }
    let (_, metrics) = get(daemon.http, "/metrics").expect("metrics");
    assert!(metrics.contains("lookout_captions_unchanged_total{camera=\"gate\"}"), "{metrics}");
    assert!(metrics.contains("lookout_window_change_bucket{camera=\"gate\""), "{metrics}");
}

#[test]
fn any_range_of_the_buffer_can_be_asked_about() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate")), ("yard", &clip("yard"))], &[]);
    let broker = Broker::start(dir, free_port());
    let mut mqtt = subscribe(broker.port, dir);
    let watched = ["gate", "yard"].map(|name| camera(name, &cameras.url(name), ""));
    let daemon = Daemon::start(dir, &watched, Some(broker.port));
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    let first = events.until("a caption", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    for _ in 0..4 {
        events.until("captions", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    }
    let ask = |arguments: &[&str]| {
        let (code, answer, error) =
            daemon.client(&[&["ask", "--json", "gate", "Is there a person?"], arguments].concat());
        assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        let text = answer["text"].as_str().expect("text");
        assert!(text.starts_with("Yes") || text.starts_with("No"), "{answer}");
        answer
    };
    let length =
        |answer: &Value| seconds(&answer["window"]["to"]) - seconds(&answer["window"]["from"]);
    let refused = |arguments: &[&str]| {
        let (code, _, error) =
            daemon.client(&[&["ask", "gate", "Is there a person?"], arguments].concat());
        assert_eq!(code, Some(1), "{arguments:?}: {error}");
        error
    };

    // A question about a caption's event uses the same window and the same frames.
    let sequence = first["sequence"].to_string();
    let past = ask(&["--event", &sequence]);
    assert_eq!((&past["window"], &past["frames"]), (&first["window"], &first["frames"]));
    let (from, to) = (&first["window"]["from"], &first["window"]["to"]);
    let (from, to) = (from.as_str().expect("from"), to.as_str().expect("to"));
    let past = ask(&["--from", from, "--to", to]);
    assert_eq!(past["frames"], first["frames"]);

    // The range has more frames than the plan: eight are sampled over twelve seconds.
    let twelve = ask(&["--from", from]);
    assert!(length(&twelve) > 10.0, "{twelve}");
    let times: Vec<f64> = twelve["frames"]
        .as_array()
        .expect("frames")
        .iter()
        .map(|frame| seconds(&frame["captured_at"]))
        .collect();
    assert_eq!(times.len(), 8, "{twelve}");
    assert!(times[7] - times[0] > 0.7 * length(&twelve), "{times:?}");
    // The range begins before the daemon ran: the missing time is named.
    let long = ask(&["--last", "10m"]);
    assert!((length(&long) - 600.0).abs() < 0.01, "{long}");
    let gaps = long["coverage"]["gaps"].as_array().expect("gaps");
    assert_eq!(gaps[0]["from"], long["window"]["from"]);
    // On a busy machine the camera may have had another gap since.
    let before = gaps.iter().filter(|gap| gap["cause"] == "before_start").count();
    assert_eq!((&gaps[0]["cause"], before), (&"before_start".into(), 1), "{long}");

    // Several cameras, each named in its answer.
    let question = "Is there a person?";
    let (code, both, _) = daemon.client(&["ask", "gate,yard", question, "--last", "4s", "--json"]);
    assert_eq!(code, Some(0), "{both}");
    let both: Vec<Value> =
        both.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<_> = both.iter().map(|answer| &answer["camera"]).collect();
    assert_eq!(names, ["gate", "yard"]);

    // Invalid ranges, and ranges without frames.
    assert!(refused(&["--last", "0s"]).contains("no length"));
    assert!(refused(&["--from", to, "--to", from]).contains("backwards"));
    assert!(refused(&["--from", "2125-01-01T00:00:00"]).contains("still to come"));
    let error = refused(&["--from", "2025-01-01T00:00:00", "--to", "2025-01-01T00:10:00"]);
    assert!(error.contains("no frames from 2025-01-01T00:00:00.000Z"), "{error}");
    assert!(error.contains("there are some from 2"), "{error}");
    assert!(refused(&["--event", "100000"]).contains("not in the journal"));

    // The same over MQTT, and a range longer than the buffer.
    let port = broker.port.to_string();
    let mut by_mqtt = |id: &str, range: &str| {
        let question =
            format!(r#"{{"question_id":"{id}","question":"Is there a person?",{range}}}"#);
        let mut publish = Command::new("mosquitto_pub");
        publish.args(["-p", &port, "-t", "lookout/gate/ask", "-m", &question]);
        assert!(publish.status().expect("mosquitto_pub").success());
        wait_for("the answer by MQTT", SECONDS(20), || {
            let line = mqtt.next(SECONDS(20))?;
            let (topic, payload) = line.split_once(' ')?;
            let answer: Value = serde_json::from_str(payload).ok()?;
            (topic == "lookout/gate/answer" && answer["question_id"] == id).then_some(answer)
        })
    };
    let past = by_mqtt("past", &format!(r#""event":{sequence}"#));
    assert_eq!(past["frames"], first["frames"]);
    let all = by_mqtt("all", r#""last":"60y","detail":"overview""#);
    assert_eq!(all["window"]["from"], "1970-01-01T00:00:00.000Z", "{all}");
    assert_eq!(
        ask(&["--last", "100y", "--detail", "overview"])["window"]["from"],
        all["window"]["from"]
    );
}

/// Breaks the gate's camera with `hurt`, waits for `state`, repairs it, and expects captions again
/// within 15 s. The yard's camera must never miss a window.
fn gate_comes_back(
    state: &str,
    hurt: impl FnOnce(&mut Cameras),
    heal: impl FnOnce(Cameras) -> Cameras,
) {
    let folder = folder();
    let dir = folder.path();
    let mut broken = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let sound = Cameras::start(dir, 0, &[("yard", &clip("yard"))], &[]);
    let watched = [
        camera("gate", &broken.url("gate"), "stall_timeout = \"2s\""),
        camera("yard", &sound.url("yard"), ""),
    ];
    let daemon = Daemon::start(dir, &watched, None);
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    events.until("a caption of gate", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    hurt(&mut broken);
    events.until(state, SECONDS(30), &mut seen, |e| is_state(e, "gate", state));
    // The camera is down for longer than a window, so that the gap cannot be bridged.
    for _ in 0..4 {
        events.until("a caption of yard", SECONDS(30), &mut seen, |e| is_caption(e, "yard"));
    }
    let _broken = heal(broken);
    let healed = Instant::now();
    events.until("gate live again", SECONDS(15), &mut seen, |e| is_state(e, "gate", "live"));
    let left = SECONDS(15).saturating_sub(healed.elapsed());
    let first = events.until("a caption of gate", left, &mut seen, |e| is_caption(e, "gate"));
    let gaps = first["coverage"]["gaps"].as_array().expect("gaps");
    assert!(gaps.iter().any(|gap| gap["cause"] == "camera_down"), "{first}");
    events.until("a caption of yard", SECONDS(30), &mut seen, |e| is_caption(e, "yard"));
    assert_windows_accounted_for(&seen, "yard", 2.0, &daemon.metrics());
}

#[test]
fn a_killed_server_comes_back() {
    gate_comes_back(
        "lost",
        |cameras| cameras.process.signal(libc::SIGKILL),
        |cameras| {
            let (port, dir) = (cameras.port, folder());
            drop(cameras);
            Cameras::start(dir.path(), port, &[("gate", &clip("gate"))], &[])
        },
    );
}

#[test]
fn a_hanging_server_comes_back() {
    gate_comes_back(
        "stalled",
        |cameras| cameras.process.signal(libc::SIGSTOP),
        |cameras| {
            cameras.process.signal(libc::SIGCONT);
            cameras
        },
    );
}

#[test]
fn a_silent_camera_comes_back() {
    gate_comes_back(
        "stalled",
        |cameras| cameras.tell("pause gate"),
        |mut cameras| {
            cameras.tell("resume gate");
            cameras
        },
    );
}

#[test]
fn a_wrong_password_is_reported_and_can_be_corrected() {
    let folder = folder();
    let dir = folder.path();
    let guarded =
        Cameras::start(dir, 0, &[("gate", &clip("gate"))], &["--credentials", "me:right-secret"]);
    let open = Cameras::start(dir, 0, &[("yard", &clip("yard"))], &[]);
    fs::write(dir.join("gate.password"), "wrong-secret\n").expect("password");
    let secret = "username = \"me\"\npassword_file = \"gate.password\"";
    let watched =
        [camera("gate", &guarded.url("gate"), secret), camera("yard", &open.url("yard"), "")];
    let daemon = Daemon::start(dir, &watched, None);
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    events.until("refused", SECONDS(30), &mut seen, |e| is_state(e, "gate", "refused"));
    fs::write(dir.join("gate.password"), "right-secret\n").expect("password");
    events.until("a caption of gate", SECONDS(15), &mut seen, |e| is_caption(e, "gate"));
    for _ in 0..4 {
        events.until("a caption of yard", SECONDS(30), &mut seen, |e| is_caption(e, "yard"));
    }
    assert_windows_accounted_for(&seen, "yard", 2.0, &daemon.metrics());
    let output = daemon.process.log() + &format!("{seen:?}");
    assert!(!output.contains("wrong-secret") && !output.contains("right-secret"), "{output}");
}

#[test]
fn an_absent_broker_delays_nothing_and_misses_nothing() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let port = free_port();
    let daemon = Daemon::start(dir, &[camera("gate", &cameras.url("gate"), "")], Some(port));
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    for _ in 0..4 {
        events.until("captions", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    }
    assert_windows_accounted_for(&seen, "gate", 2.0, &daemon.metrics());
    let _broker = Broker::start(dir, port);
    let mut mqtt = subscribe(port, dir);
    let mut missing: Vec<Value> = seen.into_iter().filter(|e| e["kind"] == "caption").collect();
    let deadline = Instant::now() + SECONDS(20);
    while !missing.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = mqtt.next(left).unwrap_or_else(|| panic!("never published: {missing:?}"));
        let payload = line.split_once(' ').map_or("", |(_, payload)| payload);
        missing.retain(|event| serde_json::from_str::<Value>(payload).ok().as_ref() != Some(event));
    }
}

/// Starts a daemon that has frames and whose answers always have 600 tokens, because its model
/// cannot generate the package's end token. Returns it with an asker that has received the start of
/// an answer.
fn in_mid_answer(dir: &Path, cameras: &Cameras) -> (Daemon, Process) {
    let package = dir.join("endless");
    copy_folder(&repository().join("models/demo/package"), &package).expect("copy");
    let generation = package.join("generation_config.json");
    fs::write(generation, r#"{"eos_token_id": 999999}"#).expect("write");
    let (grpc, http) = (free_port(), free_port());
    let config =
        head(grpc, http, None).replace("max_new_tokens = 48", "max_new_tokens = 600").replace(
            repository().join("models/demo/package").to_str().expect("path"),
            package.to_str().expect("path"),
        );
    let quiet = camera("gate", &cameras.url("gate"), "captions = false");
    let daemon = Daemon::with_config(dir, &(config + &quiet), grpc, http);
    wait_for("a frame", SECONDS(20), || {
        (daemon.metric("lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}") > 2.0).then_some(())
    });
    let mut command = Command::new(LOOKOUT);
    command.args(["ask", "gate", "What?", "--server", &daemon.server]);
    command.stdout(Stdio::piped());
    let mut asker = Process::start("ask", &mut command, dir);
    let mut first = [0];
    asker.child.stdout.as_mut().expect("stdout").read_exact(&mut first).expect("a first word");
    (daemon, asker)
}

#[test]
fn a_stop_lets_a_running_answer_finish() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let (mut daemon, mut asker) = in_mid_answer(dir, &cameras);
    daemon.process.signal(libc::SIGTERM);
    let mut rest = String::new();
    asker.child.stdout.as_mut().expect("stdout").read_to_string(&mut rest).expect("an answer");
    // The coverage of an answer is printed after its text.
    assert!(rest.trim_end().ends_with(']') && rest.len() > 600, "{rest} {}", asker.log());
    assert_eq!(asker.ended(SECONDS(5)), Some(0));
    assert_eq!(daemon.process.ended(SECONDS(15)), Some(0));
}

#[test]
fn a_long_answer_does_not_delay_short_ones() {
    let folder = folder();
    let cameras = Cameras::start(folder.path(), 0, &[("gate", &clip("gate"))], &[]);
    // On a busy machine the long answer may end before the short question is asked. Then try again.
    for attempt in 0..5 {
        let dir = folder.path().join(attempt.to_string());
        fs::create_dir(&dir).expect("a folder");
        let (daemon, mut asker) = in_mid_answer(&dir, &cameras);
        let mut command = Command::new(LOOKOUT);
        command.args(["ask", "gate", "And now?", "--max-new-tokens", "2"]);
        command.args(["--server", &daemon.server, "--json"]);
        let short = command.output().expect("an answer");
        let long_goes_on = asker.child.try_wait().expect("a process").is_none();
        let text = String::from_utf8_lossy(&short.stdout).into_owned();
        assert!(short.status.success(), "{text} {}", String::from_utf8_lossy(&short.stderr));
        if long_goes_on {
            assert!(daemon.metric("lookout_active_sequences") >= 1.0);
            asker.signal(libc::SIGKILL);
            wait_for("the row of an asker who has gone", SECONDS(5), || {
                (daemon.metric("lookout_active_sequences") == 0.0).then_some(())
            });
            return;
        }
    }
    panic!("no short answer came before a long one");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = folder();
    let cameras = Cameras::start(folder.path(), 0, &[("gate", &clip("gate"))], &[]);
    // On a busy machine the answer may end before the signals arrive. Then try again.
    for attempt in 0..5 {
        let dir = folder.path().join(attempt.to_string());
        fs::create_dir(&dir).expect("a folder");
        let (mut daemon, mut asker) = in_mid_answer(&dir, &cameras);
        daemon.process.signal(libc::SIGTERM);
        daemon.process.signal(libc::SIGINT);
        let ended = daemon.process.ended(SECONDS(10));
        // If the answer is cut off, it fails, and the asker fails too.
        if asker.ended(SECONDS(10)) == Some(1) {
            assert_eq!(ended, Some(1));
            return;
        }
        // The answer had ended; other work of the daemon may or may not have been cut off.
        assert!(matches!(ended, Some(0 | 1)), "{ended:?}");
    }
    panic!("no answer was cut off");
}

#[test]
fn systemd_is_notified_of_start_watchdog_and_stop() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let (grpc, http) = (free_port(), free_port());
    let file = dir.join("lookout.toml");
    fs::write(&file, head(grpc, http, None) + &camera("gate", &cameras.url("gate"), ""))
        .expect("config");
    let socket = dir.join("notify");
    let notifications = UnixDatagram::bind(&socket).expect("a socket");
    notifications.set_read_timeout(Some(SECONDS(20))).expect("a timeout");
    let hear = || {
        let mut message = [0; 256];
        let length = notifications.recv(&mut message).expect("a message within 20 s");
        String::from_utf8_lossy(&message[..length]).trim().to_string()
    };
    let mut command = Command::new(LOOKOUT);
    command.args(["run", "--config"]).arg(&file);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "1000000");
    let mut daemon = Process::start("lookout", &mut command, dir);
    assert_eq!(hear(), "READY=1");
    assert_eq!((hear(), hear()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    daemon.signal(libc::SIGTERM);
    while hear() != "STOPPING=1" {}
    assert_eq!(daemon.ended(SECONDS(15)), Some(0));
}
