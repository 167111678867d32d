//! Tests what Home Assistant sees of the daemon over a real mosquitto.

use std::collections::BTreeMap;

use super::*;

const GATE: &str = "homeassistant/device/lookout-test/gate/config";
const YARD: &str = "homeassistant/device/lookout-test/yard/config";

/// Returns what the broker retains, once `is_complete` of it.
async fn retained(
    port: u16,
    is_complete: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    for _ in 0..200 {
        let mut heard = Subscriber::connect(port, "#").await;
        let mut messages = BTreeMap::new();
        while let Ok(Some(message)) =
            timeout(Duration::from_millis(100), heard.messages.recv()).await
        {
            if message.retain {
                messages.insert(message.topic, message.payload);
            }
        }
        if is_complete(&messages) {
            return messages;
        }
        last = messages;
    }
    panic!("the broker retains {last:#?}");
}

#[tokio::test]
async fn cameras_are_announced_and_again_when_home_assistant_starts() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let device = heard.json_on("homeassistant/device/lookout-test/config").await;
    let gate = heard.next_on(GATE).await;
    heard.next_on(YARD).await;
    daemon.caption("calm");
    heard.until("lookout/gate/last_frame", "jpeg 4").await;
    let config: Value = serde_json::from_str(&gate.payload).unwrap();
    assert_eq!(config["device"]["via_device"], device["device"]["identifiers"][0]);

    // The entities' topics are those that the daemon publishes to.
    let caption = &config["components"]["caption"];
    assert_eq!(caption["state_topic"], "lookout/gate/last_caption");
    assert_eq!(config["components"]["frame"]["image_topic"], "lookout/gate/last_frame");
    while heard.messages.try_recv().is_ok() {}

    heard.say("homeassistant/status", "offline").await;
    heard.say("homeassistant/status", "online").await;
    heard.until("lookout/gate/last_caption_text", "calm").await;
    assert_eq!(heard.next_on(GATE).await.payload, gate.payload);
    assert!(Subscriber::connect(broker.port, GATE).await.next().await.retain);
    publisher.stop().await;
}

#[tokio::test]
async fn the_last_caption_and_its_frame_outlive_unchanged_windows_and_the_broker() {
    let mut broker = Broker::start();
    let daemon = Daemon::start(5).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/#").await;
    let event = daemon.caption("a red car stops");
    heard.until("lookout/gate/last_frame", "jpeg 4").await;
    // More than the journal holds.
    for sequence in 2..=12 {
        daemon.unchanged_since(event.id);
        let caption = heard.json_on("lookout/gate/caption").await;
        assert_eq!(caption["sequence"], sequence);
    }
    let is_there = |messages: &BTreeMap<String, String>| {
        let payload = |topic: &str| messages.get(topic).map(String::as_str);
        payload("lookout/gate/last_caption_text") == Some("a red car stops")
            && payload("lookout/gate/last_caption").is_some_and(|json| json.contains("a red car"))
            && payload("lookout/gate/last_frame") == Some("jpeg 4")
    };
    retained(broker.port, is_there).await;
    broker.kill();
    broker.start_again();
    retained(broker.port, is_there).await;
    publisher.stop().await;
}

#[tokio::test]
async fn a_camera_removed_while_the_daemon_runs_leaves_nothing() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    daemon.yard_is(CameraState::Live);
    daemon.caption("calm");
    let of_yard = |messages: &BTreeMap<String, String>| {
        messages.keys().filter(|topic| topic.contains("yard")).count()
    };
    retained(broker.port, |messages| of_yard(messages) == 3).await;
    daemon.remove_yard();
    retained(broker.port, |messages| of_yard(messages) == 0 && messages.contains_key(GATE)).await;
    publisher.stop().await;

    // A new connection does not bring it back.
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    daemon.caption("still calm");
    let shows_gate = |messages: &BTreeMap<String, String>| {
        messages.get("lookout/gate/last_caption_text").is_some_and(|text| text == "still calm")
    };
    let messages = retained(broker.port, shows_gate).await;
    assert_eq!(of_yard(&messages), 0, "{messages:#?}");
    publisher.stop().await;
}

#[tokio::test]
async fn a_camera_of_an_earlier_run_is_removed() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    daemon.yard_is(CameraState::Live);
    retained(broker.port, |messages| messages.contains_key("lookout/yard/status")).await;
    publisher.stop().await;
    let mut heard = Subscriber::connect(broker.port, "homeassistant/#").await;
    // Another daemon's camera of the same name stays.
    let other = "homeassistant/device/other/yard/config";
    heard.client.publish(other, QoS::AtLeastOnce, true, "{}").await.unwrap();

    let daemon = Daemon::start(100).await;
    *daemon.service.yard.lock().unwrap() = None;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    heard.until(YARD, "").await;
    let messages = retained(broker.port, |messages| {
        messages.contains_key(GATE) && !messages.keys().any(|topic| topic.contains("lookout/yard"))
    })
    .await;
    assert!(messages.contains_key(other) && !messages.contains_key(YARD), "{messages:#?}");
    publisher.stop().await;
}

