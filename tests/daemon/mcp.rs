//! Tests MCP with the whole daemon: the official Python client asks the demo's model through
//! `lookout mcp`, and looks at the frames of the answer.

use std::process::Command;
use std::time::Duration;

use crate::support::*;
use serde_json::{Value, json};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Calls tools with the Python client. Returns their results.
fn call(server: &Value, calls: &Value) -> Vec<Value> {
    let mut client = Command::new(repository().join("target/mcp-env/bin/python"));
    client.arg(repository().join("tests/mcp/client.py"));
    let output = client.args(["auto", &server.to_string(), &calls.to_string()]).output();
    let output = output.expect("run `.ci/setup test` first");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let received: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    received["results"].as_array().expect("results").clone()
}

#[test]
fn an_agent_asks_the_model_and_sees_the_frames() {
    let folder = folder();
    let dir = folder.path();
    let gate = camera("gate", &format!("file:{}", clip("gate").display()), "captions = false");
    let daemon = Daemon::start(dir, &[gate], None);
    let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}";
    wait_for("frames", SECONDS(60), || (daemon.metric(frames) > 10.0).then_some(()));
    let server = json!([LOOKOUT, "mcp", "--http", format!("127.0.0.1:{}", daemon.http)]);
    let question = json!({ "question": "What happens?", "cameras": ["gate"], "last": "4s" });
    let calls = json!([["list_cameras", {}], ["ask", question]]);
    let results = call(&server, &calls);
    let camera = &results[0]["structuredContent"]["cameras"][0];
    assert_eq!((&camera["name"], &camera["state"]), (&json!("gate"), &json!("live")));
    let answer = &results[1]["structuredContent"]["answers"][0];
    assert!(!answer["text"].as_str().expect("a text").is_empty(), "{answer}");
    assert!(answer["coverage"]["frames_used"].as_u64() > Some(0), "{answer}");

    let event = answer["event"].clone();
    let calls = json!([
        ["get_event", { "event": event }],
        ["get_frames", { "event": event, "count": 2 }],
        ["get_frames", { "camera": "gate", "last": "4s", "count": 3 }],
        ["list_events", { "kinds": ["answer"] }],
    ]);
    let results = call(&server, &calls);
    assert_eq!(results[0]["structuredContent"]["event"]["text"], answer["text"]);
    for (result, count) in [(&results[1], 2), (&results[2], 3)] {
        let content = result["content"].as_array().expect("content");
        let images: Vec<_> = content.iter().filter(|part| part["type"] == "image").collect();
        assert_eq!(images.len(), count, "{}", content[0]);
        // The first bytes of a JPEG in Base64.
        assert!(images.iter().all(|image| image["data"].as_str().unwrap().starts_with("/9j/")));
    }
    assert_eq!(results[3]["structuredContent"]["events"][0]["event"], event);
    assert!(daemon.metric("lookout_mcp_calls_total{tool=\"ask\",result=\"ok\"}") > 0.0);
}
