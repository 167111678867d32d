//! Tests `lookout rule try` with the whole daemon: windows from every tier of the buffer.

use std::path::Path;
use std::time::Duration;

use crate::support::*;
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// A rule about the clip `drive`, which shows a car from 2 s to 6 s and from 16 s to 20 s.
const RULE: &str = r#"
[[rule]]
name = "car"
question = "Is there a car?"
of = "1/2"
cooldown = "0s"
"#;

/// Starts a daemon that keeps tokens for 6 s and JPEGs for 8 s, and all frames on disk.
fn start(dir: &Path) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let buffer = format!(
        "[buffer]\ntoken_age = \"6s\"\njpeg_age = \"8s\"\n[buffer.disk]\nfolder = {:?}\n",
        dir.join("frames")
    );
    let camera = camera("drive", &format!("file:{}", clip("drive").display()), "");
    let config = head(grpc, http, None) + &buffer + &camera + RULE;
    Daemon::with_config(dir, &config, grpc, http)
}

fn try_rule(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let all = [&["rule", "try", "--json", "--camera", "drive"], arguments].concat();
    let (code, out, error) = daemon.client(&all);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn of_kind<'a>(items: &'a [Value], kind: &str) -> Vec<&'a Value> {
    items.iter().filter(|item| item["kind"] == kind).collect()
}

fn scores(items: &[Value]) -> Vec<f64> {
    let windows = of_kind(items, "tried_window");
    windows.iter().map(|window| window["score"].as_f64().expect("a score")).collect()
}

#[test]
fn a_rule_is_tried_on_frames_from_memory_and_from_disk() {
    let folder = folder();
    let daemon = start(folder.path());
    // 24 s at 2 frames per second.
    wait_for("frames on disk", SECONDS(90), || {
        let disk = "lookout_buffer_frames{camera=\"drive\",tier=\"disk\"}";
        (daemon.metric(disk) >= 48.0).then_some(())
    });
    let live = |_| {
        let (_, out, _) = daemon.client(&["events", "--kind", "alert", "--json"]);
        out.lines().filter(|line| line.contains("\"phase\":\"new\"")).count()
    };
    let tried = try_rule(&daemon, &["car", "--last", "1h"]);
    let [started] = of_kind(&tried, "trial")[..] else { panic!("{tried:#?}") };
    assert_eq!((&started["rule"], &started["of"]), (&"car".into(), &"1/2".into()));
    let scored = scores(&tried);
    assert_eq!(started["windows"].as_u64(), Some(scored.len() as u64));
    assert!(scored.len() >= 10, "{scored:?}");
    // A car comes, goes, and comes again.
    let highest = |scores: &[f64]| scores.iter().copied().fold(0.0, f64::max);
    let first = scored.iter().position(|score| *score >= 0.8).expect("a car");
    let gone = first + scored[first..].iter().position(|score| *score < 0.4).expect("no car");
    assert!(highest(&scored[gone..]) >= 0.8, "{scored:?}");
    let phases: Vec<_> = of_kind(&tried, "tried_alert").iter().map(|a| &a["phase"]).collect();
    assert_eq!(phases.iter().filter(|phase| **phase == "new").count(), 2, "{phases:?}");
    let summary = of_kind(&tried, "trial_summary")[0];
    assert_eq!((&summary["alerts"], &summary["scored"]), (&2.into(), &scored.len().into()));
    assert!(daemon.metric("lookout_frames_reencoded_total{camera=\"drive\"}") > 0.0);

    // Labels that agree with the scores, and a chart.
    let label = |window: &&Value| {
        let value = window["score"].as_f64() >= Some(0.5);
        let (from, to) = (&window["window"]["from"], &window["window"]["to"]);
        serde_json::json!({ "camera": "drive", "from": from, "to": to, "value": value })
    };
    let mut labels: Vec<Value> = of_kind(&tried, "tried_window").iter().map(label).collect();
    // Windows overlap. Of those that do not, each has its own label.
    labels = labels.into_iter().step_by(2).collect();
    let file = folder.path().join("labels.json");
    let text = serde_json::json!({ "least_seconds": 3.9, "labels": labels }).to_string();
    std::fs::write(&file, text).expect("written");
    let chart = folder.path().join("car.svg");
    let (from, to) = (started["span"]["from"].as_str(), started["span"]["to"].as_str());
    let between = ["--from", from.expect("a time"), "--to", to.expect("a time")];
    let (file, chart) = (file.display().to_string(), chart.display().to_string());
    let files = ["car", "--against", &file, "--svg", &chart];
    let compared = try_rule(&daemon, &[&files[..], &between[..]].concat());
    let evaluation = of_kind(&compared, "trial_evaluation")[0];
    let judged = evaluation["judged_windows"].as_u64().expect("a number");
    assert!(judged as usize >= scored.len() / 2 - 1, "{evaluation}");
    assert!(evaluation["best_on"].is_number() && evaluation["temperature"].is_number());
    let svg = std::fs::read_to_string(chart).expect("a chart");
    assert!(svg.contains("car on drive: Is there a car?") && svg.contains("<title>alert</title>"));

    // A new rule with the same question, on the same time: the same windows.
    let question = ["--question", "Is there a car?", "--on", "1", "--temperature", "2"];
    let again = try_rule(&daemon, &[&between[..], &question[..]].concat());
    assert_eq!(of_kind(&again, "trial")[0]["rule"], "trial");
    assert_eq!(of_kind(&again, "tried_alert"), Vec::<&Value>::new(), "no score is 1");
    let again = scores(&again);
    assert_eq!(again.len(), scored.len());
    // The logits are half as large. Frames that were hot before are re-encoded now, or were.
    let logit = |score: f64| (score / (1.0 - score)).ln();
    for (score, halved) in scored.iter().zip(&again) {
        assert!((logit(*score) / 2.0 - logit(*halved)).abs() < 0.5, "{score} {halved}");
    }

    // Nothing was published.
    let (_, out, _) = daemon.client(&["events", "--kind", "alert", "--json", "--limit", "1000"]);
    assert!(!out.contains("\"rule\":\"trial\""), "{out}");
    assert!(live(()) <= 3, "only the live rule raises alerts");

    for (arguments, wanted) in [
        (&["dog", "--last", "1h"][..], "no rule is named \"dog\""),
        (&["car", "--last", "1h", "--on", "2"], "on = 2: wanted 0.01 to 1"),
        (&["car", "--last", "1s"], "wanted at least one window, 4s"),
        (&["car", "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"], "no frames"),
    ] {
        let all = [&["rule", "try", "--camera", "drive"], arguments].concat();
        let (code, _, error) = daemon.client(&all);
        assert!(code != Some(0) && error.contains(wanted), "{arguments:?}: {error}");
    }
    let text = daemon.client(&["rule", "try", "car", "--camera", "drive", "--last", "10s"]).1;
    assert!(
        text.contains("car on drive: Is there a car?") && text.contains(" windows: "),
        "{text}"
    );
}
