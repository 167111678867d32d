//! Tests privacy masks with the whole daemon: what a mask hides is in no frame, event, message or
//! file.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Checks that the left half of a JPEG is black, and that the right half is not.
fn assert_masked(jpeg: &[u8], context: &str) {
    let image = turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::RGB).expect(context);
    let columns = |from: usize, to: usize| {
        let rows = image.pixels.chunks(image.pitch).take(image.height);
        rows.flat_map(move |row| &row[3 * from..3 * to]).copied().collect::<Vec<u8>>()
    };
    // A JPEG blurs the edge over blocks of 8 or 16 pixels.
    let hidden = columns(0, image.width / 2 - 16);
    let brightest = hidden.iter().max().expect("pixels");
    assert!(*brightest < 12, "{context}: a hidden pixel has {brightest}");
    let visible = columns(image.width / 2 + 16, image.width);
    let mean = visible.iter().map(|value| f64::from(*value)).sum::<f64>() / visible.len() as f64;
    assert!(mean > 30.0, "{context}: the visible half has {mean}");
}

/// Returns the JPEGs below a folder, and asserts that no other file is a video.
fn jpegs(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(jpegs(&path));
            continue;
        }
        let bytes = std::fs::read(&path).expect("a file");
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        assert!(!(contains(b"ftyp") && contains(b"avc1")), "{}", path.display());
        if path.extension().is_some_and(|extension| extension == "jpg") {
            found.push(bytes);
        }
    }
    found
}

#[test]
fn what_a_mask_hides_is_nowhere() {
    let folder = folder();
    let dir = folder.path();
    let video = repository().join("tests/media/drive.mp4");
    let cameras = Cameras::start(dir, 0, &[("drive", &video)], &[]);
    let broker = Broker::start(dir, free_port());
    let (grpc, http) = (free_port(), free_port());
    let (journal, frames) = (dir.join("journal"), dir.join("frames"));
    let config = head(grpc, http, Some(broker.port))
        + &format!("[journal]\nfolder = {journal:?}\njpegs = \"all\"\n")
        + &format!("[buffer.disk]\nfolder = {frames:?}\n")
        + &camera("drive", &cameras.url("drive"), "")
        + "masks = [[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]]\n"
        // Any score raises an alert.
        + "[[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\non = 0.01\noff = 0.001\n\
           of = \"1/1\"\nclip = \"alert\"\nclip_before = \"1s\"\nclip_after = \"1s\"\nclip_max = \"5s\"\n";
    let mut daemon = Daemon::with_config(dir, &config, grpc, http);
    let mut watch = daemon.watch(dir);
    let mut until = |what: &str, is: &dyn Fn(&Value) -> bool| {
        watch.until(what, PATIENCE, &mut Vec::new(), |event| event["kind"] == "alert" && is(event))
    };
    let new = until("an alert", &|event| event["phase"] == "new");
    let clip = until("the clip's state", &|event| event["update"] == "clip");
    assert_eq!(clip["clip"]["state"], "missing", "{clip}");
    let reason = clip["clip"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("privacy masks"), "{reason}");
    let saved = daemon.client(&["clip", &clip["sequence"].to_string(), "-o", "x.mp4"]);
    assert!(saved.0 != Some(0) && saved.2.contains("privacy masks"), "{saved:?}");
    assert_eq!(daemon.metric("lookout_encoded_bytes"), 0.0);

    // From the buffer, by MQTT, and from the journal.
    let frame = dir.join("frame.jpg");
    let number = new["frames"][0]["number"].to_string();
    let (code, _, error) =
        daemon.client(&["frame", "drive", &number, "-o", frame.to_str().expect("a path")]);
    assert_eq!(code, Some(0), "{error}");
    assert_masked(&std::fs::read(&frame).expect("a JPEG"), "lookout frame");
    let picture = Command::new("mosquitto_sub")
        .args(["-p", &broker.port.to_string(), "-C", "1", "-W", "30", "-N"])
        .args(["-t", "lookout/drive/last_frame"])
        .output();
    assert_masked(&picture.expect("mosquitto_sub").stdout, "MQTT");
    let (archive, unpacked) = (dir.join("events.zip"), dir.join("unpacked"));
    let (code, _, error) = daemon.client(&["export", archive.to_str().expect("a path")]);
    assert_eq!(code, Some(0), "{error}");
    let script = format!("import zipfile; zipfile.ZipFile({archive:?}).extractall({unpacked:?})");
    assert!(Command::new("python3").args(["-c", &script]).status().expect("python3").success());
    let exported = jpegs(&unpacked);
    assert!(!exported.is_empty(), "no frame was exported");
    exported.iter().for_each(|jpeg| assert_masked(jpeg, "an exported frame"));

    // What the daemon has written to the disk tier, and nothing else is there.
    daemon.process.signal(libc::SIGTERM);
    daemon.process.ended(PATIENCE);
    assert!(jpegs(&journal).is_empty());
    let mut checked = 0;
    for entry in std::fs::read_dir(&frames).expect("a folder") {
        let bytes = std::fs::read(entry.expect("an entry").path()).unwrap_or_default();
        let starts = bytes.windows(3).enumerate().filter(|(_, three)| three == b"\xff\xd8\xff");
        for (start, _) in starts {
            assert_masked(&bytes[start..], "a frame on disk");
            checked += 1;
        }
    }
    assert!(checked > 0, "no frame on disk");
}
