//! Tests what the devices say to Home Assistant.

use std::collections::BTreeMap;

use super::*;

/// The keys that Home Assistant documents for each platform, besides those of every entity.
const KEYS: [(&str, &[&str]); 7] = [
    (
        "sensor",
        &["state_topic", "value_template", "json_attributes_topic", "json_attributes_template"],
    ),
    ("event", &["state_topic", "value_template", "event_types"]),
    ("image", &["image_topic", "content_type"]),
    (
        "binary_sensor",
        &[
            "state_topic",
            "value_template",
            "payload_on",
            "payload_off",
            "device_class",
            "json_attributes_topic",
            "json_attributes_template",
        ],
    ),
    ("text", &["command_topic", "min", "max"]),
    ("notify", &["command_topic"]),
    ("button", &["command_topic", "payload_press"]),
];

const OF_EVERY_ENTITY: [&str; 7] = [
    "platform",
    "unique_id",
    "name",
    "icon",
    "entity_category",
    "availability",
    "availability_mode",
];

fn config(client_id: &str) -> Mqtt {
    Mqtt {
        host: "127.0.0.1".into(),
        port: 1883,
        tls: None,
        username: None,
        password: None,
        client_id: client_id.into(),
        topic_prefix: "lookout".into(),
        discovery: Some("homeassistant".into()),
        catch_up: std::time::Duration::from_secs(3600),
    }
}

fn described(camera: &str) -> (String, Value) {
    let config = config("my box");
    let rules = AnnouncedRules { present: vec!["red-car".into()], removed: Vec::new() };
    let discovery = Discovery::new(&config).unwrap();
    let message = discovery.camera_device(&Topics::new(&config), camera, &rules);
    assert!(message.retain);
    (message.topic, serde_json::from_slice(&message.payload).unwrap())
}

fn components(config: &Value) -> BTreeMap<String, Value> {
    serde_json::from_value(config["components"].clone()).unwrap()
}

#[test]
fn a_camera_is_a_device_connected_through_the_daemon() {
    let (topic, gate) = described("front-door");
    assert_eq!(topic, "homeassistant/device/my_box/front-door/config");
    assert_eq!(gate["device"]["identifiers"], json!(["my_box/front-door"]));
    assert_eq!(gate["device"]["name"], "Front Door");
    let config = config("my box");
    let daemon = Discovery::new(&config).unwrap().daemon_device(&Topics::new(&config));
    assert_eq!(daemon.topic, "homeassistant/device/my_box/config");
    let daemon: Value = serde_json::from_slice(&daemon.payload).unwrap();
    assert_eq!(daemon["device"]["identifiers"], json!([gate["device"]["via_device"]]));
    for (name, component) in components(&daemon).iter().chain(&components(&gate)) {
        let platform = component["platform"].as_str().unwrap();
        let (_, keys) = KEYS.iter().find(|(of, _)| *of == platform).unwrap();
        for key in component.as_object().unwrap().keys() {
            let known = OF_EVERY_ENTITY.contains(&key.as_str()) || keys.contains(&key.as_str());
            assert!(known, "{name}: a {platform} has no {key}");
        }
    }
    let platforms: BTreeMap<String, String> = components(&gate)
        .into_iter()
        .map(|(name, component)| (name, component["platform"].as_str().unwrap().to_owned()))
        .collect();
    let wanted = [
        ("acknowledge_red-car", "button"),
        ("answer", "sensor"),
        ("ask", "notify"),
        ("caption", "sensor"),
        ("captioned", "event"),
        ("connection", "binary_sensor"),
        ("frame", "image"),
        ("question", "text"),
        ("rule_red-car", "binary_sensor"),
    ];
    assert_eq!(platforms, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
}

#[test]
fn state_and_attributes_come_from_one_topic() {
    let (_, gate) = described("gate");
    for entity in ["caption", "answer", "rule_red-car"] {
        let sensor = &gate["components"][entity];
        assert_eq!(sensor["state_topic"], sensor["json_attributes_topic"], "{entity}");
    }
}

#[test]
fn only_what_shows_the_present_depends_on_the_camera() {
    let (_, gate) = described("gate");
    let daemon = json!([{ "topic": "lookout/available" }]);
    assert_eq!(gate["availability"], daemon);
    let both = json!([{ "topic": "lookout/available" }, { "topic": "lookout/gate/available" }]);
    for (name, component) in components(&gate) {
        let availability = component.get("availability");
        let wanted = ["caption", "frame", "rule_red-car"].contains(&name.as_str()).then_some(&both);
        assert_eq!(availability, wanted, "{name}");
    }
}

#[test]
fn a_rule_is_an_entity_and_a_removed_one_has_only_its_platform() {
    let (_, gate) = described("front-door");
    let rule = &gate["components"]["rule_red-car"];
    assert_eq!(rule["name"], "Red Car");
    assert_eq!(rule["state_topic"], "lookout/front-door/rule/red-car/last_alert");
    assert_eq!(rule["unique_id"], "my_box/front-door/rule/red-car");
    let button = &gate["components"]["acknowledge_red-car"];
    assert_eq!(button["name"], "Acknowledge Red Car");
    assert_eq!(button["command_topic"], "lookout/acknowledge");
    assert_eq!(button["payload_press"], r#"{"camera":"front-door","rule":"red-car"}"#);
    let config = config("my box");
    let rules = AnnouncedRules { present: Vec::new(), removed: vec!["red-car".into()] };
    let discovery = Discovery::new(&config).unwrap();
    let message = discovery.camera_device(&Topics::new(&config), "gate", &rules);
    let gate: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(gate["components"]["rule_red-car"], json!({ "platform": "binary_sensor" }));
    assert_eq!(gate["components"]["acknowledge_red-car"], json!({ "platform": "button" }));
}

#[test]
fn identifiers_differ_between_daemons_and_cameras() {
    let mut seen = std::collections::BTreeSet::new();
    for (client_id, camera) in [("a", "b_c"), ("a_b", "c"), ("a", "b"), ("a-b", "c")] {
        let config = config(client_id);
        let discovery = Discovery::new(&config).unwrap();
        let rules = AnnouncedRules::default();
        let message = discovery.camera_device(&Topics::new(&config), camera, &rules);
        let device: Value = serde_json::from_slice(&message.payload).unwrap();
        assert!(seen.insert(message.topic));
        for (_, component) in components(&device) {
            assert!(seen.insert(component["unique_id"].as_str().unwrap().to_owned()));
        }
    }
}

#[test]
fn the_own_cameras_devices_are_recognised() {
    let discovery = Discovery::new(&config("my box")).unwrap();
    assert_eq!(discovery.devices(), "homeassistant/device/my_box/+/config");
    let removal = discovery.removal("yard");
    assert!(removal.retain && removal.payload.is_empty());
    assert_eq!(discovery.camera(&removal.topic), Some("yard"));
    for other in [
        "homeassistant/device/my_box/config",
        "homeassistant/device/my_box//config",
        "homeassistant/device/my_box/a/b/config",
        "homeassistant/device/my_box2/yard/config",
        "homeassistant/status",
        "lookout/yard/ask",
    ] {
        assert_eq!(discovery.camera(other), None, "{other}");
    }
    let disabled = Mqtt { discovery: None, ..config("my box") };
    assert!(Discovery::new(&disabled).is_none());
}

#[test]
fn a_title_is_made_of_a_name() {
    for (name, title) in
        [("gate", "Gate"), ("front-door_2", "Front Door 2"), ("--", ""), ("NVR", "NVR")]
    {
        assert_eq!(camera::title(name), title);
    }
}
