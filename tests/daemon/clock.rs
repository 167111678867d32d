//! Tests the whole daemon on a host whose clock is set while it runs, and on one that starts in
//! 1970.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::host_clock::HostClock;
use crate::support::*;
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Starts a daemon that has this clock, with one camera, and keeps frames on disk.
fn daemon(clock: &HostClock, dir: &Path, camera: &str) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let file = dir.join("lookout.toml");
    let kept = dir.join("frames");
    let buffer = format!("[buffer.disk]\nfolder = {kept:?}\n");
    fs::write(&file, head(grpc, http, None) + &buffer + camera).expect("config");
    let mut command = clock.command(&[], LOOKOUT);
    command.args(["run", "--config"]).arg(&file);
    Daemon::by(command, dir, grpc, http)
}

fn ask(daemon: &Daemon, range: &[&str]) -> Value {
    let question = ["ask", "--json", "--detail", "overview", "gate", "Is there a person?"];
    let (code, answer, error) = daemon.client(&[&question, range].concat());
    assert_eq!((code, error.as_str()), (Some(0), ""), "{range:?}");
    serde_json::from_str(&answer).expect("JSON")
}

fn causes(event: &Value) -> Vec<&str> {
    let gaps = event["coverage"]["gaps"].as_array().expect("gaps");
    gaps.iter().filter_map(|gap| gap["cause"].as_str()).collect()
}

fn end_of(caption: &Value) -> f64 {
    seconds(&caption["window"]["to"])
}

#[test]
fn captions_go_on_when_the_clock_is_set_and_no_footage_is_lost() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let clock = HostClock::new(dir);
    let daemon = daemon(&clock, dir, &camera("gate", &cameras.url("gate"), ""));
    let mut events = daemon.watch(dir);
    let (mut seen, mut captions) = (Vec::new(), Vec::new());
    let hour = 3600.0;
    let fortnight = 14.0 * 24.0 * hour;
    for (off, count) in [(0.0, 2), (-hour, 3), (fortnight, 3)] {
        clock.set(off as i64);
        for _ in 0..count {
            // Each caption is due in 2 s, the very first in 4 s.
            let patience = SECONDS(if captions.is_empty() { 30 } else { 6 });
            let caption = events.until("a caption", patience, &mut seen, |e| is_caption(e, "gate"));
            captions.push((off, caption));
        }
    }
    let mut steps = 0;
    for pair in captions[1..].windows(2) {
        let (apart, set) = (end_of(&pair[1].1) - end_of(&pair[0].1), pair[1].0 - pair[0].0);
        let moved = (apart - 2.0).abs() > 60.0;
        steps += usize::from(moved);
        // A window that closes at the step may still have the old clock's time.
        assert!((apart - 2.0).abs() < 0.3 || moved, "{apart} s apart at a step of {set} s");
    }
    assert_eq!(steps, 2);
    for (_, caption) in &captions {
        let window = end_of(caption) - seconds(&caption["window"]["from"]);
        assert!((window - 4.0).abs() < 0.002, "{caption}");
        assert_eq!(caption["coverage"]["frames_used"], 8, "{caption}");
        assert!(causes(caption).iter().all(|cause| *cause == "clock"), "{caption}");
        assert_eq!(caption["skipped_windows"].as_u64().unwrap_or(0), 0, "{caption}");
    }
    // Windows of 4 s every 2 s: each step lies in two windows.
    let with_step = captions.iter().filter(|(_, caption)| !causes(caption).is_empty()).count();
    assert!((3..=4).contains(&with_step), "{with_step} captions tell of a step");

    // All frames are available: by a caption's range, by a recent range, and by each frame's
    // number.
    let recent = ask(&daemon, &["--last", "15s"]);
    assert_eq!(causes(&recent).iter().filter(|cause| **cause == "clock").count(), 2, "{recent}");
    for at in [1, 4, 7] {
        let window = &captions[at].1["window"];
        let word = |key: &str| window[key].as_str().expect("a time").to_string();
        let answer = ask(&daemon, &["--from", &word("from"), "--to", &word("to")]);
        let used = answer["coverage"]["frames_used"].as_u64();
        assert!(used >= Some(4), "{answer} for {window}");
    }
    for frame in captions.iter().flat_map(|(_, c)| c["frames"].as_array().expect("frames")) {
        let number = frame["number"].to_string();
        let (code, _, error) = daemon.client(&["frame", "gate", &number, "--output", "-"]);
        assert_eq!(code, Some(0), "{frame}: {error}");
    }
    let log = daemon.process.log();
    assert_eq!(log.matches("the host's clock was set").count(), 2, "{log}");
}

#[test]
fn a_start_in_1970_hides_no_earlier_frame() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let clock = HostClock::new(dir);
    let watched = camera("gate", &cameras.url("gate"), "");
    let mut before = daemon(&clock, dir, &watched);
    let mut seen = Vec::new();
    let mut events = before.watch(dir);
    let caption = events.until("a caption", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    let from = caption["window"]["from"].as_str().expect("a time").to_string();
    before.process.signal(libc::SIGTERM);
    assert_eq!(before.process.ended(SECONDS(15)), Some(0));

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    clock.set(30 - now.as_secs() as i64);
    let daemon = daemon(&clock, dir, &watched);
    let mut events = daemon.watch(dir);
    let early = events.until("a caption", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    assert!(end_of(&early) < 3600.0, "{early}");
    assert_eq!(causes(&early), [""; 0], "{early}");
    let run = |event: &Value| event["frames"][0]["run"].as_u64().expect("a run");
    assert!(run(&early) > run(&caption), "runs are in order");
    // Without a range, a question uses frames of this run only.
    assert_eq!(run(&ask(&daemon, &[])), run(&early));

    // The host's clock is now set to the correct time.
    clock.set(0);
    let later = |event: &Value| is_caption(event, "gate") && end_of(event) > 3600.0;
    let late = events.until("a caption of now", SECONDS(10), &mut seen, later);
    assert!(causes(&late).contains(&"clock"), "{late}");
    let all = ask(&daemon, &["--from", &from]);
    let runs: Vec<_> = all["frames"].as_array().expect("frames").iter().collect();
    let of = |wanted| runs.iter().filter(|frame| frame["run"] == wanted).count();
    assert!(of(run(&caption)) > 0 && of(run(&early)) > 0, "{all}");
    assert!(causes(&all).contains(&"clock"), "{all}");
    let of_1970 = ask(&daemon, &["--from", "1970-01-01T00:00:01Z", "--to", "1970-01-01T01:00:00Z"]);
    assert_eq!(run(&of_1970), run(&early));
}
