//! The clips of alerts, with the whole daemon: made, saved, exported, deleted, and missing after a
//! kill.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{decode, psnr};
use crate::support::*;

/// Starts a daemon whose camera shows a car for 4 s of every 12 s.
fn start(dir: &Path, cameras: &Cameras, clip_after: &str) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let journal = format!("[journal]\nfolder = {:?}\n", dir.join("journal"));
    let rule = format!(
        "[[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\nof = \"1/2\"\ncooldown = \"0s\"\n\
         clip = \"alert\"\nclip_before = \"2s\"\nclip_after = \"{clip_after}\"\n"
    );
    let camera = camera("drive", &cameras.url("drive"), "");
    Daemon::with_config(dir, &(head(grpc, http, None) + &journal + &camera + &rule), grpc, http)
}

fn serve(dir: &Path) -> Cameras {
    let video = repository().join("tests/media/drive.mp4");
    Cameras::start(dir, 0, &[("drive", &video)], &[])
}

const PATIENCE: Duration = Duration::from_secs(90);

/// Returns the next event of an alert: of any if `id` is `None`.
fn next(watch: &mut Lines, id: Option<&Value>, is: impl Fn(&Value) -> bool) -> Value {
    watch.until("an event of the alert", PATIENCE, &mut Vec::new(), |event| {
        event["kind"] == "alert" && id.is_none_or(|id| event["alert_id"] == *id) && is(event)
    })
}

fn has_clip(state: &str) -> impl Fn(&Value) -> bool {
    move |event| event["clip"]["state"] == state
}

