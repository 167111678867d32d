//! Tests with the real Home Assistant and a fake daemon.

use serde_json::json;

use crate::home_assistant_process::HomeAssistant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn home_assistant_shows_cameras_captions_and_answers() {
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let Some(mut home) = HomeAssistant::start(broker.port, folder.path()) else { return };
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
    home.until("sensor.gate_caption", "a red car stops");
    home.until("binary_sensor.gate_connection", "on");
    home.until("sensor.yard_caption", "unavailable");
    let status = home.until("binary_sensor.yard_connection", "off");
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
    home.until("sensor.gate_caption", "a dog runs");
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
    home.until("sensor.gate_answer", "Yes.");

    // The broker loses everything.
    broker.kill();
    home.until("sensor.gate_caption", "unavailable");
    broker.start_again();
    home.until("sensor.gate_caption", "a dog runs");
    let again = home.until("binary_sensor.yard_connection", "off");
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
    home.until("sensor.gate_caption", "unavailable");
    home.until("binary_sensor.lookout_test_connection", "off");
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    home.until("sensor.gate_caption", "a dog runs");

    // Home Assistant starts again.
    home.stop();
    let mut home = HomeAssistant::start(broker.port, folder.path()).unwrap();
    home.until("sensor.gate_caption", "a dog runs");
    let problems = home.ask("problems");
    assert_eq!(problems, json!([]));
    publisher.stop().await;
}
