//! Tests that the daemon's metrics take no more memory over time if nobody scrapes them, as with
//! `http.enabled = false`.

use std::fs;
use std::time::Duration;

use lookout::metrics;

/// Samples of a round. They take 11 MB until they are folded into buckets.
const SAMPLES: u64 = 700_000;
/// Longer than the interval at which samples are folded.
const PAUSE: Duration = Duration::from_millis(5200);

/// Returns the resident memory of this process, bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("KiB") * 1024
}

#[tokio::test]
async fn samples_are_folded_although_nobody_scrapes_them() {
    let upkeep = tokio::spawn(metrics::upkeep(metrics::install().expect("the only recorder")));
    let mut after_round = Vec::new();
    for _ in 0..4 {
        for _ in 0..SAMPLES {
            metrics::stage("gate", metrics::Stage::Encode, Duration::from_millis(3));
        }
        tokio::time::sleep(PAUSE).await;
        after_round.push(resident());
    }
    assert!(!upkeep.is_finished());
    let grown = after_round[3].saturating_sub(after_round[0]);
    // Without the upkeep, three rounds take 34 MB.
    assert!(grown < 16_000_000, "{grown} bytes more after three rounds: {after_round:?}");
}
