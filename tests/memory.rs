//! The rolling buffer holds as many bytes as it says: frames times bytes a frame, within 5 %.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use half::f16;
use lookout::frame::Clock;
use lookout::slowfast::{FrameTokens, Plan, TokenShape};
use lookout::timeline::{Entry, Limits, Ring};

const FRAMES: usize = 400;
const JPEG_BYTES: usize = 40_000;
/// Of a language model of half a billion parameters.
const DIM: usize = 896;

/// Resident memory of this process, bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("KiB") * 1024
}

#[test]
fn a_buffer_takes_frames_times_bytes_a_frame() {
    let plan: Plan = "paper".parse().expect("plan");
    let shape = TokenShape::of(&plan, 576, DIM).expect("shape");
    let entry = |number: u64| Entry {
        number,
        captured_at: SystemTime::UNIX_EPOCH + Duration::from_millis(500 * number),
        clock: Clock::Host,
        tokens: FrameTokens {
            slow: vec![f16::ONE; shape.slow_tokens * DIM].into(),
            fast: vec![f16::ONE; shape.fast_tokens * DIM].into(),
        },
        jpeg: Arc::from(vec![1u8; JPEG_BYTES]),
    };
    let near = |found: usize, wanted: usize| {
        let ratio = found as f64 / wanted as f64;
        assert!((ratio - 1.0).abs() < 0.05, "{found} bytes, wanted {wanted}: {ratio:.3}");
    };
    let before = resident();
    let age = Duration::from_millis(500 * (FRAMES as u64 - 1));
    let mut ring = Ring::new(Limits { age, bytes: usize::MAX });
    // Three times over, so that what has left must have been given back.
    for number in 0..3 * FRAMES as u64 {
        ring.push(entry(number));
    }
    let usage = ring.usage();
    assert_eq!(usage.frames, FRAMES);
    near(usage.bytes, FRAMES * (shape.frame_bytes() + JPEG_BYTES));
    near(resident() - before, usage.bytes);
    println!(
        "{FRAMES} frames of {} bytes: {} bytes said, {} resident",
        shape.frame_bytes() + JPEG_BYTES,
        usage.bytes,
        resident() - before
    );
}
