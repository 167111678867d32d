//! Faults while cameras change: a daemon that is killed in the middle, a full disk, cameras that are
//! removed while they are used, and cameras that are paused, as MQTT shows them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lookout::proto;
use lookout::proto::lookout_service_client::LookoutServiceClient;
use rand::Rng;
use serde_json::Value;

use crate::support::small_disk::SmallDisk;
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(120);

/// Number of kills, if `LOOKOUT_ROUNDS` does not say it.
const KILLS: usize = 3;

/// Names of cameras that come and go.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Starts a daemon with a paused camera in its config, which needs no connection.
fn start(dir: &Path, more: &str) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let gate = camera("gate", "rtsp://127.0.0.1:9/x", "captions = false\npaused = true");
    let config = format!("{more}\n{}{gate}", head(grpc, http, None));
    Daemon::with_config(dir, &config, grpc, http)
}

fn cameras(daemon: &Daemon) -> Vec<Value> {
    let (_, out, error) = daemon.client(&["cameras", "--json"]);
    let lines = out.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}: {out} {error}"))
}

fn settings(prompt: u32) -> String {
    format!(
        "url = \"rtsp://127.0.0.1:9/x\"\npaused = true\ncaptions = false\n\
         caption_prompt = \"Prompt {prompt}?\"\n"
    )
}

/// The prompt in a camera's drop-in, or `None` if there is no drop-in.
type State = Option<u32>;

/// Changes cameras until the daemon is killed. Returns the states that were acknowledged, and those
/// that the last, interrupted change may have made.
async fn change_until_killed(
    server: String,
    mut acknowledged: BTreeMap<&'static str, State>,
) -> (BTreeMap<&'static str, State>, Option<(&'static str, State)>) {
    let Ok(mut client) = LookoutServiceClient::connect(server).await else {
        return (acknowledged, None);
    };
    loop {
        let name = NAMES[rand::random_range(0..NAMES.len())];
        let prompt = rand::rng().random_range(0..1000);
        let before = acknowledged.get(name).copied().flatten();
        let (after, done) = match before {
            None => {
                let request = proto::AddCameraRequest {
                    name: name.into(),
                    settings: settings(prompt),
                    force: true,
                };
                (Some(prompt), client.add_camera(request).await.map(drop))
            }
            Some(_) if prompt.is_multiple_of(2) => {
                let settings = settings(prompt);
                let request =
                    proto::UpdateCameraRequest { name: name.into(), settings, reset: Vec::new() };
                (Some(prompt), client.update_camera(request).await.map(drop))
            }
            Some(_) => {
                let request = proto::RemoveCameraRequest { name: name.into() };
                (None, client.remove_camera(request).await.map(drop))
            }
        };
        if done.is_err() {
            return (acknowledged, Some((name, after)));
        }
        acknowledged.insert(name, after);
    }
}

#[test]
fn a_kill_in_the_middle_of_a_change_loses_no_camera() {
    let folder = folder();
    let dir = folder.path();
    let drop_ins = dir.join("lookout.d");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut expected: BTreeMap<&str, State> = NAMES.map(|name| (name, None)).into();
    let mut changes = 0;
    for round in 0..rounds().unwrap_or(KILLS) {
        let mut daemon = start(dir, "");
        let changing = runtime.spawn(change_until_killed(daemon.server.clone(), expected.clone()));
        // The changes go on for a while, then the kill comes at any moment of one.
        wait_for("changes", PATIENCE, || {
            let log = daemon.process.log();
            (log.matches("reload: camera").count() >= 10).then_some(())
        });
        std::thread::sleep(Duration::from_micros(rand::random_range(0..20_000)));
        daemon.process.signal(libc::SIGKILL);
        daemon.process.ended(PATIENCE);
        let (acknowledged, interrupted) = runtime.block_on(changing).expect("the changes");
        changes += daemon.process.log().matches("reload: camera").count();
        drop(daemon);

        // The next start has what was acknowledged, and the interrupted change completely or not.
        let daemon = start(dir, "");
        let listed = cameras(&daemon);
        for name in NAMES {
            let is_listed = listed.iter().any(|camera| camera["name"] == name);
            let text = fs::read_to_string(drop_ins.join(format!("{name}.toml"))).ok();
            assert_eq!(is_listed, text.is_some(), "round {round}: {name}: {text:?}");
            let prompt = text.map(|text| {
                let prompt = text.split("Prompt ").nth(1).and_then(|rest| rest.split('?').next());
                let prompt = prompt.and_then(|number| number.parse().ok());
                prompt.unwrap_or_else(|| panic!("round {round}: a part of a drop-in: {text}"))
            });
            let is_interrupted = interrupted.is_some_and(|after| after == (name, prompt));
            assert!(
                prompt == acknowledged[name] || is_interrupted,
                "round {round}: {name} is {prompt:?}: {acknowledged:?} {interrupted:?}"
            );
            expected.insert(name, prompt);
        }
        // What a killed daemon left is removed by the next change.
        let (code, _, error) = daemon.client(&["camera", "resume", "gate"]);
        assert_eq!(code, Some(0), "{error}");
        let (code, _, error) = daemon.client(&["camera", "pause", "gate"]);
        assert_eq!(code, Some(0), "{error}");
        let names = fs::read_dir(&drop_ins).expect("the folder");
        let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
        let is_part = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with('.');
        assert_eq!(names.iter().find(is_part), None, "round {round}: {names:?}");
    }
    eprintln!("{changes} changes");
}

