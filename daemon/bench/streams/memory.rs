//! Measures the daemon's memory while it watches: the size that each tier reports, compared with
//! the calculated size, and the growth once everything is full.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::Row;
use super::scrape::Contents;

/// Time between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest time over which growth is meaningful, in seconds.
const LEAST_SECONDS: f64 = 30.0;

/// One sample of the daemon's memory.
pub struct Sample {
    /// Resident memory, bytes.
    pub resident: f64,
    pub full: bool,
}

/// Returns true if everything bounded is full, so that each addition evicts something: the rolling
/// buffer of each camera and the prefix cache.
pub fn is_full(contents: &Contents) -> bool {
    // A frame leaves memory last: it is dropped, or it remains on disk, where it already was.
    let buffers = contents.buffers.iter().all(|buffer| {
        buffer.evicted > 0 || buffer.disk.frames > buffer.hot.frames + buffer.warm.frames
    });
    // If one prefix is too large for the cache, none is kept.
    let none_fits = contents.prefix_lookups > 0 && contents.prefix_bytes == 0;
    buffers && (contents.prefix_evictions > 0 || none_fits)
}

/// Calculated contents of the buffers.
#[derive(Clone, Copy)]
pub struct Expected {
    /// Tokens of one frame under the plan, bytes.
    pub frame_bytes: usize,
    /// Number of frames with tokens, by age and fps, of all cameras.
    pub hot_frames: usize,
}

/// Memory at the end of a run, in bytes, of all cameras.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    pub resident: f64,
    /// Growth of resident memory per minute while everything was full, or `None` if that time was
    /// too short.
    pub growth: Option<f64>,
    /// Seconds for which everything was full; 0 if it was still filling.
    pub full_seconds: f64,
    pub hot_frames: usize,
    /// Calculated number of hot frames, by age and fps.
    pub hot_frames_expected: usize,
    pub token_bytes: u64,
    /// Bytes of one frame's tokens, by the plan and the model.
    pub frame_bytes: usize,
    /// `token_bytes` divided by hot frames × `frame_bytes`.
    pub token_ratio: Option<f64>,
    /// JPEGs and identifiers of the frames in the hot tier.
    pub hot_jpeg_bytes: u64,
    pub warm_frames: usize,
    pub warm_jpeg_bytes: u64,
    pub reencode_cache_bytes: u64,
    pub prefix_bytes: u64,
    /// All other resident memory: the model, the KV cache, decoders, the journal.
    pub rest: f64,
    pub disk_frames: usize,
    pub disk_bytes: u64,
    /// Number of events in the journal, at most 10,000.
    pub journal_events: u64,
}

impl Memory {
    /// Builds the report from the samples and the daemon's last metrics. `events` is the number of
    /// journal events.
    pub fn of(samples: &[Sample], contents: &Contents, expected: Expected, events: u64) -> Memory {
        let steady = steady(samples);
        let full_seconds = SAMPLE_INTERVAL.as_secs_f64() * steady.len().saturating_sub(1) as f64;
        let growth = slope(steady).filter(|_| full_seconds >= LEAST_SECONDS);
        let sum =
            |of: fn(&crate::timeline::Usage) -> u64| contents.buffers.iter().map(of).sum::<u64>();
        let (hot_frames, hot_bytes) = (sum(|b| b.hot.frames as u64) as usize, sum(|b| b.hot.bytes));
        let (token_bytes, warm_jpeg_bytes) = (sum(|b| b.token_bytes), sum(|b| b.warm.bytes));
        let resident = samples.last().map_or(0.0, |sample| sample.resident);
        let reported =
            hot_bytes + warm_jpeg_bytes + contents.reencode_cache_bytes + contents.prefix_bytes;
        let arithmetic = (hot_frames * expected.frame_bytes) as f64;
        Memory {
            resident,
            growth: growth.map(|per_sample| per_sample * 60.0 / SAMPLE_INTERVAL.as_secs_f64()),
            full_seconds,
            hot_frames,
            hot_frames_expected: expected.hot_frames,
            token_bytes,
            frame_bytes: expected.frame_bytes,
            token_ratio: (arithmetic > 0.0).then(|| token_bytes as f64 / arithmetic),
            hot_jpeg_bytes: hot_bytes.saturating_sub(token_bytes),
            warm_frames: sum(|b| b.warm.frames as u64) as usize,
            warm_jpeg_bytes,
            reencode_cache_bytes: contents.reencode_cache_bytes,
            prefix_bytes: contents.prefix_bytes,
            rest: resident - reported as f64,
            disk_frames: sum(|b| b.disk.frames as u64) as usize,
            disk_bytes: sum(|b| b.disk.bytes),
            journal_events: events.min(crate::journal::CAPACITY as u64),
        }
    }
}

