//! Tests privacy masks with the whole daemon: what a mask hides is in no frame, event, message or
//! file.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::host_clock::HostClock;
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the brightest value of a JPEG's left half. The right half must be visible.
fn brightest_left(jpeg: &[u8], context: &str) -> u8 {
    let image = turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::RGB).expect(context);
    let columns = |from: usize, to: usize| {
        let rows = image.pixels.chunks(image.pitch).take(image.height);
        rows.flat_map(move |row| &row[3 * from..3 * to]).copied().collect::<Vec<u8>>()
    };
    // A JPEG blurs the edge over blocks of 8 or 16 pixels.
    let left = columns(0, image.width / 2 - 16);
    let visible = columns(image.width / 2 + 16, image.width);
    let mean = visible.iter().map(|value| f64::from(*value)).sum::<f64>() / visible.len() as f64;
    assert!(mean > 30.0, "{context}: the visible half has {mean}");
    left.into_iter().max().expect("pixels")
}

/// Checks that the left half of a JPEG is black, and that the right half is not.
fn assert_masked(jpeg: &[u8], context: &str) {
    let brightest = brightest_left(jpeg, context);
    assert!(brightest < 12, "{context}: a hidden pixel has {brightest}");
}

/// Writes two masks that together hide the left half: a polygon above and a PNG below. `more` are
/// further keys of each.
fn left_half(dir: &Path, more: &str) -> String {
    // 4x4 pixels, of which the two left ones of the lower rows are black.
    let rows: [[u8; 4]; 4] =
        std::array::from_fn(|row| if row < 2 { [255; 4] } else { [0, 0, 255, 255] });
    let file = fs::File::create(dir.join("left.png")).expect("a file");
    let mut encoder = png::Encoder::new(file, 4, 4);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(rows.as_flattened()).expect("pixels");
    writer.finish().expect("an end");
    format!(
        "masks = [{{ polygon = [[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]]{more} }}, \
         {{ image = \"left.png\"{more} }}]\n"
    )
}

/// Returns the JPEGs in the files of the disk tier, in the order of their frames.
fn frames_on_disk(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    let mut frames = Vec::new();
    for bytes in files.into_iter().filter_map(|file| fs::read(file).ok()) {
        let starts = bytes.windows(3).enumerate().filter(|(_, three)| three == b"\xff\xd8\xff");
        frames.extend(starts.map(|(start, _)| bytes[start..].to_vec()));
    }
    frames
}

/// Returns the JPEGs below a folder, and asserts that no other file is a video.
fn jpegs(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(jpegs(&path));
            continue;
        }
        let bytes = fs::read(&path).expect("a file");
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
        + &left_half(dir, "")
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
    assert_masked(&fs::read(&frame).expect("a JPEG"), "lookout frame");
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
    let frames = frames_on_disk(&frames);
    assert!(!frames.is_empty(), "no frame on disk");
    frames.iter().for_each(|jpeg| assert_masked(jpeg, "a frame on disk"));
}

/// Returns the offset in seconds at which a clock shows this hour of today, in UTC.
fn offset_to(hour: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    hour * 3600 - now % 86_400
}

#[test]
fn a_mask_hides_from_the_beginning_of_its_schedule_on() {
    let folder = folder();
    let dir = folder.path();
    let video = repository().join("tests/media/drive.mp4");
    let cameras = Cameras::start(dir, 0, &[("drive", &video)], &[]);
    let (grpc, http) = (free_port(), free_port());
    let frames = dir.join("frames");
    let masks = left_half(dir, ", schedule = \"20:00-04:00\", time_zone = \"Etc/UTC\"");
    let config = head(grpc, http, None)
        + &format!("[buffer.disk]\nfolder = {frames:?}\n")
        + &camera("drive", &cameras.url("drive"), "")
        + &masks
        + "[[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\non = 0.01\noff = 0.001\n\
           of = \"1/1\"\nclip = \"alert\"\n";
    let file = dir.join("lookout.toml");
    fs::write(&file, config).expect("config");
    let clock = HostClock::new(dir);
    clock.set(offset_to(12));
    let mut command = clock.command(&[], LOOKOUT);
    command.args(["run", "--config"]).arg(&file);
    let mut daemon = Daemon::by(command, dir, grpc, http);
    let mut watch = daemon.watch(dir);
    let mut caption = |when: &str, after: &str| {
        watch.until(when, PATIENCE, &mut Vec::new(), |event| {
            // The window of a caption is dated by the clock after a step, its frames by their own.
            let captured = event["frames"][0]["captured_at"].as_str().unwrap_or_default();
            is_caption(event, "drive") && captured.get(11..).is_some_and(|time| time > after)
        })
    };
    let jpeg_of = |daemon: &Daemon, caption: &Value| {
        let number = caption["frames"][0]["number"].to_string();
        let file = dir.join("frame.jpg");
        let path = file.to_str().expect("a path");
        let (code, _, error) = daemon.client(&["frame", "drive", &number, "-o", path]);
        assert_eq!(code, Some(0), "{error}");
        fs::read(file).expect("a JPEG")
    };
    let before = caption("a caption of the day", "12:00");
    assert!(brightest_left(&jpeg_of(&daemon, &before), "by day") > 60);
    assert_eq!(daemon.metric("lookout_encoded_bytes"), 0.0);

    clock.set(offset_to(22));
    let after = caption("a caption of the evening", "22:00");
    assert_masked(&jpeg_of(&daemon, &after), "in the evening");
    daemon.process.signal(libc::SIGTERM);
    daemon.process.ended(PATIENCE);
    let hidden: Vec<bool> = frames_on_disk(&frames)
        .iter()
        .map(|jpeg| brightest_left(jpeg, "a frame on disk") < 12)
        .collect();
    let first = hidden.iter().position(|hidden| *hidden).expect("a hidden frame");
    assert!(first > 0 && hidden[first..].iter().all(|hidden| *hidden), "{hidden:?}");
}

#[test]
fn a_check_shows_the_share_that_masks_hide() {
    let folder = folder();
    let dir = folder.path();
    let video = repository().join("tests/media/drive.mp4");
    let check = |masks: &str| {
        let config = head(free_port(), free_port(), None)
            + &camera("drive", &format!("file:{}", video.display()), "")
            + masks;
        let file = dir.join("check.toml");
        fs::write(&file, config).expect("config");
        let output = Command::new(LOOKOUT).args(["check", "--config"]).arg(&file).output();
        let output = output.expect("lookout");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (_, half) = check(&left_half(dir, ", schedule = \"Mon\""));
    assert!(half.contains("2 (2 with a schedule), which hide 50.0 % of the frame"), "{half}");
    assert!(!half.contains("WARNING"), "{half}");
    let whole = "masks = [{ polygon = [[0, 0], [1, 0], [1, 1], [0, 1]] }]\n";
    let (_, all) = check(whole);
    assert!(all.contains("WARNING: they hide the whole frame"), "{all}");
    let png = fs::read(dir.join("left.png")).expect("a PNG");
    fs::write(dir.join("left.png"), &png[..png.len() / 2]).expect("a file");
    let (code, broken) = check("masks = [{ image = \"left.png\" }]\n");
    assert_eq!(code, Some(2));
    assert!(broken.contains("masks: mask 1: image ") && broken.contains("as a PNG: "), "{broken}");
}