#[test]
fn a_full_disk_refuses_a_change_of_a_camera_and_changes_nothing() {
    let folder = folder();
    let dir = folder.path();
    let Some(disk) = SmallDisk::mount(dir.join("small")) else { return };
    let daemon = start(dir, "drop_in_folder = \"small/lookout.d\"");
    let add = |name: &str| {
        let url = "rtsp://127.0.0.1:9/x";
        let set = ["--force", "--set", "paused=true", "--set", "caption_prompt=Who?"];
        let (code, out, error) =
            daemon.client(&[&["camera", "add", name, "--url", url], &set[..]].concat());
        (code, out + &error)
    };
    assert_eq!(add("hall"), (Some(0), "camera \"hall\" added\n".into()));
    let (before, file) = (cameras(&daemon), disk.0.join("lookout.d/hall.toml"));
    let text = fs::read_to_string(&file).expect("the drop-in");
    disk.fill();
    let update = ["camera", "update", "hall", "--set", "caption_prompt=What?"];
    for refused in [add("yard"), {
        let (code, out, error) = daemon.client(&update);
        (code, out + &error)
    }] {
        assert_eq!(refused.0, Some(1), "{}", refused.1);
        for part in ["drop_in_folder", "small/lookout.d", "No space left"] {
            assert!(refused.1.contains(part), "{}", refused.1);
        }
    }
    assert_eq!(cameras(&daemon), before);
    assert_eq!(fs::read_to_string(&file).expect("the drop-in"), text);
    assert_eq!(fs::read_dir(disk.0.join("lookout.d")).expect("the folder").count(), 1);
    // A camera can be removed from a full disk, and changed when there is space again.
    let (code, _, error) = daemon.client(&["camera", "remove", "hall"]);
    assert_eq!(code, Some(0), "{error}");
    disk.empty();
    assert_eq!(add("yard"), (Some(0), "camera \"yard\" added\n".into()));
}

/// Reads from a connection until its newest bytes contain a text.
fn read_until(from: &mut TcpStream, all: &mut Vec<u8>, text: &str) {
    loop {
        let mut bytes = [0; 16 * 1024];
        let read = from.read(&mut bytes).unwrap_or_else(|e| panic!("{text}: {e}"));
        let end = all.len().saturating_sub(text.len());
        all.extend(&bytes[..read]);
        if all[end..].windows(text.len()).any(|window| window == text.as_bytes()) {
            return;
        }
        assert!(read > 0, "no {text} in {}", String::from_utf8_lossy(all));
    }
}