#[tokio::test]
async fn a_rule_has_its_present_state_and_a_removed_one_disappears() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let rules = |rules: &[RuleInfo]| *daemon.service.rules.lock().unwrap() = rules.to_vec();
    rules(&[rule("person", None), rule("car", None)]);
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    let is = |topic: &'static str, payload: &'static str| {
        move |messages: &BTreeMap<String, String>| {
            messages.get(topic).is_some_and(|found| found == payload)
        }
    };
    retained(broker.port, is("lookout/gate/rule/person", "OFF")).await;
    let mut heard = Subscriber::connect(broker.port, "lookout/gate/#").await;
    rules(&[rule("person", Some("an-id")), rule("car", None)]);
    daemon.service.journal.append("gate".into(), alert("person", "an-id"));
    let published = heard.json_on("lookout/gate/alert").await;
    assert_eq!((&published["alert_id"], &published["phase"]), (&"an-id".into(), &"new".into()));
    retained(broker.port, is("lookout/gate/rule/person", "ON")).await;
    // An event that is sent late does not say that the alert is still active.
    rules(&[rule("person", None), rule("car", None)]);
    daemon.service.journal.append("gate".into(), alert("person", "an-id"));
    retained(broker.port, is("lookout/gate/rule/person", "OFF")).await;
    publisher.stop().await;

    // The next run has one rule less.
    let daemon = Daemon::start(100).await;
    *daemon.service.rules.lock().unwrap() = vec![rule("car", None)];
    let mut devices = Subscriber::connect(broker.port, GATE).await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    loop {
        let device: Value = serde_json::from_str(&devices.next_on(GATE).await.payload).unwrap();
        let topic = "lookout/gate/rule/car/last_alert";
        assert_eq!(device["components"]["rule_car"]["state_topic"], topic);
        if device["components"]["rule_person"] == serde_json::json!({"platform": "binary_sensor"}) {
            break;
        }
    }
    let messages =
        retained(broker.port, |messages| !messages.keys().any(|topic| topic.contains("person")))
            .await;
    assert_eq!(messages.get("lookout/gate/rule/car").map(String::as_str), Some("OFF"));
    let last: Value = serde_json::from_str(&messages["lookout/gate/rule/car/last_alert"]).unwrap();
    assert_eq!((&last["state"], &last["alert_id"]), (&"OFF".into(), &Value::Null));
    assert_eq!(last["question"], "Is it there?");
    publisher.stop().await;
}

#[tokio::test]
async fn without_home_assistant_there_are_no_devices_and_no_frames() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let publisher = Publisher::start(&daemon, Mqtt { discovery: None, ..mqtt_config(broker.port) });
    let mut heard = Subscriber::connect(broker.port, "#").await;
    daemon.caption("calm");
    heard.until("lookout/gate/last_caption_text", "calm").await;
    daemon.caption("still calm");
    heard.until("lookout/gate/last_caption_text", "still calm").await;
    let messages = retained(broker.port, |messages| messages.len() >= 5).await;
    for topic in messages.keys() {
        assert!(topic.starts_with("lookout/") && !topic.ends_with("last_frame"), "{topic}");
    }
    publisher.stop().await;
}

#[tokio::test]
async fn the_frame_of_a_newer_caption_replaces_one_that_is_still_looked_up() {
    let broker = Broker::start();
    let daemon = Daemon::start(100).await;
    let mut heard = Subscriber::connect(broker.port, "#").await;
    let publisher = Publisher::start(&daemon, mqtt_config(broker.port));
    // The lookup of frame 9 does not end until it is cancelled.
    let Body::Caption(mut endless) = caption("first") else { unreachable!() };
    endless.inference.frames = vec![FrameReference {
        id: FrameId { run: 1, number: 9 },
        captured_at: SystemTime::now(),
        slow: true,
    }];
    daemon.service.journal.append("gate".into(), Body::Caption(endless));
    heard.until("lookout/gate/last_caption_text", "first").await;
    daemon.caption("second");
    heard.until("lookout/gate/last_frame", "jpeg 4").await;
    let in_work = || daemon.service.endless_lookups.load(Ordering::Relaxed);
    while in_work() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    publisher.stop().await;
}
