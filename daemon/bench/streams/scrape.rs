//! Reads back from a daemon's `/metrics` what its buffers and caches hold.

use std::collections::HashMap;

use crate::metrics::table::{
    BUFFER_BYTES, BUFFER_FRAMES, BUFFER_TOKEN_BYTES, FRAMES_EVICTED, PREFIX_CACHE_BYTES,
    PREFIX_CACHE_EVICTIONS, PREFIX_CACHE_LOOKUPS, REENCODE_CACHE_BYTES,
};
use crate::timeline::{Tier, Usage};

/// The contents of a daemon's buffers and caches. A value that has not been measured yet is 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The cameras' rolling buffers. `frames` is 0, because no metric reports it.
    pub buffers: Vec<Usage>,
    pub reencode_cache_bytes: u64,
    pub prefix_bytes: u64,
    pub prefix_evictions: u64,
    pub prefix_lookups: u64,
}

impl Contents {
    /// Parses the text of `/metrics` for these cameras.
    pub fn parse(metrics: &str, cameras: &[String]) -> Contents {
        let samples: HashMap<&str, f64> = metrics
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
            .collect();
        let value = |sample: &str| samples.get(sample).map_or(0, |value| *value as u64);
        let of = |camera: &String, name: &str| value(&format!("{name}{{camera=\"{camera}\"}}"));
        let tier = |camera: &String, tier: &str| {
            let of_tier = |name| value(&format!("{name}{{camera=\"{camera}\",tier=\"{tier}\"}}"));
            Tier { frames: of_tier(BUFFER_FRAMES.name) as usize, bytes: of_tier(BUFFER_BYTES.name) }
        };
        let usage = |camera| Usage {
            hot: tier(camera, "hot"),
            token_bytes: of(camera, BUFFER_TOKEN_BYTES.name),
            warm: tier(camera, "warm"),
            disk: tier(camera, "disk"),
            frames: 0,
            evicted: of(camera, FRAMES_EVICTED.name),
        };
        let looked_up = ["hit", "miss"]
            .map(|found| format!("{}{{result=\"{found}\"}}", PREFIX_CACHE_LOOKUPS.name));
        Contents {
            buffers: cameras.iter().map(usage).collect(),
            reencode_cache_bytes: value(REENCODE_CACHE_BYTES.name),
            prefix_bytes: value(PREFIX_CACHE_BYTES.name),
            prefix_evictions: value(PREFIX_CACHE_EVICTIONS.name),
            prefix_lookups: looked_up.iter().map(|sample| value(sample)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{
        BufferTier, buffer_tier, buffer_tokens, frames_evicted, prefix_cache, prefix_cache_lookup,
        reencode_cache, rendered,
    };

    #[test]
    fn recorded_metrics_are_read_back() {
        let usage = |bytes| Usage {
            hot: Tier { frames: 3, bytes },
            token_bytes: bytes / 2,
            warm: Tier { frames: 4, bytes: 5_000_000_000 },
            disk: Tier { frames: 7, bytes: 700 },
            frames: 0,
            evicted: 2,
        };
        let text = rendered(|| {
            for (camera, bytes) in [("gate-0", 100), ("yard-1", 200)] {
                let usage = usage(bytes);
                buffer_tier(camera, BufferTier::Hot, usage.hot.frames, usage.hot.bytes);
                buffer_tier(camera, BufferTier::Warm, usage.warm.frames, usage.warm.bytes);
                buffer_tier(camera, BufferTier::Disk, usage.disk.frames, usage.disk.bytes);
                buffer_tokens(camera, usage.token_bytes);
                frames_evicted(camera, 2);
            }
            reencode_cache(11);
            prefix_cache(12, 1, 13);
            for found in [true, false, false] {
                prefix_cache_lookup(found);
            }
        });
        let cameras = ["yard-1", "gate-0", "drive-2"].map(String::from);
        let contents = Contents::parse(&text, &cameras);
        let expected = Contents {
            buffers: vec![usage(200), usage(100), Usage::default()],
            reencode_cache_bytes: 11,
            prefix_bytes: 12,
            prefix_evictions: 13,
            prefix_lookups: 3,
        };
        assert_eq!(contents, expected, "{text}");
        assert_eq!(Contents::parse("# nothing\n", &[]), Contents::default());
    }
}
