//! Tests rules with the whole daemon: alerts about the demo's cameras, on every interface, and after
//! a kill.

use std::path::Path;
use std::time::Duration;

use crate::support::*;
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Rules about the clip `drive`, which shows a car from 2 s to 6 s and from 16 s to 20 s, and no dog
/// before 57 s.
const RULES: &str = r#"
[[rule]]
name = "car"
question = "Is there a car?"
of = "1/2"
cooldown = "0s"
severity = "critical"

[[rule]]
name = "dog"
question = "Is there a dog?"
"#;

/// Starts a daemon that plays the clip from its beginning.
fn start(dir: &Path, broker: Option<u16>) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let journal = format!("[journal]\nfolder = {:?}\n", dir.join("journal"));
    let camera = camera("drive", &format!("file:{}", clip("drive").display()), "");
    let config = head(grpc, http, broker) + &journal + &camera + RULES;
    Daemon::with_config(dir, &config, grpc, http)
}

fn is_alert(event: &Value, rule: &str, phase: &str) -> bool {
    event["kind"] == "alert" && event["rule"] == rule && event["phase"] == phase
}

/// Returns the JSON lines that a command prints.
fn lines(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let (code, out, error) = daemon.client(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Returns the next message on a topic that ends like this.
fn next_on(mqtt: &mut Lines, end: &str) -> String {
    loop {
        let line = mqtt.next(SECONDS(30)).unwrap_or_else(|| panic!("nothing on …{end}"));
        match line.split_once(' ') {
            Some((topic, payload)) if topic.ends_with(end) => return payload.to_owned(),
            _ => {}
        }
    }
}

#[test]
fn an_alert_arrives_everywhere_under_one_id_until_its_end() {
    let folder = folder();
    let dir = folder.path();
    let broker = Broker::start(dir, free_port());
    let mut mqtt = subscribe(broker.port, dir);
    let daemon = start(dir, Some(broker.port));
    assert_eq!(next_on(&mut mqtt, "lookout/drive/rule/car"), "OFF");
    let device = next_on(&mut mqtt, "/drive/config");
    assert!(device.contains("\"rule_car\"") && device.contains("\"rule_dog\""), "{device}");

    let mut grpc = daemon.watch(dir);
    let mut seen = Vec::new();
    let begin = grpc.until("an alert", SECONDS(30), &mut seen, |e| is_alert(e, "car", "new"));
    let id = begin["alert_id"].as_str().expect("an ID").to_owned();
    assert_eq!((&begin["camera"], &begin["severity"]), (&"drive".into(), &"critical".into()));
    assert!(begin["score"].as_f64().is_some_and(|score| score >= 0.8), "{begin}");
    let frames = begin["frames"].as_array().expect("frames");
    assert_eq!(frames.len() as u64, begin["coverage"]["frames_used"].as_u64().expect("a number"));

    // MQTT has the same JSON, and the rule's state.
    let published: Value =
        serde_json::from_str(&next_on(&mut mqtt, "lookout/drive/alert")).expect("JSON");
    assert_eq!(published, begin);
    assert_eq!(next_on(&mut mqtt, "lookout/drive/rule/car"), "ON");
    let rules = lines(&daemon, &["rules", "--json"]);
    let shown: Vec<_> =
        rules.iter().map(|rule| (&rule["name"], &rule["state"], &rule["alerts_today"])).collect();
    assert_eq!(shown[0], (&"car".into(), &"active".into(), &1.into()));
    assert_eq!((shown.len(), shown[1].0), (2, &"dog".into()));
    assert_eq!(rules[0]["alert_id"], begin["alert_id"]);

    let acknowledged = &lines(&daemon, &["ack", &id, "--false", "--json"])[0];
    assert_eq!(acknowledged["acknowledgement"]["false_alarm"], true);
    let end = grpc.until("its end", SECONDS(30), &mut seen, |e| is_alert(e, "car", "end"));
    assert_eq!((&end["alert_id"], &end["end_reason"]), (&begin["alert_id"], &"cleared".into()));
    assert_eq!(end["acknowledgement"], acknowledged["acknowledgement"]);
    assert!(end["ended_at"] == end["window"]["to"] && end["score"].as_f64() < Some(0.4), "{end}");
    assert_eq!(next_on(&mut mqtt, "lookout/drive/rule/car"), "ON");
    while next_on(&mut mqtt, "lookout/drive/rule/car") != "OFF" {}
    assert!(!seen.iter().any(|event| is_alert(event, "dog", "new")), "{seen:#?}");

    let rules = lines(&daemon, &["rules", "--json"]);
    assert_eq!((&rules[0]["alert_id"], &rules[0]["false_alarms_today"]), (&Value::Null, &1.into()));
    let found = lines(&daemon, &["search", "car", "--kind", "alert", "--json"]);
    assert_eq!(found[0]["alert_id"], begin["alert_id"]);
    let of_car = "{camera=\"drive\",rule=\"car\"}";
    assert_eq!(daemon.metric(&format!("lookout_alerts_total{of_car}")), 1.0);
    assert_eq!(daemon.metric(&format!("lookout_false_alarms_total{of_car}")), 1.0);
    let (code, _, error) = daemon.client(&["ack", "no-such-alert"]);
    assert!(code != Some(0) && error.contains("no alert has the ID"), "{error}");
    print_times(&daemon);
}

/// Prints the mean times from a window's close to its alert in the journal.
fn print_times(daemon: &Daemon) {
    let stage = |stage: &str, what: &str| {
        let labels = format!("camera=\"drive\",stage=\"{stage}\"");
        daemon.metric(&format!("lookout_stage_seconds_{what}{{{labels}}}"))
    };
    let mean = |name: &str| 1000.0 * stage(name, "sum") / stage(name, "count");
    let [wait, score, publish, encode] =
        ["rules_wait", "rules_score", "rules_publish", "encode_frame"].map(mean);
    println!(
        "{} windows with rules: {wait:.1} ms until they are read, of which {encode:.1} ms to encode \
         a frame; {score:.1} ms to read them; {publish:.1} ms to the journal",
        stage("rules_wait", "count")
    );
    assert_eq!(stage("rules_publish", "count"), stage("rules_score", "count"));
}

#[test]
fn an_alert_continues_under_its_id_after_a_kill() {
    let folder = folder();
    let dir = folder.path();
    let mut daemon = start(dir, None);
    let mut watch = daemon.watch(dir);
    let begin =
        watch.until("an alert", SECONDS(30), &mut Vec::new(), |e| is_alert(e, "car", "new"));
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(SECONDS(5));
    drop((daemon, watch));

    let daemon = start(dir, None);
    assert_eq!(lines(&daemon, &["rules", "--json"])[0]["alert_id"], begin["alert_id"]);
    let mut watch = daemon.watch(dir);
    watch.until("its end", SECONDS(60), &mut Vec::new(), |event| is_alert(event, "car", "end"));
    // The events of both runs, the oldest first.
    let mut events = lines(&daemon, &["events", "--kind", "alert", "--json"]);
    events.retain(|event| event["rule"] == "car");
    let end = events.iter().position(|event| event["phase"] == "end").expect("an end");
    for event in &events[..=end] {
        assert_eq!(event["alert_id"], begin["alert_id"], "{events:#?}");
    }
    assert_eq!(events.iter().filter(|event| event["phase"] == "new").count(), 1, "{events:#?}");
    assert!(events[0]["run"] == begin["run"] && events[end]["run"] != begin["run"]);
}