#[test]
fn what_uses_a_camera_ends_when_the_camera_is_removed() {
    let folder = folder();
    let dir = folder.path();
    let server = Cameras::start(dir, 0, &[("hall", &clip("drive"))], &[]);
    let (grpc, http) = (free_port(), free_port());
    let rule = "[[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\nof = \"1/1\"\n\
                cooldown = \"30s\"\nclip = \"alert\"\nclip_after = \"3s\"\n";
    let gate = camera("gate", &format!("file:{}", clip("drive").display()), "captions = false");
    let config = head(grpc, http, None) + &gate + rule;
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let url = server.url("hall");
    // No window is too late to be scored, also on a loaded machine.
    let set = ["window=4s", "fps=2", "captions=false", "max_caption_delay=1m"];
    let set = set.iter().flat_map(|setting| ["--set", setting]);
    let add: Vec<&str> = ["camera", "add", "hall", "--url", &url].into_iter().chain(set).collect();
    for round in 0..2 {
        let (code, _, error) = daemon.client(&add);
        assert_eq!(code, Some(0), "round {round}: {error}");
        let alerts = || {
            let query =
                ["events", "--camera", "hall", "--kind", "alert", "--json", "--limit", "500"];
            let (_, out, _) = daemon.client(&query);
            let lines = out.lines().map(|line| serde_json::from_str(line).expect("JSON"));
            lines.collect::<Vec<Value>>()
        };
        let begun = |alerts: &[Value]| {
            alerts.iter().filter(|alert| alert["phase"] == "new").count() > round
        };
        wait_for("an alert", PATIENCE, || begun(&alerts()).then_some(()));

        // A viewer, a trial and questions, while the alert waits for its clip.
        let mut viewer = TcpStream::connect(("127.0.0.1", http)).expect("HTTP");
        viewer.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let request = "GET /api/v1/cameras/hall/live HTTP/1.1\r\nHost: localhost\r\n\
                       Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        viewer.write_all(request.as_bytes()).expect("a request");
        let mut video = Vec::new();
        read_until(&mut viewer, &mut video, "\"kind\":\"started\"");
        let run = |arguments: &[&str]| {
            let mut command = Command::new(LOOKOUT);
            command.args(arguments).args(["--server", &daemon.server]);
            Lines::of("client", &mut command, dir)
        };
        let mut clients = vec![run(&["rule", "try", "car", "--camera", "hall", "--last", "1h"])];
        clients.extend((0..3).map(|_| run(&["ask", "hall", "Is there a car?"])));

        let (code, _, error) = daemon.client(&["camera", "remove", "hall"]);
        assert_eq!(code, Some(0), "round {round}: {error}");
        read_until(&mut viewer, &mut video, "\"kind\":\"ended\"");
        for client in &mut clients {
            let ended = client.process.ended(PATIENCE).expect("an exit code");
            let log = client.process.log();
            // Each was done before, or says why not.
            assert!(ended == 0 || log.contains("hall"), "round {round}: {ended}: {log}");
        }
        let last = wait_for("the end of the alert and of its clip", PATIENCE, || {
            let alerts = alerts();
            let newest = alerts.iter().max_by_key(|alert| alert["sequence"].as_u64())?.clone();
            let ended = alerts
                .iter()
                .any(|alert| alert["alert_id"] == newest["alert_id"] && alert["phase"] == "end");
            (ended && newest["clip"]["state"] != "pending").then_some(newest)
        });
        assert!(last["clip"]["state"].is_string(), "{last}");
        wait_for("the end of its metrics", PATIENCE, || {
            let (_, metrics) = get(http, "/metrics")?;
            (!metrics.contains("camera=\"hall\"")).then_some(())
        });
    }
}

#[test]
fn a_paused_camera_is_unavailable_over_mqtt_and_its_buffer_can_be_asked_about() {
    let folder = folder();
    let dir = folder.path();
    let broker = Broker::start(dir, free_port());
    let gate = camera("gate", &format!("file:{}", clip("drive").display()), "captions = false");
    let start = || {
        let (grpc, http) = (free_port(), free_port());
        let head = head(grpc, http, Some(broker.port)) + "home_assistant = true\n";
        let client = head.replace("[mqtt]", "[mqtt]\nclient_id = \"lookout\"");
        Daemon::with_config(dir, &(client + &gate), grpc, http)
    };
    let mut daemon = start();
    let mut messages = subscribe(broker.port, dir);
    let mut until = |what: &str, wanted: &dyn Fn(&str) -> bool| {
        wait_for(what, PATIENCE, || messages.next(PATIENCE).filter(|line| wanted(line)))
    };
    let is_online = |line: &str| line == "lookout/gate/available online";
    let is_offline = |line: &str| line == "lookout/gate/available offline";
    let is_paused = |line: &str| {
        line.starts_with("lookout/gate/status ") && line.contains("\"state\":\"paused\"")
    };
    let is_reply = |line: &str| line.starts_with("lookout/gate/answer ");
    let ask = |question: &str| {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &broker.port.to_string(), "-q", "1", "-t", "lookout/gate/ask"]);
        let status = command.args(["-m", question]).status().expect("mosquitto_pub");
        assert!(status.success());
    };
    until("an available camera", &is_online);
    wait_for("frames", PATIENCE, || {
        let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}";
        (daemon.metric(frames) >= 8.0).then_some(())
    });
    let (code, _, error) = daemon.client(&["camera", "pause", "gate"]);
    assert_eq!(code, Some(0), "{error}");
    let status = until("the paused state", &is_paused);
    assert!(status.contains("\"kind\":\"camera_status\""), "{status}");
    until("an unavailable camera", &is_offline);
    ask(r#"{"question":"Is there a car?","last":"1h"}"#);
    let reply = until("an answer", &is_reply);
    assert!(reply.contains("\"kind\":\"answer\""), "{reply}");

    // After a kill the camera is still paused, and has no frames.
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(PATIENCE);
    let daemon = start();
    until("the paused state after a kill", &is_paused);
    wait_for("MQTT", PATIENCE, || (daemon.metric("lookout_mqtt_connected") == 1.0).then_some(()));
    ask("Is there a car?");
    let reply = until("a refusal", &is_reply);
    assert!(reply.contains("\"kind\":\"refused\"") && reply.contains("NO_FRAMES"), "{reply}");
    let (code, _, error) = daemon.client(&["camera", "resume", "gate"]);
    assert_eq!(code, Some(0), "{error}");
    until("an available camera again", &is_online);
}
