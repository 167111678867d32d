//! Tests the whole daemon with a stub in place of vLLM.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::*;
use super::{Fault, Stub, engine};

const SECONDS: fn(u64) -> std::time::Duration = std::time::Duration::from_secs;

/// Returns the config of a daemon whose language model the stub runs.
fn config(stub: &Stub, grpc: u16, http: u16) -> String {
    let servers = format!(
        "[language]\nbackend = \"vllm\"\nendpoints = [{:?}]\nmodel = \"yard\"\n",
        stub.address
    );
    let rule = "[[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\nof = \"1/2\"\n";
    let camera = camera("drive", &format!("file:{}", clip("drive").display()), "");
    head(grpc, http, None) + &servers + &camera + rule
}

/// Runs `lookout check`. Returns the exit code and the lines.
fn check(folder: &Path, stub: &Stub) -> (Option<i32>, String) {
    let file = folder.join("check.toml");
    std::fs::write(&file, config(stub, free_port(), free_port())).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
    let output = command.args(["check", "--config"]).arg(file).output().expect("lookout");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn check_proves_the_servers() {
    let folder = folder();
    let stub = Stub::start(&engine(), Fault::None);
    let (code, lines) = check(folder.path(), &stub);
    assert_eq!(code, Some(0), "{lines}");
    assert!(lines.contains(&format!("{}: runs the package's model", stub.address)), "{lines}");
    stub.set(Fault::Down);
    let (code, lines) = check(folder.path(), &stub);
    assert_eq!(code, Some(2), "{lines}");
    assert!(lines.contains("FAIL  language server"), "{lines}");
    stub.set(Fault::Model("other"));
    let (code, lines) = check(folder.path(), &stub);
    assert_eq!(code, Some(2), "{lines}");
    assert!(lines.contains("it serves \"other\""), "{lines}");
}

/// Runs `lookout bench servers`.
fn bench(folder: &Path, stub: &Stub) -> (bool, Value, String) {
    let file = folder.join("bench.toml");
    std::fs::write(&file, config(stub, free_port(), free_port())).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
    command.args(["bench", "servers", "--rounds", "1", "--json", "--config"]).arg(file);
    let output = command.output().expect("lookout");
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.success(), report, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn bench_measures_the_time_beyond_that_of_the_server() {
    let folder = folder();
    let stub = Stub::start(&engine(), Fault::None);
    let (is_done, report, error) = bench(folder.path(), &stub);
    assert!(is_done, "{error}");
    // One answer to warm up, and two in the round.
    let own = stub.answers();
    assert_eq!(own.len(), 3);
    for (costs, own) in [("new", own[1]), ("cached", own[2])] {
        let costs = &report[costs];
        let of = |key: &str| costs[key].as_f64().unwrap_or_else(|| panic!("{key}: {costs}"));
        assert!((of("server_seconds") - own).abs() < 1e-6, "{own} {costs}");
        assert!((of("answer_seconds") - own - of("added_seconds")).abs() < 1e-6, "{costs}");
        assert!(of("request_seconds") > 0.0, "{costs}");
        assert!(of("request_seconds") < of("answer_seconds"), "{costs}");
        assert!(of("prompt_tokens") > report["video_tokens"].as_f64().expect("tokens"), "{costs}");
    }
    stub.set(Fault::Shared);
    let (is_done, _, error) = bench(folder.path(), &stub);
    assert!(!is_done && error.contains("counted 2 answers during one"), "{error}");
    stub.set(Fault::Down);
    let (is_done, _, error) = bench(folder.path(), &stub);
    assert!(!is_done && error.contains(&format!("language server {}", stub.address)), "{error}");
}

#[test]
fn a_daemon_outlives_its_servers() {
    let folder = folder();
    let stub = Stub::start(&engine(), Fault::Down);
    let (grpc, http) = (free_port(), free_port());
    let config = config(&stub, grpc, http);
    let mut daemon = Daemon::with_config(folder.path(), &config, grpc, http);
    let skipped = |daemon: &Daemon| {
        daemon.metric_sum("lookout_captions_skipped_total", "reason=\"server_failed\"")
    };
    wait_for("a skipped caption", SECONDS(60), || (skipped(&daemon) > 0.0).then_some(()));
    let (_, ready) = get(http, "/readyz").expect("a response");
    assert!(ready.contains(&format!("language server {}", stub.address)), "{ready}");
    let (code, _, error) = daemon.client(&["ask", "drive", "Is there a car?", "--last", "4s"]);
    assert_ne!(code, Some(0));
    assert!(error.contains("no language server is ready"), "{error}");

    stub.set(Fault::None);
    let mut events = daemon.watch(folder.path());
    let mut seen = Vec::new();
    let is_caption = |event: &Value| is_caption(event, "drive");
    let caption = events.until("a caption", SECONDS(60), &mut seen, is_caption);
    assert_eq!(caption["devices"]["language"]["device"], "vllm", "{caption}");
    let reason = caption["devices"]["language"]["reason"].as_str().expect("a reason");
    assert_eq!(reason, format!("model \"yard\" on {}", stub.address));
    assert!(caption["skipped_windows"].as_u64() > Some(0), "{caption}");
    let is_alert = |event: &Value| event["kind"] == "alert" && event["rule"] == "car";
    if !seen.iter().any(is_alert) {
        events.until("an alert", SECONDS(60), &mut seen, is_alert);
    }
    assert!(daemon.metric_sum("lookout_language_server_ready", "") > 0.0);

    stub.set(Fault::Down);
    let before = skipped(&daemon);
    wait_for("another skipped caption", SECONDS(60), || (skipped(&daemon) > before).then_some(()));
    assert!(daemon.process.is_running(), "{}", daemon.process.log());
}