#[test]
fn an_alert_gets_a_clip_with_its_frames_which_can_be_saved_exported_and_deleted() {
    let folder = folder();
    let dir = folder.path();
    lookout::camera::init().unwrap();
    let cameras = serve(dir);
    let daemon = start(dir, &cameras, "1s");
    let mut watch = daemon.watch(dir);
    // The first seconds of the stream are not held before the first alert.
    let first = next(&mut watch, None, |event| event["phase"] == "end");
    let new = next(&mut watch, None, |event| event["phase"] == "new");
    assert_ne!(new["alert_id"], first["alert_id"]);
    assert_eq!(new["clip"]["state"], "pending");
    let id = &new["alert_id"];
    let sequence = new["sequence"].to_string();
    let end = next(&mut watch, Some(id), |event| event["phase"] == "end");
    let ready = next(&mut watch, Some(id), |event| event["clip"]["state"] != "pending");
    let clip = &ready["clip"];
    assert_eq!((&ready["update"], &clip["state"]), (&"clip".into(), &"ready".into()), "{clip}");
    assert_eq!(clip["codec"], "H.264");
    let (from, to) = (seconds(&clip["span"]["from"]), seconds(&clip["span"]["to"]));
    let ended_at = seconds(&end["ended_at"]);
    assert!((to - ended_at - 1.0).abs() < 3.0, "the clip ends at {to}, the alert at {ended_at}");
    let late = seconds(&ready["published_at"]) - ended_at - 1.0;
    println!("ready {late:.2} s after clip_after: {clip}");
    // The time is for a busy machine.
    assert!(late < 20.0, "ready {late} s after clip_after");

    // Any event of the alert names the clip.
    let file = dir.join("clip.mp4");
    let saved = ["clip", &sequence, "-o", file.to_str().unwrap(), "--json"];
    let (code, out, error) = daemon.client(&saved);
    assert_eq!(code, Some(0), "{error}");
    let line: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(line["bytes"], std::fs::metadata(&file).unwrap().len());
    let pictures = decode(&file);
    let frames = new["frames"].as_array().expect("frames");
    assert!(!frames.is_empty());
    for frame in frames {
        let at = seconds(&frame["captured_at"]);
        assert!(from <= at && at < to, "frame at {at}, clip from {from} to {to}");
        let jpeg = dir.join("frame.jpg");
        let number = frame["number"].to_string();
        let (code, _, error) =
            daemon.client(&["frame", "drive", &number, "-o", jpeg.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{error}");
        let image = &decode(&jpeg)[0].bgrx;
        let best = pictures.iter().map(|picture| psnr(&picture.bgrx, image));
        let best = best.max_by(f64::total_cmp).expect("a picture");
        assert!(best > 25.0, "frame {number} is not in the clip: {best} dB");
    }

    let archive = dir.join("events.zip");
    let export = ["export", archive.to_str().unwrap(), "--kind", "alert"];
    let (code, out, error) = daemon.client(&export);
    assert!(code == Some(0) && out.contains(" clips"), "{out} {error}");
    let unpacked = dir.join("unpacked");
    let script = format!("import zipfile; zipfile.ZipFile({archive:?}).extractall({unpacked:?})");
    assert!(Command::new("python3").args(["-c", &script]).status().expect("python3").success());
    let sums = Command::new("sha256sum")
        .args(["-c", "--quiet", "SHA256SUMS"])
        .current_dir(&unpacked)
        .status();
    assert!(sums.expect("sha256sum").success());
    let exported = unpacked.join(format!("clips/drive/{}.mp4", id.as_str().unwrap()));
    assert_eq!(std::fs::read(exported).unwrap(), std::fs::read(&file).unwrap());

    // A span at the beginning of the clip, before the alert's last window.
    let delete_to = humantime::format_rfc3339_millis(
        std::time::UNIX_EPOCH + Duration::from_secs_f64(from + 0.5),
    );
    let delete_from = clip["span"]["from"].as_str().unwrap();
    let delete = ["delete", "--from", delete_from, "--to", &delete_to.to_string(), "--yes"];
    let (code, _, error) = daemon.client(&delete);
    assert_eq!(code, Some(0), "{error}");
    let (code, _, error) = daemon.client(&["clip", &ready["sequence"].to_string(), "-o", "x.mp4"]);
    assert!(code != Some(0) && error.contains("the journal has no event"), "{error}");
    let (code, _, error) = daemon.client(&["clip", &end["sequence"].to_string(), "-o", "x.mp4"]);
    assert!(code != Some(0) && error.contains("was deleted"), "{error}");
}

#[test]
fn a_clip_that_is_made_after_a_deletion_does_not_show_the_deleted_time() {
    let folder = folder();
    let dir = folder.path();
    lookout::camera::init().unwrap();
    let cameras = serve(dir);
    let daemon = start(dir, &cameras, "6s");
    let mut watch = daemon.watch(dir);
    next(&mut watch, None, |event| event["phase"] == "end");
    let new = next(&mut watch, None, |event| event["phase"] == "new");
    // The newest frame, and the stream of its time, which waits for the end of the alert.
    let frames = new["frames"].as_array().expect("frames");
    let last = seconds(&frames[frames.len() - 1]["captured_at"]);
    let from = last - 0.1;
    let time = |at: f64| {
        let at = std::time::UNIX_EPOCH + Duration::from_secs_f64(at);
        humantime::format_rfc3339_millis(at).to_string()
    };
    let delete = ["delete", "--from", &time(from), "--to", &time(last + 0.1), "--yes"];
    let (code, _, error) = daemon.client(&delete);
    assert_eq!(code, Some(0), "{error}");

    let ready = next(&mut watch, Some(&new["alert_id"]), has_clip("ready"));
    let begin = seconds(&ready["clip"]["span"]["from"]);
    assert!(begin < from, "the clip begins at {begin}, behind the deleted time {from}");
    let file = dir.join("clip.mp4");
    let saved = ["clip", &ready["sequence"].to_string(), "-o", file.to_str().unwrap()];
    let (code, _, error) = daemon.client(&saved);
    assert_eq!(code, Some(0), "{error}");
    let times: Vec<f64> =
        decode(&file).iter().map(|picture| begin + picture.at.as_secs_f64()).collect();
    let is_deleted = |at: &f64| (from..last + 0.1).contains(at);
    assert!(!times.iter().any(is_deleted), "pictures at {times:?}, deleted from {from}");
    assert!(times.iter().any(|at| *at > last), "no picture after the deleted time");
}

#[test]
fn a_clip_that_a_kill_interrupted_is_reported_as_missing() {
    let folder = folder();
    let dir = folder.path();
    let cameras = serve(dir);
    let mut daemon = start(dir, &cameras, "100s");
    let mut watch = daemon.watch(dir);
    let end = next(&mut watch, None, |event| event["phase"] == "end");
    let sequence = end["sequence"].to_string();
    let (code, _, error) = daemon.client(&["clip", &sequence, "-o", "x.mp4"]);
    assert!(code != Some(0) && error.contains("not complete yet"), "{error}");
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(PATIENCE);
    drop((daemon, watch, cameras));

    let cameras = serve(dir);
    let daemon = start(dir, &cameras, "1s");
    let mut watch = daemon.watch(dir);
    let missing = next(&mut watch, Some(&end["alert_id"]), has_clip("missing"));
    let reason = missing["clip"]["reason"].as_str().expect("a reason");
    assert_eq!(reason, "the daemon was stopped before the clip was complete");
    let run = end["run"].to_string();
    let (code, _, error) = daemon.client(&["clip", &sequence, "--run", &run, "-o", "x.mp4"]);
    assert!(code != Some(0) && error.contains(reason), "{error}");
    // The next alert has a clip again.
    next(&mut watch, None, has_clip("ready"));
}
