//! Tests `lookout bench` with the demo's package: it measures what it reports. Speed is not tested.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{LOOKOUT, clip, repository};

fn bench(arguments: &[&str]) -> Output {
    let library = repository().join("target/onnxruntime/libonnxruntime.so");
    assert!(library.is_file(), "{} is missing: run `make setup`", library.display());
    let mut lookout = Command::new(LOOKOUT);
    lookout.arg("bench").args(arguments).current_dir(repository());
    lookout.env("ORT_DYLIB_PATH", library).output().expect("lookout")
}

fn report(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!(number > 0.0 && number.is_finite(), "{number}");
    number
}

/// Sets nothing to silence onnxruntime beyond what the daemon sets itself.
#[test]
fn onnxruntime_does_not_call_home() {
    let cache = tempfile::tempdir().expect("a folder");
    let library = repository().join("target/onnxruntime/libonnxruntime.so");
    let arguments =
        ["bench", "language", "--only", "share", "--rounds", "1", "--max-new-tokens", "2"];
    let mut lookout = Command::new(LOOKOUT);
    lookout.args(arguments).current_dir(repository()).env_clear().env("ORT_DYLIB_PATH", library);
    lookout.env("HOME", cache.path()).env("XDG_CACHE_HOME", cache.path());
    let output = lookout.output().expect("lookout");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Telemetry would first store an identifier of the machine.
    let traces: Vec<_> = fs::read_dir(cache.path()).expect("the folder").flatten().collect();
    assert!(traces.is_empty(), "{traces:?}");
}

#[test]
fn every_stage_of_a_caption_is_measured() {
    let windows = ["--fps", "4", "--window", "3s", "--caption-interval", "1s"];
    let few = ["stages", "--rounds", "2", "--max-new-tokens", "4", "--json"];
    let report = report(&[&few[..], &windows[..]].concat());
    let stages = report["stages"].as_array().expect("stages");
    let found: Vec<(&str, f64)> = stages
        .iter()
        .map(|stage| (stage["stage"].as_str().unwrap_or(""), stage["per_caption"].as_f64()))
        .map(|(stage, count)| (stage, count.expect("a count")))
        .collect();
    let wanted = [
        ("decode", 4.0),
        ("resize", 4.0),
        ("jpeg", 4.0),
        ("encode", 4.0),
        ("pool", 4.0),
        ("assemble", 1.0),
        ("prefill", 1.0),
        ("token", 4.0),
        ("question", 0.0),
    ];
    assert_eq!(found, wanted);
    let all = positive(&report["caption_cpu_ms"]);
    let (mut sum, mut shares) = (0.0, 0.0);
    for (stage, (_, count)) in stages.iter().zip(wanted) {
        let taken = stage["caption_cpu_ms"].as_f64().expect("a number");
        let share = stage["share"].as_f64().expect("a share");
        assert!((taken - positive(&stage["cpu_ms"]) * count).abs() < 1e-6, "{stage}");
        assert!((share - taken / all).abs() < 1e-6, "{stage}");
        (sum, shares) = (sum + taken, shares + share);
    }
    assert!((sum / all - 1.0).abs() < 1e-6 && (shares - 1.0).abs() < 1e-6, "{report}");
    assert!((positive(&report["share_of_core"]) - all / 1e3).abs() < 1e-6, "a second");
    // 12 frames: 4 slow ones of 32 tokens, and all of them as fast ones of 8.
    assert_eq!((&report["frames"], &report["video_tokens"]), (&12.into(), &224.into()));
    assert_eq!(report["resolution"], serde_json::json!([192, 144]));

    // Only a fifth of the frames is encoded, on every machine.
    let once = &report["encoded_once"];
    let of_window = ["frames", "stride", "windows"].map(|key| once[key].as_u64().expect(key));
    assert_eq!(of_window, [15, 3, 5]);
    assert_eq!(once["same_tokens"], true, "{once}");
    let ratio = positive(&once["ratio"]);
    assert!((0.1..0.3).contains(&ratio), "{once}");
    assert!(positive(&once["new_frames_cpu_ms"]) < positive(&once["all_frames_cpu_ms"]), "{once}");
}

