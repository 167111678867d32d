//! Tests the whole daemon with the real Home Assistant: an alert, a daemon that is killed, and a
//! camera and a rule that are renamed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::home_assistant_process::HomeAssistant;
use crate::support::*;

/// Maximum number of bytes that Home Assistant's recorder may store as the attributes of a state.
const RECORDED_BYTES: usize = 300;

/// Number of events that may be sent again after the daemon was killed.
const WINDOW: usize = 16;

/// The entities of one camera of the config below.
const OF_DRIVE: [&str; 9] = [
    "binary_sensor.drive_car",
    "binary_sensor.drive_connection",
    "button.drive_acknowledge_car",
    "event.drive_captioned",
    "image.drive_frame",
    "notify.drive_ask",
    "sensor.drive_answer",
    "sensor.drive_caption",
    "text.drive_question",
];

/// A daemon with two cameras and a rule, of which one camera shows a car from 2 s to 6 s.
struct Setup<'a> {
    dir: &'a Path,
    broker: u16,
    ports: (u16, u16),
}

impl Setup<'_> {
    fn start(&self, second_camera: &str, rule: &str) -> Daemon {
        let head = head(self.ports.0, self.ports.1, Some(self.broker));
        let mut config = head.replace("[mqtt]", "[mqtt]\nclient_id = \"lookout\"");
        config += &format!("[journal]\nfolder = {:?}\n", self.dir.join("journal"));
        for name in ["drive", second_camera] {
            config += &camera(name, &format!("file:{}", clip("drive").display()), "");
        }
        config += &format!(
            "[[rule]]\nname = {rule:?}\nquestion = \"Is there a car?\"\ncameras = [\"drive\"]\n\
             of = \"1/2\"\ncooldown = \"0s\"\nseverity = \"critical\"\n"
        );
        Daemon::with_config(self.dir, &config, self.ports.0, self.ports.1)
    }

    /// Returns the topics on which the broker retains a message.
    fn retained(&self) -> Vec<String> {
        let port = self.broker.to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-p", &port, "-t", "#", "--retained-only", "-W", "1", "-F", "%t"]);
        let output = command.output().expect("mosquitto_sub");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

/// Returns the texts of the journal's captions by run and sequence.
fn captions(daemon: &Daemon) -> BTreeMap<(u64, u64), String> {
    let (code, out, error) = daemon.client(&["events", "--json", "--limit", "1000000"]);
    assert_eq!(code, Some(0), "{error}");
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let captions = events.filter(|event| event["kind"] == "caption");
    captions.map(|event| (id(&event), event["text"].as_str().expect("text").into())).collect()
}

fn id(event: &Value) -> (u64, u64) {
    let number = |field: &str| event[field].as_u64().unwrap_or_else(|| panic!("{field}: {event}"));
    (number("run"), number("sequence"))
}

/// Returns the states of an entity among `changes`, without those while it was not available.
fn states<'a>(changes: &'a [Value], entity: &str) -> Vec<&'a Value> {
    let of_entity = changes.iter().filter(|change| change["entity_id"] == entity);
    let is_known = |change: &&Value| {
        change["state"].as_str().is_some_and(|state| !["unavailable", "unknown"].contains(&state))
    };
    of_entity.filter(is_known).collect()
}

