//! Tests real footage (`vtest.avi` of Debian's opencv-doc: a street, 768×576, 10 frames/s, 79.5 s)
//! over RTSP: the rate is kept, memory does not grow, and each window has the right frames.
//!
//! Runs for two minutes by default; `LOOKOUT_SOAK` sets another number of seconds (`make soak`:
//! 600).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use crate::support::*;
use serde_json::Value;

const CLIP_FPS: f64 = 10.0;
const CLIP_FRAMES: usize = 795;
const FPS: f64 = 2.0;

/// The footage as H.264, and its frames small and grey, for comparison.
struct Footage {
    clip: PathBuf,
    /// Frames for comparison, `[CLIP_FRAMES, 72, 96]`.
    pictures: Vec<Vec<u8>>,
}

fn footage(folder: &Path) -> Footage {
    let avi = repository().join("target/footage/vtest.avi");
    assert!(avi.exists(), "{} is missing: run `make setup-test`", avi.display());
    let clip = folder.join("vtest.mp4");
    gst(&format!(
        "filesrc location={} ! decodebin ! videoconvert ! openh264enc gop-size=10 bitrate=2000000 ! \
         h264parse ! mp4mux ! filesink location={}",
        avi.display(),
        clip.display()
    ));
    let raw = folder.join("vtest.gray");
    gst(&format!(
        "filesrc location={} ! decodebin ! videoscale ! videoconvert ! \
         video/x-raw,format=GRAY8,width=96,height=72 ! filesink location={}",
        clip.display(),
        raw.display()
    ));
    let raw = fs::read(raw).expect("pictures");
    let pictures: Vec<Vec<u8>> = raw.chunks_exact(96 * 72).map(<[u8]>::to_vec).collect();
    assert_eq!(pictures.len(), CLIP_FRAMES);
    Footage { clip, pictures }
}