/// Returns the samples at the end in which everything was full.
fn steady(samples: &[Sample]) -> &[Sample] {
    let filling = samples.iter().rposition(|sample| !sample.full);
    &samples[filling.map_or(0, |last| last + 1)..]
}

/// Returns the least-squares slope, in bytes from one sample to the next.
fn slope(samples: &[Sample]) -> Option<f64> {
    let n = samples.len() as f64;
    let middle = (n - 1.0) / 2.0;
    let mean = samples.iter().map(|sample| sample.resident).sum::<f64>() / n;
    let apart = |i: usize| i as f64 - middle;
    let over: f64 =
        samples.iter().enumerate().map(|(i, sample)| apart(i) * (sample.resident - mean)).sum();
    let under: f64 = (0..samples.len()).map(|i| apart(i).powi(2)).sum();
    (samples.len() > 1).then(|| over / under)
}

/// Formats the table below the main one; empty if nothing was measured.
pub fn table(rows: &[Row]) -> String {
    let Some(first) = rows.iter().find_map(|row| row.memory.as_ref()) else {
        return String::new();
    };
    let mut text = format!(
        "\nMemory at the end, MB. A frame's tokens: {} bytes by plan and model.\n\n\
         | cameras | resident | grows/min, all full | hot frames | expected | their tokens \
         | of frames × bytes | their JPEGs | warm JPEGs | re-encoded | prefixes |  rest | disk | events |\n\
         |--------:|---------:|--------------------:|-----------:|---------:|-------------:\
         |----------------------:|------------:|-----------:|-----------:|---------:|------:|-----:|-------:|\n",
        first.frame_bytes
    );
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    for (cameras, memory) in rows.iter().filter_map(|row| Some((row.cameras, row.memory.as_ref()?)))
    {
        let growth = match memory.growth {
            Some(growth) => format!("{:+.1} over {:.0} s", growth / 1e6, memory.full_seconds),
            None if memory.full_seconds > 0.0 => {
                format!("full for {:.0} s only", memory.full_seconds)
            }
            None => "still filling".into(),
        };
        let ratio = memory.token_ratio.map_or("–".into(), |ratio| format!("{ratio:.3}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {cameras:7} | {:>8.1} | {growth:>19} | {:>10} | {:>8} | {:>12} | {ratio:>21} | {:>11} \
             | {:>10} | {:>10} | {:>8} | {:>5.1} | {:>4} | {:>6} |",
            memory.resident / 1e6,
            memory.hot_frames,
            memory.hot_frames_expected,
            mb(memory.token_bytes),
            mb(memory.hot_jpeg_bytes),
            mb(memory.warm_jpeg_bytes),
            mb(memory.reencode_cache_bytes),
            mb(memory.prefix_bytes),
            memory.rest / 1e6,
            mb(memory.disk_bytes),
            memory.journal_events,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Tier, Usage};

    fn samples(of: &[(f64, bool)]) -> Vec<Sample> {
        of.iter().map(|(resident, full)| Sample { resident: *resident, full: *full }).collect()
    }

    fn filled() -> Contents {
        let buffer = Usage {
            hot: Tier { frames: 10, bytes: 1500 },
            token_bytes: 1000,
            warm: Tier { frames: 5, bytes: 250 },
            evicted: 1,
            ..Usage::default()
        };
        Contents {
            buffers: vec![buffer, buffer],
            prefix_bytes: 300,
            prefix_evictions: 1,
            prefix_lookups: 9,
            ..Contents::default()
        }
    }

    #[test]
    fn a_buffer_is_full_once_each_new_frame_evicts_one() {
        assert!(is_full(&filled()));
        assert!(!is_full(&Contents { prefix_evictions: 0, ..filled() }));
        // No prefix fits in the cache, and nothing has been looked up yet.
        let none = Contents { prefix_evictions: 0, prefix_bytes: 0, ..filled() };
        assert!(is_full(&none));
        assert!(!is_full(&Contents { prefix_lookups: 0, ..none }));
        let mut one_fills = filled();
        one_fills.buffers[1].evicted = 0;
        assert!(!is_full(&one_fills));
        // With a disk, its JPEG has left memory but not the buffer.
        one_fills.buffers[1].disk = Tier { frames: 15, bytes: 9 };
        assert!(!is_full(&one_fills));
        one_fills.buffers[1].disk.frames += 1;
        assert!(is_full(&one_fills));
    }

    #[test]
    fn growth_is_measured_after_all_buffers_are_full() {
        let expected = Expected { frame_bytes: 100, hot_frames: 22 };
        let mut of = vec![(0.0, false), (1e6, true), (2e6, false)];
        of.extend((0..10).map(|i| (3e6 + 10.0 * f64::from(i), true)));
        let short = Memory::of(&samples(&of), &filled(), expected, 3);
        assert_eq!((short.full_seconds, short.growth), (18.0, None));
        of.extend((10..20).map(|i| (3e6 + 10.0 * f64::from(i), true)));
        let memory = Memory::of(&samples(&of), &filled(), expected, 20_000);
        assert_eq!(memory.full_seconds, 38.0);
        // 10 bytes in 2 s.
        assert!(memory.growth.is_some_and(|growth| (growth - 300.0).abs() < 1e-6), "{memory:?}");
        assert_eq!((memory.hot_frames, memory.token_ratio), (20, Some(1.0)));
        assert_eq!((memory.hot_jpeg_bytes, memory.warm_jpeg_bytes), (1000, 500));
        assert_eq!(memory.rest, 3e6 + 190.0 - 3800.0);
        assert_eq!(memory.journal_events, 10_000);
        of.push((4e6, false));
        let filling = Memory::of(&samples(&of), &filled(), expected, 3);
        assert_eq!((filling.full_seconds, filling.growth), (0.0, None));
    }

    #[test]
    fn the_slope_of_a_line_is_found() {
        let of = |values: &[f64]| {
            slope(&samples(&values.iter().map(|v| (*v, true)).collect::<Vec<_>>()))
        };
        assert_eq!(of(&[1.0, 3.0, 5.0, 7.0]), Some(2.0));
        assert_eq!(of(&[4.0, 4.0, 4.0]), Some(0.0));
        assert_eq!(of(&[4.0]), None);
    }

    #[test]
    fn the_table_marks_unknown_values() {
        let expected = Expected { frame_bytes: 100, hot_frames: 22 };
        let row = |of: &[(f64, bool)]| {
            let memory = Some(Memory::of(&samples(of), &filled(), expected, 3));
            Row { cameras: 2, memory, ..Row::default() }
        };
        assert_eq!(table(&[Row::default()]), "");
        let text = table(&[row(&[(1.0, false)]), row(&[(1.0, true), (1.0, true)])]);
        for cell in ["still filling |", "full for 2 s only |", " 1.000 |", " 22 |"] {
            assert!(text.contains(cell), "{cell:?} is not in {text}");
        }
    }
}
