//! Tests with the real Home Assistant. `make test-ha` sets `LOOKOUT_HOME_ASSISTANT` to the Python
//! interpreter that has it; without it, the tests here do nothing.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdin, ChildStdout};

use serde_json::json;

use super::*;

/// A running Home Assistant, stopped when dropped.
struct HomeAssistant {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl HomeAssistant {
    /// Starts Home Assistant on a folder, in which it keeps its devices. Returns `None` if it is
    /// not installed for this test.
    fn start(broker: u16, folder: &tempfile::TempDir) -> Option<HomeAssistant> {
        let python = std::env::var_os("LOOKOUT_HOME_ASSISTANT")?;
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/home_assistant/in_process.py"))
            .arg(broker.to_string())
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("LOOKOUT_HOME_ASSISTANT is a Python interpreter");
        let answers = BufReader::new(child.stdout.take().unwrap());
        let commands = child.stdin.take();
        let mut started = HomeAssistant { child, commands, answers };
        assert_eq!(started.answer(), "started");
        Some(started)
    }

    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.commands.as_mut().unwrap(), "{command}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("Home Assistant ended")
    }

    /// Waits until an entity has this state.
    async fn until(&mut self, entity: &str, state: &str) -> Value {
        let mut states = Value::Null;
        for _ in 0..200 {
            states = self.ask("states");
            if states[entity]["state"] == state {
                return states[entity]["attributes"].clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{entity} is not {state}: {states:#}");
    }

    fn stop(mut self) {
        self.commands = None;
        self.child.wait().unwrap();
    }
}

impl Drop for HomeAssistant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn home_assistant_shows_cameras_captions_and_answers() {
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let Some(mut home) = HomeAssistant::start(broker.port, &folder) else { return };
    let daemon = Daemon::start(1000).await;
    let service = daemon.service.clone();
    daemon.service.answers_with(move |question| {
        let (to, items) = mpsc::channel(4);
        let answer = Body::Answer(answer(question.id(), "Yes."));
        to.try_send(AnswerItem::Finished(service.journal.append("gate".into(), answer))).unwrap();
        Ok(items)
    });
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    daemon.yard_is(CameraState::Lost);
    daemon.caption("a red car stops");
    home.until("sensor.gate_caption", "a red car stops").await;
    home.until("binary_sensor.gate_connection", "on").await;
    home.until("sensor.yard_caption", "unavailable").await;
    let status = home.until("binary_sensor.yard_connection", "off").await;
    assert_eq!((&status["camera_state"], &status["reason"]), (&"lost".into(), &"no route".into()));
    let devices = home.ask("devices");
    let wanted = json!({ "lookout-test": null, "Gate": "lookout-test", "Yard": "lookout-test" });
    assert_eq!(devices, wanted);
    assert_ne!(home.ask("states")["image.gate_frame"]["state"], "unknown");

    // Each caption is one change of the sensor, and one event even if the text is the same.
    home.ask("changes");
    let mut last = None;
    for text in ["a person waits", "a person waits", "a dog runs"] {
        last = Some(daemon.caption(text));
    }
    daemon.unchanged_since(last.unwrap().id);
    home.until("sensor.gate_caption", "a dog runs").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let changes = home.ask("changes");
    let of = |entity: &str| {
        let changes = changes.as_array().unwrap().iter();
        changes.filter(|change| change["entity_id"] == entity).cloned().collect::<Vec<_>>()
    };
    let sequences = |changes: &[Value]| {
        changes.iter().map(|change| change["attributes"]["sequence"].clone()).collect::<Vec<_>>()
    };
    let (captions, events) = (of("sensor.gate_caption"), of("event.gate_captioned"));
    assert_eq!(sequences(&captions), [3, 4, 5], "{captions:#?}");
    assert_eq!(sequences(&events), [3, 4, 5], "{events:#?}");
    assert_eq!(captions[2]["state"], "a dog runs");
    assert!(events.iter().all(|event| event["attributes"]["event_type"] == "caption"));
    let own = ["from", "to", "run", "sequence", "frames_used", "frames_expected", "model"];
    let recorded = own.map(|key| (key, captions[2]["attributes"][key].clone()));
    assert!(recorded.iter().all(|(_, value)| !value.is_null()), "{recorded:?}");
    let recorded: std::collections::BTreeMap<_, _> = recorded.into();
    assert!(serde_json::to_string(&recorded).unwrap().len() <= 300);

    home.ask(r#"call notify send_message {"entity_id":"notify.gate_ask","message":"Open?"}"#);
    home.until("sensor.gate_answer", "Yes.").await;

    // The broker loses everything.
    broker.kill();
    home.until("sensor.gate_caption", "unavailable").await;
    broker.start_again();
    home.until("sensor.gate_caption", "a dog runs").await;
    let again = home.until("binary_sensor.yard_connection", "off").await;
    assert_eq!(again["reason"], "no route");

    // A camera is removed while everything runs, and the daemon stops and starts.
    daemon.remove_yard();
    for _ in 0..100 {
        if home.ask("devices").get("Yard").is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(home.ask("devices"), json!({ "lookout-test": null, "Gate": "lookout-test" }));
    publisher.stop().await;
    home.until("sensor.gate_caption", "unavailable").await;
    home.until("binary_sensor.lookout_test_connection", "off").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    home.until("sensor.gate_caption", "a dog runs").await;

    // Home Assistant starts again.
    home.stop();
    let mut home = HomeAssistant::start(broker.port, &folder).unwrap();
    home.until("sensor.gate_caption", "a dog runs").await;
    let problems = home.ask("problems");
    assert_eq!(problems, json!([]));
    publisher.stop().await;
}
