//! Tests that the rolling buffer takes as many bytes as it reports, in each memory tier: frames
//! times bytes per frame, within 5 %. Not here: the disk tier, see `tests/daemon/buffer_tiers.rs`.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use half::f16;
use lookout::frame::{Clock, FrameId};
use lookout::slowfast::{FrameTokens, Plan, TokenShape};
use lookout::timeline::{DiskState, Entry, Limits, Residency, Ring};

const FRAMES: usize = 400;
/// Number of frames with only their JPEG.
const WARM_FRAMES: usize = 1000;
const JPEG_BYTES: usize = 40_000;
/// Embedding size of a language model with half a billion parameters.
const DIM: usize = 896;

/// Returns the resident memory of this process, bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("KiB") * 1024
}

#[test]
fn a_buffer_takes_frames_times_bytes_per_frame() {
    let plan: Plan = "paper".parse().expect("plan");
    let shape = TokenShape::of(&plan, 576, DIM).expect("shape");
    let entry = |number: u64| Entry {
        id: FrameId { run: 1, number },
        monotonic: Duration::from_millis(500 * number),
        captured_at: SystemTime::UNIX_EPOCH + Duration::from_millis(500 * number),
        clock: Clock::Host,
        residency: Residency::Hot {
            tokens: Arc::new(FrameTokens {
                slow: vec![f16::ONE; shape.slow_tokens * DIM].into(),
                fast: vec![f16::ONE; shape.fast_tokens * DIM].into(),
            }),
            jpeg: Arc::from(vec![1u8; JPEG_BYTES]),
        },
        disk_state: DiskState::Absent,
        left_before: None,
    };
    let near = |found: usize, wanted: usize| {
        let ratio = found as f64 / wanted as f64;
        assert!((ratio - 1.0).abs() < 0.05, "{found} bytes, wanted {wanted}: {ratio:.3}");
    };
    let before = resident();
    let age = |frames: usize| Duration::from_millis(500 * (frames as u64 - 1));
    let mut ring = Ring::new(Limits {
        hot_age: age(FRAMES),
        hot_bytes: usize::MAX,
        warm_age: age(FRAMES + WARM_FRAMES),
        warm_bytes: usize::MAX,
    });
    // Three times as many frames as fit, so that the memory of evicted frames must have been freed.
    for number in 0..3 * (FRAMES + WARM_FRAMES) as u64 {
        ring.push(entry(number));
    }
    let usage = ring.usage();
    assert_eq!((usage.hot.frames, usage.warm.frames), (FRAMES, WARM_FRAMES));
    let (hot, warm) = (usage.hot.bytes as usize, usage.warm.bytes as usize);
    near(hot, FRAMES * (shape.frame_bytes() + JPEG_BYTES));
    near(warm, WARM_FRAMES * JPEG_BYTES);
    near(resident() - before, hot + warm);
    println!(
        "{FRAMES} hot frames: {hot} bytes said; {WARM_FRAMES} warm: {warm}; {} resident",
        resident() - before
    );
}
