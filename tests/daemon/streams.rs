//! Tests `lookout bench streams`, measured: a daemon of its own, real cameras, real questions, and
//! its memory report compared with the calculated sizes.

use std::process::Command;

use crate::support::*;
use serde_json::Value;

#[test]
fn the_bench_receives_captions_and_answers_and_reports_memory() {
    let mut command = Command::new(LOOKOUT);
    command.args(["bench", "streams", "--cameras", "2", "--for", "32s", "--json", "--disk"]);
    command.args([
        "--window",
        "4s",
        "--caption-interval",
        "2s",
        "--token-age",
        "8s",
        "--questions",
        "60",
    ]);
    let output = command.output().expect("lookout bench streams");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    println!("{report}");
    let row = &report["rows"][0];
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {row}"));
    assert!(number(&row["published"]) >= 10.0, "{row}");
    // At least half a question per second, with one per second on average.
    assert!(number(&row["answered"]) >= 16.0, "{row}");
    assert!(number(&row["answers"]["p95"]) > 0.0, "{row}");
    assert_eq!((&row["refused"], &row["unanswered"]), (&0.into(), &0.into()), "{errors}");

    assert!((0.5..=1.0).contains(&number(&row["frames"])), "{row}");

    let memory = |what: &str| number(&row["memory"][what]);
    // A grid of 8 × 8 gives 32 slow and 8 fast tokens, each of 160 values of 16 bits.
    let frame_bytes = (32.0 + 8.0) * 160.0 * 2.0;
    assert_eq!(memory("frame_bytes"), frame_bytes);
    let ratio = memory("token_bytes") / (memory("hot_frames") * frame_bytes);
    for ratio in [ratio, memory("token_ratio")] {
        assert!((ratio - 1.0).abs() < 0.05, "{ratio}: {row}");
    }
    // Two cameras at 2 frames per second: 8 s hot, 4 s more as JPEGs, all of them on disk.
    assert_eq!(memory("hot_frames_expected"), 34.0);
    let frames = memory("hot_frames");
    assert!((28.0..=34.0).contains(&frames), "{frames} frames: {row}");
    assert!(memory("warm_frames") > 0.0 && memory("warm_jpeg_bytes") > 0.0, "{row}");
    assert!(memory("disk_frames") > frames + memory("warm_frames"), "{row}");
    assert!(memory("prefix_bytes") > 0.0 && memory("journal_events") > 26.0, "{row}");
    assert!(memory("full_seconds") > 0.0, "it never became full: {row}");
    assert!(memory("rest") > 0.0 && memory("rest") < memory("resident"), "{row}");
}
