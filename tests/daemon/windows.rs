//! Tests the check of windows in `support/windows.rs` on made events: it tells a window that was
//! skipped and counted from a lost one.

use serde_json::{Value, json};

use crate::support::windows::assert_windows_accounted_for;

/// Returns captions whose windows end at these seconds, each with the number of windows that were
/// skipped before it.
fn captions(of: &[(u64, u64)]) -> Vec<Value> {
    let caption = |(end, skipped): &(u64, u64)| {
        json!({
            "kind": "caption",
            "camera": "gate",
            "window": { "to": format!("2026-01-01T00:00:{end:02}Z") },
            "skipped_windows": skipped,
        })
    };
    of.iter().map(caption).collect()
}

fn counted(reason: &str, number: u64) -> String {
    format!("lookout_captions_skipped_total{{camera=\"gate\",reason=\"{reason}\"}} {number}\n")
}

#[test]
fn windows_without_a_gap_and_windows_skipped_and_counted_are_accepted() {
    let check =
        |of, metrics: &str| assert_windows_accounted_for(&captions(of), "gate", 4.0, metrics);
    assert_eq!(check(&[(4, 0), (5, 0), (9, 0), (13, 0)], ""), 0);
    let metrics = counted("late", 1) + &counted("replaced", 2);
    assert_eq!(check(&[(4, 0), (5, 0), (13, 1), (25, 2)], &metrics), 3);
    // The second window, which closes early, was skipped.
    assert_eq!(check(&[(4, 0), (9, 1), (13, 0), (17, 0)], &metrics), 1);
}

#[test]
#[should_panic(expected = "neither published nor counted")]
fn a_window_without_a_trace_is_lost() {
    let events = captions(&[(4, 0), (5, 0), (13, 0), (17, 0)]);
    assert_windows_accounted_for(&events, "gate", 4.0, "");
}

#[test]
#[should_panic(expected = "neither published nor counted")]
fn a_second_window_without_a_trace_is_lost() {
    let events = captions(&[(4, 0), (9, 0), (13, 0), (17, 0)]);
    assert_windows_accounted_for(&events, "gate", 4.0, "");
}

#[test]
#[should_panic(expected = "the captions count 2 skipped windows, the metrics 1")]
fn a_window_that_the_metrics_do_not_count_is_lost() {
    let events = captions(&[(4, 0), (5, 0), (9, 0), (21, 2)]);
    assert_windows_accounted_for(&events, "gate", 4.0, &counted("late", 1));
}

#[test]
#[should_panic(expected = "for another reason than load")]
fn a_failure_of_the_model_is_not_load() {
    let events = captions(&[(4, 0), (5, 0), (9, 0), (17, 1)]);
    assert_windows_accounted_for(&events, "gate", 4.0, &counted("model_failed", 1));
}
