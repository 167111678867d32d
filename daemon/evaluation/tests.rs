//! Tests the comparison with labels.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::calibration::{error, fit, reliability, rescaled};
use super::chart::Chart;
use super::labels::Labels;
use super::*;
use crate::rules::calibration::with_temperature;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn thresholds(needed: usize, among: usize) -> Thresholds {
    let (cooldown, hold) = (Duration::ZERO, Duration::from_secs(60));
    Thresholds { on: 0.8, off: 0.4, needed, among, cooldown, hold }
}

/// Makes windows: a letter of `scores` is `+` for 0.9, `-` for 0.1 and `?` for none, one of `truths`
/// is `t`, `f` or `?`.
fn judged(scores: &str, truths: &str) -> Vec<Judged> {
    let window = |(at_window, (score, truth)): (u64, (char, char))| Judged {
        window: Span { from: at(at_window * 4), to: at(at_window * 4 + 8) },
        score: match score {
            '+' => Some(0.9),
            '-' => Some(0.1),
            _ => None,
        },
        truth: match truth {
            't' => Some(true),
            'f' => Some(false),
            _ => None,
        },
    };
    (0..).zip(scores.chars().zip(truths.chars())).map(window).collect()
}

fn counted(right: usize, wrong: usize, missed: usize) -> Counts {
    Counts { right, wrong, missed }
}

#[test]
fn windows_and_alerts_are_compared_with_labels() {
    let all = judged("++--++----+", "tf?fffttff?");
    assert_eq!(windows(&known(&all), 0.8), counted(1, 3, 2));
    assert_eq!(alerts(&all, thresholds(1, 1)), counted(1, 1, 1), "the last has no label");
    assert_eq!(alerts(&judged("++--", "ttff"), thresholds(2, 2)), counted(1, 0, 0));
    assert_eq!(alerts(&judged("----", "ttff"), thresholds(2, 2)), counted(0, 0, 1));
    // One true window of two is too short for an alert that needs two.
    assert_eq!(alerts(&judged("----", "tfff"), thresholds(2, 2)), counted(0, 0, 0));
    // Nobody can find what no window shows.
    assert_eq!(alerts(&judged("??--", "ttff"), thresholds(1, 1)), counted(0, 0, 0));
    let counts = counted(3, 1, 2);
    assert_eq!((counts.precision(), counts.recall()), (Some(0.75), Some(0.6)));
    assert_eq!(Counts::default().precision(), None);
}

#[test]
fn the_best_threshold_lies_between_the_true_and_the_false() {
    let known = [(0.1, false), (0.3, false), (0.35, false), (0.65, true), (0.7, true)];
    assert_eq!(best_threshold(&known), Some(0.5));
    assert_eq!(best_threshold(&[(0.4, false)]), None);
    assert_eq!(best_threshold(&[]), None);
}

#[test]
fn calibrated_scores_have_no_error_and_others_have() {
    // Of ten windows with a score of 0.8, eight are true.
    let calibrated: Vec<(f64, bool)> = (0..10).map(|number| (0.8, number < 8)).collect();
    assert!(error(&reliability(&calibrated)) < 1e-9);
    let too_sure: Vec<(f64, bool)> = (0..10).map(|number| (0.99, number < 8)).collect();
    let bins = reliability(&too_sure);
    assert_eq!((bins.len(), bins[0].windows), (1, 10));
    assert!((error(&bins) - 0.19).abs() < 1e-9);
    assert_eq!(error(&reliability(&[(1.0, true), (0.0, false)])), 0.0);
}

proptest! {
    /// Truths are drawn from scores, which are then made too sure. The fit finds by how much.
    #[test]
    fn the_fit_finds_the_temperature(temperature in 0.3..4.0f64, present in 0.5..2.0f64) {
        let mut known = Vec::new();
        for step in 1..20 {
            let raw = with_temperature(f64::from(step) / 20.0, 1.0 / temperature);
            let shown = with_temperature(raw, present);
            // 20 windows with this score, of which the right share is true.
            known.extend((0..20).map(|number| (shown, number < step)));
        }
        let found = fit(&known, present).expect("both true and false ones");
        prop_assert!((found / temperature - 1.0).abs() < 0.02, "{found} {temperature}");
        let after = error(&reliability(&rescaled(&known, present, found)));
        prop_assert!(after < 0.01, "{after}");
    }
}

fn labels(text: &str) -> Result<Labels, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path: PathBuf = folder.path().join("labels.json");
    std::fs::write(&path, text).expect("written");
    Labels::read(&path, "gate").map_err(|error| error.to_string())
}

#[test]
fn a_window_gets_its_label_from_the_spans() {
    let labels = labels(
        r#"{"labels": [
            {"camera": "gate", "from": "1970-01-12T13:46:50Z", "to": "1970-01-12T13:47:00Z", "value": true},
            {"camera": "gate", "from": "1970-01-12T13:46:40Z", "to": "1970-01-12T13:46:50Z", "value": false},
            {"camera": "gate", "from": "1970-01-12T13:47:00Z", "to": "1970-01-12T13:47:10Z", "value": false},
            {"camera": "yard", "from": "1970-01-12T13:46:40Z", "to": "1970-01-12T13:47:40Z", "value": true}
        ]}"#,
    );
    let labels = labels.expect("labels");
    let truth = |from, to| labels.truth("gate", Span { from: at(from), to: at(to) });
    assert_eq!(truth(0, 8), Some(false));
    assert_eq!(truth(3, 11), Some(true));
    assert_eq!(truth(12, 20), Some(true));
    assert_eq!(truth(20, 28), Some(false));
    assert_eq!(truth(24, 32), None, "no label from 30 s on");
    let half = Duration::from_millis(500);
    let edge = Span { from: at(3), to: at(10) + half };
    assert_eq!(labels.truth("gate", edge), None, "half a second is less than least_seconds");
}

#[test]
fn a_wrong_file_of_labels_is_refused() {
    for (text, wanted) in [
        ("{}", "missing field `labels`"),
        (r#"{"labels": []}"#, "no label is about the camera \"gate\""),
        (r#"{"labels": [], "most": 1}"#, "unknown field `most`"),
        (
            r#"{"labels": [{"camera": "gate", "from": "noon", "to": "", "value": true}]}"#,
            "\"noon\": wanted",
        ),
    ] {
        let error = labels(text).expect_err("refused");
        assert!(error.contains(wanted) && error.contains("labels.json: "), "{error}");
    }
}

#[test]
fn a_chart_shows_scores_alerts_and_gaps() {
    let scores = [(at(8), Some(0.1)), (at(12), Some(0.9)), (at(16), None), (at(20), Some(0.5))];
    let chart = Chart {
        title: "car on <gate>",
        span: Span { from: at(0), to: at(20) },
        thresholds: thresholds(2, 3),
        scores: &scores,
        alerts: &[Span { from: at(12), to: at(16) }],
    };
    let svg = chart.svg();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("car on &lt;gate&gt;"));
    assert_eq!(svg.matches("<title>alert</title>").count(), 1);
    assert_eq!(svg.matches("<title>no score</title>").count(), 1);
    assert_eq!(svg.matches("stroke=\"#1f77b4\"").count(), 2, "the gap interrupts the curve");
}
