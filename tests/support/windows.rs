//! Checks that each window of a camera has a caption, or was skipped for lack of time and counted.

use super::*;

const SKIPPED: &str = "lookout_captions_skipped_total";

/// The reasons for which a loaded machine skips a window. With `evicted` its frames were dropped,
/// because the vision worker was behind.
const REASONS_OF_LOAD: [&str; 3] = ["late", "replaced", "evicted"];

/// Checks that the windows of a camera end `every` seconds apart. A window may lack a caption only if
/// a loaded machine skipped it: the next caption and `metrics`, the text of `/metrics`, both count
/// it. Returns the number of windows that the captions count as skipped.
pub fn assert_windows_accounted_for(
    events: &[Value],
    camera: &str,
    every: f64,
    metrics: &str,
) -> u64 {
    let captions: Vec<(f64, u64)> = events
        .iter()
        .filter(|event| is_caption(event, camera))
        .map(|event| {
            let skipped = event["skipped_windows"].as_u64().expect("a number");
            (seconds(&event["window"]["to"]), skipped)
        })
        .collect();
    assert!(captions.len() >= 4, "{camera}: only {} captions", captions.len());
    for (at, pair) in captions.windows(2).enumerate() {
        let (step, wanted) = (pair[1].0 - pair[0].0, every * (1 + pair[1].1) as f64);
        // The second window closes early, which moves the camera to its own offset within
        // `caption_interval`.
        let follows =
            if at == 0 { step > 0.0 && step < wanted + 0.01 } else { (step - wanted).abs() < 0.01 };
        assert!(
            follows,
            "{camera}: a window is neither published nor counted as skipped; windows end at, with \
             skipped ones before: {captions:?}"
        );
    }
    let skipped = captions.iter().map(|(_, skipped)| skipped).sum();
    let label = format!("camera=\"{camera}\"");
    let lines = metrics.lines().filter(|line| line.starts_with(SKIPPED) && line.contains(&label));
    let mut counted = 0.0;
    for line in lines {
        let is_load =
            REASONS_OF_LOAD.iter().any(|reason| line.contains(&format!("reason=\"{reason}\"")));
        assert!(is_load, "{camera}: a window was skipped for another reason than load: {line}");
        let number: Option<f64> = line.rsplit(' ').next().and_then(|number| number.parse().ok());
        counted += number.unwrap_or_else(|| panic!("{line:?} has no value"));
    }
    assert!(
        skipped as f64 <= counted,
        "{camera}: the captions count {skipped} skipped windows, the metrics {counted}"
    );
    skipped
}

/// Checks that most windows of a camera have a caption, and that the others are accounted for.
pub fn assert_most_windows_have_captions(
    events: &[Value],
    camera: &str,
    every: f64,
    metrics: &str,
) {
    let skipped = assert_windows_accounted_for(events, camera, every, metrics);
    let captions = events.iter().filter(|event| is_caption(event, camera)).count() as u64;
    assert!(skipped < captions, "{camera}: {captions} captions, {skipped} skipped windows");
}
