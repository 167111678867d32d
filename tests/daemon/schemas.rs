//! Tests answers by a JSON Schema: the whole daemon with the demo's model, over gRPC by the command
//! line, and over MQTT.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::*;
use serde_json::{Value, json};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;
const QUESTION: &str = "Is there a person?";

/// The demo's model ends every text by this schema.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "person": { "type": "boolean" },
            "colour": { "enum": ["red", "blue", "none"] },
            "count": { "type": "integer", "minimum": 0, "maximum": 9 },
        },
        "required": ["person", "colour", "count"],
        "additionalProperties": false,
    })
}

/// Fails unless the answer's text follows the schema.
fn check(answer: &Value) {
    assert_eq!(answer["finish_reason"], "stop", "{answer}");
    let value: Value = serde_json::from_str(answer["text"].as_str().expect("text")).expect("JSON");
    let names: Vec<&String> = value.as_object().expect("an object").keys().collect();
    assert_eq!(names, ["person", "colour", "count"]);
    assert!(value["person"].is_boolean(), "{value}");
    assert!(["red", "blue", "none"].iter().any(|colour| value["colour"] == *colour), "{value}");
    assert!(value["count"].as_u64().is_some_and(|count| count < 10), "{value}");
    assert_eq!(answer["schema_sha256"].as_str().map(str::len), Some(64));
}

#[test]
fn answers_follow_a_schema_on_every_interface() {
    let folder = folder();
    let dir = folder.path();
    let broker = Broker::start(dir, free_port());
    let gate = camera("gate", &format!("file:{}", clip("gate").display()), "captions = false");
    let daemon = Daemon::start(dir, &[gate], Some(broker.port));
    let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}";
    wait_for("frames", SECONDS(60), || (daemon.metric(frames) > 24.0).then_some(()));
    let file = dir.join("schema.json");
    fs::write(&file, schema().to_string()).expect("written");
    let file = file.display().to_string();
    let ask = |more: &[&str]| daemon.client(&[&["ask", "gate", QUESTION], more].concat());
    let answer = |more: &[&str]| -> Value {
        let (code, answer, error) = ask(&[&["--json"], more].concat());
        assert_eq!((code, error.as_str()), (Some(0), ""), "{more:?}");
        serde_json::from_str(&answer).expect("JSON")
    };

    check(&answer(&["--schema", &file]));
    check(&answer(&["--schema", &schema().to_string(), "--conversation", "a"]));
    let further = answer(&["--schema", &file, "--conversation", "a"]);
    check(&further);
    assert_eq!(further["earlier_turns"], 1);
    // The parts are plain text.
    let whole = answer(&["--schema", &file, "--last", "10s", "--detail", "parts"]);
    check(&whole);
    assert_eq!(whole["summary_method"], "model");
    let parts = whole["parts"].as_array().expect("parts");
    assert!(parts.len() > 1 && parts.iter().all(|part| part["text"] != whole["text"]), "{whole}");

    // As text, the JSON is streamed in one line.
    let (code, out, error) = ask(&["--schema", &file]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let line = out.lines().next().expect("a line");
    assert!(serde_json::from_str::<Value>(line).is_ok(), "{out}");
    // A text that is cut says so.
    let (_, out, _) = ask(&["--schema", &file, "--max-new-tokens", "2"]);
    assert!(out.contains("cut at the maximum number of tokens"), "{out}");
    assert_eq!(answer(&["--schema", &file, "--max-new-tokens", "2"])["finish_reason"], "length");

    let (code, _, error) = ask(&["--schema", r#"{"type": "array", "uniqueItems": true}"#]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("uniqueItems"), "{error}");
    let (code, _, error) = ask(&["--schema", "/nowhere.json"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("schema file \"/nowhere.json\""), "{error}");

    let mut mqtt = subscribe(broker.port, dir);
    let mut ask_by_mqtt = |id: &str, schema: Value| {
        let question = json!({ "question_id": id, "question": QUESTION, "schema": schema });
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &broker.port.to_string(), "-q", "1", "-t", "lookout/gate/ask", "-m"]);
        assert!(command.arg(question.to_string()).status().expect("mosquitto_pub").success());
        loop {
            let line = mqtt.next(SECONDS(60)).expect("a message");
            let Some((topic, payload)) = line.split_once(' ') else { continue };
            let Ok(message) = serde_json::from_str::<Value>(payload) else { continue };
            if topic.ends_with("/answer") && message["question_id"] == id {
                return message;
            }
        }
    };
    check(&ask_by_mqtt("as an object", schema()));
    check(&ask_by_mqtt("as text", schema().to_string().into()));
    let refused = ask_by_mqtt("refused", json!({ "not": {} }));
    assert_eq!(
        (&refused["kind"], &refused["code"]),
        (&json!("refused"), &json!("INVALID_ARGUMENT"))
    );
    assert!(refused["message"].as_str().expect("a reason").contains("not"), "{refused}");
}