fn gst(pipeline: &str) {
    let output =
        Command::new("gst-launch-1.0").arg("-q").args(pipeline.split_whitespace()).output();
    let output = output.expect("gst-launch-1.0");
    assert!(output.status.success(), "{pipeline}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Decodes a JPEG, small and grey: 96 × 72 means of its pixels.
fn small(jpeg: &[u8]) -> Vec<f64> {
    let image = turbojpeg::decompress(jpeg, turbojpeg::PixelFormat::GRAY).expect("a JPEG");
    let (down, right) = (image.height / 72, image.width / 96);
    let mean = |at: usize| {
        let (y, x) = (at / 96 * image.height / 72, at % 96 * image.width / 96);
        let rows = (y..y + down).map(|row| &image.pixels[row * image.pitch + x..][..right]);
        rows.flatten().map(|pixel| f64::from(*pixel)).sum::<f64>() / (down * right) as f64
    };
    (0..72 * 96).map(mean).collect()
}

/// Returns the mean difference of two such images.
fn difference(seen: &[f64], picture: &[u8]) -> f64 {
    let sum: f64 = seen.iter().zip(picture).map(|(a, b)| (a - f64::from(*b)).abs()).sum();
    sum / seen.len() as f64
}

#[test]
fn real_footage_is_captioned() {
    let folder = folder();
    let dir = folder.path();
    let footage = footage(dir);
    let length = CLIP_FRAMES as f64 / CLIP_FPS;
    let cameras = Cameras::start(dir, 0, &[("street", &footage.clip)], &[]);
    let (grpc, http) = (free_port(), free_port());
    let broker = Broker::start(dir, free_port());
    // The prefix cache is full as soon as the buffer is.
    let config = head(grpc, http, Some(broker.port))
        .replace("8:slowfast", "16:slowfast")
        .replace("[generate]", "[generate]\nprefix_cache_bytes = \"4 MiB\"")
        + "[buffer]\ntoken_age = \"30s\"\njpeg_age = \"30s\"\njpeg_width = 384\n"
        + &camera("street", &cameras.url("street"), "")
            .replace("\"4s\"", "\"8s\"")
            .replace("\"2s\"", "\"4s\"");
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let mut events = daemon.watch(dir);
    let seconds_to_run = env::var("LOOKOUT_SOAK").ok().and_then(|s| s.parse().ok()).unwrap_or(120);
    let end = Instant::now() + Duration::from_secs(seconds_to_run);

    let (mut seen, mut memory, mut right, mut looked_at) = (Vec::new(), Vec::new(), 0, 0);
    while Instant::now() < end {
        let caption = events
            .until("a caption", Duration::from_secs(60), &mut seen, |e| is_caption(e, "street"));
        memory.push(daemon.process.memory());
        assert_eq!(caption["coverage"]["gaps"], Value::Array(Vec::new()), "{caption}");
        // One frame of each window is checked, at a different position each time.
        let frames = caption["frames"].as_array().expect("frames");
        let frame = &frames[memory.len() * 7 % frames.len()];
        let jpeg = dir.join("frame.jpg");
        let number = frame["number"].to_string();
        let file = jpeg.to_str().expect("path");
        let (code, _, error) = daemon.client(&["frame", "street", &number, "--output", file]);
        assert_eq!(code, Some(0), "{error}");
        let shown = small(&fs::read(&jpeg).expect("jpeg"));
        let position = seconds(&frame["captured_at"]) % length * CLIP_FPS;
        let nearest = (0..CLIP_FRAMES)
            .min_by(|a, b| {
                let off = |i: &usize| difference(&shown, &footage.pictures[*i]);
                off(a).total_cmp(&off(b))
            })
            .expect("pictures");
        let off = (nearest as f64 - position).abs();
        let off = off.min(CLIP_FRAMES as f64 - off);
        looked_at += 1;
        if off <= 2.0 {
            right += 1;
        } else {
            println!("frame {number} shows picture {nearest}, its time says {position:.1}");
        }
    }
    // Frames of an empty street a second apart can look alike, but only in few cases.
    assert!(right * 100 >= looked_at * 95, "{right} of {looked_at} frames are the right ones");

    let captions: Vec<&Value> = seen.iter().filter(|e| is_caption(e, "street")).collect();
    let last_frame = |event: &Value| event["frames"].as_array().and_then(|f| f.last().cloned());
    let (first, last) = (last_frame(captions[0]), last_frame(captions[captions.len() - 1]));
    let (first, last) = (first.expect("a frame"), last.expect("a frame"));
    let frames = last["number"].as_f64().zip(first["number"].as_f64()).map(|(b, a)| b - a);
    let rate =
        frames.expect("numbers") / (seconds(&last["captured_at"]) - seconds(&first["captured_at"]));
    assert!((rate / FPS - 1.0).abs() < 0.01, "{rate} frames/s");

    // Time outside the model: from the window's close to the journal, and from there to gRPC and
    // MQTT.
    let beyond = |event: &Value| {
        let part = |name: &str| event["timing"][name].as_f64().expect("seconds");
        let model = ["encode_seconds", "prefill_seconds", "decode_seconds"].map(part);
        1000.0 * (part("total_seconds") - model.iter().sum::<f64>())
    };
    let mut daemons: Vec<f64> = captions.iter().map(|event| beyond(event)).collect();
    daemons.sort_by(f64::total_cmp);
    let published = |interface: &str| {
        let of = |what: &str| {
            let labels = format!("camera=\"street\",interface=\"{interface}\"");
            daemon.metric(&format!("lookout_publish_seconds_{what}{{{labels}}}"))
        };
        1000.0 * of("sum") / of("count").max(1.0)
    };
    println!(
        "beyond the model: {:.1} ms in the middle, {:.1} ms at most; then {:.1} ms to gRPC and \
         {:.1} ms to MQTT's acknowledgement on average",
        daemons[daemons.len() / 2],
        daemons[daemons.len() - 1],
        published("grpc"),
        published("mqtt")
    );

    // The buffer is full after 30 s; after that nothing may grow.
    let full = memory.len() * 40 / seconds_to_run.max(80) as usize;
    let (early, late) = (memory[full], memory[memory.len() - 1]);
    println!(
        "{} captions, {rate:.3} frames/s, {right} of {looked_at} frames right, memory {} → {} MiB",
        captions.len(),
        early >> 20,
        late >> 20
    );
    assert!(late < early + early / 10, "memory grew from {early} to {late} bytes");
}
