//! Tests `lookout demo` as a new user runs it: its output, and that most of it is true.
//! `tests/daemon/accuracy.rs` measures how much is true, by subject.

use std::process::Command;
use std::time::Duration;

use crate::support::*;
use lookout::demo::score::judge::Subject;
use lookout::demo::score::{Score, Source};
use serde_json::Value;

#[test]
fn the_demos_captions_are_true() {
    let folder = folder();
    let port = free_port().to_string();
    let mut command = Command::new(LOOKOUT);
    command.args(["demo", "--for", "60s", "--json", "--port", &port]);
    let mut demo = Lines::of("demo", &mut command, folder.path());
    let server = format!("http://127.0.0.1:{port}");

    // A question from another client works while the demo runs.
    let first = demo.next(Duration::from_secs(60)).expect("a first line");
    let mut ask = Command::new(LOOKOUT);
    ask.args(["ask", "gate", "Is there a person?", "--json", "--server", &server]);
    let output = ask.output().expect("lookout ask");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();

    let mut lines = vec![first];
    while let Some(line) = demo.next(Duration::from_secs(60)) {
        lines.push(line);
    }
    assert_eq!(demo.process.ended(Duration::from_secs(30)), Some(0), "{}", demo.process.log());

    let cameras = ["gate", "yard", "drive"].map(String::from);
    let clips = repository().join("models/demo/cameras");
    let mut score = Score::of_clips(&clips, &cameras).expect("sidecars");
    lines.extend(answer.lines().last().map(String::from));
    for line in &lines {
        score.add(&serde_json::from_str::<Value>(line).expect("JSON"));
    }
    println!("{score}");
    assert!(score.windows >= 30, "only {} captions in 60 s", score.windows);
    let captions = score.of(Subject::Caption);
    assert!(captions.share() >= 0.8, "{captions:?}: {:#?}", score.mistakes);
    let all = score.all();
    assert!(all.share() >= 0.9, "{all:?}: {:#?}", score.mistakes);
    let answers = Subject::ALL.map(|subject| score.of_source(subject, Source::Answers));
    let judged: usize = answers.iter().map(|count| count.right + count.wrong).sum();
    assert!(judged >= 1, "no answer could be judged");
}

/// Searches by meaning while the demo runs. The model is that of `make setup`.
#[test]
fn the_demo_can_be_searched_by_meaning_until_it_is_interrupted() {
    let folder = folder();
    let port = free_port().to_string();
    let mut command = Command::new(LOOKOUT);
    command.args(["demo", "--json", "--port", &port]);
    let mut demo = Lines::of("demo", &mut command, folder.path());
    demo.next(Duration::from_secs(60)).expect("a first line");
    let server = format!("http://127.0.0.1:{port}");
    let found = wait_for("a caption of a car by its meaning", Duration::from_secs(60), || {
        let mut search = Command::new(LOOKOUT);
        search.args(["search", "an automobile", "--mode", "meaning", "--json"]);
        let output = search.args(["--server", &server]).output().expect("lookout search");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let best: Value = serde_json::from_str(lines.lines().next()?).expect("JSON");
        // Until a car has come, the most similar caption is about something else.
        best["text"].as_str().is_some_and(|text| text.contains("car")).then_some(best)
    });
    assert!(found["similarity"].as_f64() > Some(0.0), "{found}");
    demo.process.signal(libc::SIGINT);
    assert_eq!(demo.process.ended(Duration::from_secs(30)), Some(0), "{}", demo.process.log());
}

/// Runs the demo with `--score`, which prints the counts and every mistake.
#[test]
fn the_demo_keeps_the_score() {
    let port = free_port().to_string();
    let mut command = Command::new(LOOKOUT);
    command.args(["demo", "--for", "30s", "--score", "--port", &port]);
    let output = command.output().expect("lookout demo");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for subject in Subject::ALL {
        assert!(printed.contains(&format!("| {}", subject.word())) || subject == Subject::Caption);
    }
    assert!(printed.contains("| whole caption |"), "{printed}");
    let mistakes = printed.lines().filter(|line| line.contains("[the camera showed: ")).count();
    let wrong = |line: &str| line.split('|').nth(3).and_then(|n| n.trim().parse::<usize>().ok());
    let counted: usize = printed.lines().filter_map(wrong).sum();
    assert!(mistakes <= counted, "{printed}");
    assert!((counted == 0) == (mistakes == 0), "{printed}");
}