#[test]
fn home_assistant_follows_alerts_a_killed_daemon_and_new_names() {
    let folder = folder();
    let dir = folder.path();
    let broker = Broker::start(dir, free_port());
    let Some(mut home) = HomeAssistant::start(broker.port, &dir.join("home")) else { return };
    let setup = Setup { dir, broker: broker.port, ports: (free_port(), free_port()) };
    let mut daemon = setup.start("yard", "car");

    // An alert begins, is acknowledged, and ends.
    let alert = home.until("binary_sensor.drive_car", "on");
    assert_eq!(alert["question"], "Is there a car?");
    assert_eq!((&alert["severity"], &alert["acknowledged"]), (&"critical".into(), &false.into()));
    assert!(alert["score"].as_f64().is_some_and(|score| score >= 0.8), "{alert}");
    assert!(seconds(&alert["since"]) > 1e9, "{alert}");
    home.ask(r#"call button press {"entity_id":"button.drive_acknowledge_car"}"#);
    let is_acknowledged = |home: &mut HomeAssistant| {
        let rule = home.ask("states")["binary_sensor.drive_car"]["attributes"].clone();
        (rule["acknowledged"] == true).then_some(rule)
    };
    let patience = Duration::from_secs(60);
    let acknowledged = wait_for("the acknowledgement", patience, || is_acknowledged(&mut home));
    assert_eq!(acknowledged["alert_id"], alert["alert_id"]);
    let ended = home.until("binary_sensor.drive_car", "off");
    assert_eq!((&ended["alert_id"], &ended["acknowledged"]), (&alert["alert_id"], &true.into()));

    // The daemon is killed. The broker publishes the last will.
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(Duration::from_secs(10));
    home.until("binary_sensor.lookout_connection", "off");
    for entity in OF_DRIVE {
        let state = home.ask("states")[entity]["state"].clone();
        assert_eq!(state, "unavailable", "{entity}");
    }
    drop(daemon);
    let daemon = setup.start("yard", "car");
    home.until("binary_sensor.lookout_connection", "on");
    home.until("binary_sensor.drive_connection", "on");
    let run = |home: &mut HomeAssistant| {
        home.ask("states")["sensor.drive_caption"]["attributes"]["run"].as_u64()
    };
    let first = *captions(&daemon).keys().next().expect("a caption");
    wait_for("a caption of the new run", patience, || run(&mut home).filter(|run| *run > first.0));

    // Each caption was shown once, with its own text.
    let changes = home.ask("changes");
    let changes = changes.as_array().expect("a list");
    let known = captions(&daemon);
    let mut newest = None;
    let mut is_back = false;
    let mut shown = 0;
    for change in changes.iter().filter(|change| change["entity_id"] == "sensor.drive_caption") {
        let state = change["state"].as_str().unwrap_or_default();
        if ["", "unavailable", "unknown"].contains(&state) {
            is_back = true;
            continue;
        }
        let id = id(&change["attributes"]);
        assert_eq!(known.get(&id).map(String::as_str), Some(state), "{id:?}");
        // What was shown before the daemon ended is shown again.
        let is_next = newest < Some(id) || (is_back && newest == Some(id));
        assert!(is_next, "{id:?} after {newest:?}");
        newest = Some(id);
        is_back = false;
        shown += 1;
    }
    assert!(shown > 4, "{changes:#?}");
    let events = states(changes, "event.drive_captioned");
    let mut ids: Vec<_> = events.iter().map(|event| id(&event["attributes"])).collect();
    for event in &events {
        let text = event["attributes"]["text"].as_str();
        assert_eq!(known.get(&id(&event["attributes"])).map(String::as_str), text);
    }
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert!(all - ids.len() <= WINDOW, "{} events were repeated", all - ids.len());

    // A camera and a rule get another name.
    drop(daemon);
    home.until("binary_sensor.lookout_connection", "off");
    assert!(home.ask("states").get("sensor.yard_caption").is_some());
    let daemon = setup.start("garden", "vehicle");
    home.until("binary_sensor.garden_connection", "on");
    let is_gone = |old: &str| ["yard", "_car"].iter().any(|name| old.contains(name));
    wait_for("the old entities to disappear", patience, || {
        let states = home.ask("states");
        let mut entities = states.as_object().expect("an object").keys();
        (!entities.any(|entity| is_gone(entity))).then_some(())
    });
    let states = home.ask("states");
    for entity in ["sensor.garden_caption", "binary_sensor.drive_vehicle", "sensor.drive_caption"] {
        assert!(states.get(entity).is_some(), "{entity}: {states:#}");
    }
    let devices = home.ask("devices");
    let wanted = serde_json::json!({ "lookout": null, "Drive": "lookout", "Garden": "lookout" });
    assert_eq!(devices, wanted);
    wait_for("the broker to forget the old names", patience, || {
        let topics = setup.retained();
        let is_old = |topic: &String| topic.contains("yard") || topic.ends_with("/car");
        (!topics.is_empty() && !topics.iter().any(is_old)).then_some(())
    });

    // The recorder stores each state of these entities with few bytes.
    let mut largest: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for state in home.ask("recorded").as_array().expect("a list") {
        let entity = state["entity_id"].as_str().expect("an entity");
        let attributes = state["attributes"].as_str().expect("JSON");
        let largest = largest.entry(entity.into()).or_default();
        *largest = largest.clone().max((attributes.len(), attributes.into()));
    }
    // The event and the answer have the whole text as an attribute, of any length.
    largest.retain(|entity, _| !entity.starts_with("event.") && !entity.ends_with("_answer"));
    for (entity, (bytes, attributes)) in &largest {
        println!("{entity}: {bytes} bytes");
        assert!(*bytes <= RECORDED_BYTES, "{entity}: {bytes} bytes: {attributes}");
    }
    assert!(largest.contains_key("sensor.drive_caption"), "{largest:#?}");
    assert!(largest.contains_key("binary_sensor.drive_car"), "{largest:#?}");
    assert_eq!(home.ask("problems"), serde_json::json!([]));
    home.stop();
    drop(daemon);
}