#[test]
fn impossible_measurements_are_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.mp4");
    fs::write(&broken, &fs::read(clip("gate")).expect("the clip")[..4096]).expect("write");
    let path = |path: &Path| path.display().to_string();
    let (broken, nothing) = (path(&broken), path(&folder.path().join("nothing")));
    for (arguments, wanted) in [
        (["--package", &nothing], &[&*nothing][..]),
        (["--clip", &nothing], &["cannot play", &nothing, "No such file"]),
        (["--clip", &broken], &["cannot play", &broken]),
        (["--fps", "0"], &["fps = 0", "wanted 0.01 to 60"]),
        (["--caption-interval", "10ms"], &["caption_interval = \"10ms\"", "wanted at least"]),
    ] {
        let output = bench(&[&["stages"], &arguments[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(wanted.iter().all(|part| error.contains(part)), "{wanted:?}: {error}");
        assert_eq!(error.trim().lines().count(), 1, "{error}");
    }
}

#[test]
fn the_cost_of_more_questions_and_sequences_is_measured() {
    let report = report(&["language", "--rounds", "1", "--max-new-tokens", "2", "--json"]);
    assert!(positive(&report["prefix"]["eight_to_one"]) > 1.0, "{report}");
    positive(&report["prefix"]["cached_bytes"]);
    assert_eq!(report["prefix"]["same_answer_from_cache"], true);
    positive(&report["rules"]["caption_alone_seconds"]);
    let [rules, unlike] = ["rules", "unlike"].map(|set| &report["rules"][set]);
    for set in [rules, unlike] {
        positive(&set["both_to_caption"]);
        positive(&set["caption_after_seconds"]);
    }
    assert!(positive(&rules["tokens"]) < positive(&unlike["tokens"]), "{report}");
    let rows: Vec<_> = report["batch"].as_array().expect("rows").iter().collect();
    assert_eq!(
        rows.iter().map(|row| row["rows"].as_u64()).collect::<Vec<_>>(),
        [1, 2, 4, 8].map(Some)
    );
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second", "onnxruntime_seconds"] {
        positive(&report["share"][key]);
    }
    let (all, calls) =
        (&report["share"]["lookout_seconds"], &report["share"]["onnxruntime_seconds"]);
    let own = report["share"]["own"].as_object().expect("lookout's own work");
    let mut kinds: Vec<&str> = own.keys().map(String::as_str).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["inputs", "keys_and_values", "logits", "other", "prompt", "sampling"]);
    // One round, so that medians are the values themselves.
    let own: f64 = own.values().map(positive).sum();
    assert!((positive(all) - positive(calls) - own).abs() < 1e-6, "{report}");
}

#[test]
fn the_cost_of_a_schema_is_measured() {
    let costs = |costs: &Value| {
        for key in ["vocabulary", "prepare_seconds", "compile_seconds", "allowed_seconds"] {
            positive(&costs[key]);
        }
    };
    let few = ["--rounds", "1", "--max-new-tokens", "4", "--json"];
    let report = report(&[&["language", "--only", "schema"], &few[..]].concat());
    costs(&report["schema"]);
    positive(&report["schema"]["answers"]["ratio"]);
    let folder = format!("{}/tests/golden/tokenizers/llama_bos", env!("CARGO_MANIFEST_DIR"));
    costs(&self::report(&[&["language", "--tokenizer", &folder], &few[..]].concat()));
}

#[test]
fn a_device_is_measured_without_the_cpu() {
    let few =
        ["model", "--device", "cpu", "--device-only", "--rounds", "1", "--max-new-tokens", "4"];
    let report = report(&[&few[..], &["--json"]].concat());
    assert_eq!(report["pass"], true, "{report}");
    for (part, speed) in
        [("vision", "encode_seconds_per_frame"), ("language", "decode_tokens_per_second")]
    {
        let parts = report["parts"].as_array().expect("parts");
        let measured = parts.iter().find(|measured| measured["part"] == part).expect("the part");
        positive(&measured["device"]["speed"][speed]);
        assert!(measured.get("cpu").is_none(), "{measured}");
        assert!(measured["device"].get("parity").is_none(), "{measured}");
    }
}

#[test]
fn the_journal_is_measured() {
    let model = repository().join("target/embedding/all-MiniLM-L6-v2");
    let mut arguments = vec!["journal", "--events", "3000", "--json", "--jpeg-events", "200"];
    arguments.extend(["--jpeg-bytes", "9000,100", "--embedding"]);
    arguments.push(model.to_str().expect("UTF-8"));
    let report = report(&arguments);
    for (part, figure) in [
        ("append", "events_per_second"),
        ("append", "bytes_per_event"),
        ("replay", "events_per_second"),
        ("replay", "live"),
        ("list", "p95"),
    ] {
        positive(&report[part][figure]);
    }
    positive(&report["delay"]["memory"]["p50"]);
    positive(&report["delay"]["disk"]["p95"]);
    for journal in ["memory", "disk", "disk_with_jpegs"] {
        positive(&report["to_wire"][journal]["p95"]);
    }
    // Each caption has two frames that the one before does not have.
    let with_jpegs = &report["with_jpegs"][0];
    positive(&with_jpegs["events_per_second"]);
    let bytes = with_jpegs["bytes_per_event"].as_f64().expect("bytes");
    assert!(bytes > 2.0 * 9000.0 && bytes < 5.0 * 9000.0, "{report}");
    positive(&report["query_vector"]["p95"]);
    positive(&report["search"]["all"]["p95"]);
    positive(&report["search_by_meaning"]["meaning"]["p95"]);
    positive(&report["search_by_meaning"]["fused"]["p95"]);
    assert!(report["search_by_meaning"]["captions"].as_u64() >= Some(3_000), "{report}");
    for query in report["search"]["queries"].as_array().expect("queries") {
        match query["query"].as_str() {
            Some("car" | "red car") => assert_eq!(query["hits"], 50, "{query}"),
            Some("giraffe") => assert_eq!(query["hits"], 0, "{query}"),
            _ => {}
        }
    }
    let output = bench(&["journal", "--events", "1000", "--folder", "/proc/nothing"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("/proc/nothing"), "{error}");
}
