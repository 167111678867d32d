//! `lookout demo` as a newcomer runs it: what it says must be true of what the cameras showed.

mod support;

use std::collections::HashMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::truth::{Sidecar, Verdict};
use support::*;

#[test]
fn the_demo_tells_the_truth() {
    let folder = folder();
    let port = free_port().to_string();
    let mut command = Command::new(LOOKOUT);
    command.args(["demo", "--for", "90s", "--json", "--port", &port]);
    let mut demo = Lines::of("demo", &mut command, folder.path());
    let server = format!("http://127.0.0.1:{port}");

    // A person asks while it runs, too.
    let first = demo.next(Duration::from_secs(60)).expect("a first line");
    let asked: Vec<Value> = ["Is there a person?", "What colour is the car?"]
        .into_iter()
        .map(|question| {
            let mut ask = Command::new(LOOKOUT);
            ask.args(["ask", "gate", question, "--json", "--server", &server]);
            let output = ask.output().expect("lookout ask");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let last = said.lines().last().expect("an answer").to_string();
            serde_json::from_str(&last).expect("JSON")
        })
        .collect();

    let mut lines = vec![first];
    while let Some(line) = demo.next(Duration::from_secs(60)) {
        lines.push(line);
    }
    assert_eq!(demo.process.ended(Duration::from_secs(30)), Some(0), "{}", demo.process.log());
    thread::sleep(Duration::from_millis(200));

    let sidecars: HashMap<&str, Sidecar> =
        ["gate", "yard", "drive"].into_iter().map(|name| (name, Sidecar::of(name))).collect();
    let (mut captions, mut right, mut judged, mut wrong) = (0, 0, 0, Vec::new());
    let (mut answers_right, mut answers_wrong) = (0, Vec::new());
    let events = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    for event in events.chain(asked) {
        let sidecar = &sidecars[event["camera"].as_str().expect("camera")];
        if event["kind"] == "answer" {
            match sidecar.judge_answer(&event) {
                Verdict::Right => answers_right += 1,
                Verdict::Wrong(why) => answers_wrong.push(why),
                Verdict::NotJudged => {}
            }
            continue;
        }
        captions += 1;
        match sidecar.judge_caption(&event) {
            Verdict::Right => right += 1,
            Verdict::Wrong(why) => wrong.push(why),
            Verdict::NotJudged => continue,
        }
        judged += 1;
    }
    println!("{captions} captions, {judged} inside one scene, {right} of them right: {wrong:#?}");
    println!("{answers_right} answers right, wrong: {answers_wrong:#?}");
    assert!(captions >= 50, "only {captions} captions in 90 s");
    assert!(judged >= 12, "only {judged} captions lie inside one scene");
    assert!(right * 100 >= judged * 85, "{right} of {judged} right; wrong: {wrong:#?}");
    assert!(answers_right >= 1, "no answer could be judged");
    assert!(answers_wrong.len() * 10 <= answers_right, "{answers_wrong:#?}");
}
