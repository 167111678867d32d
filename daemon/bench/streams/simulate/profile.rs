//! A device's costs, as a profile file states them.

use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    /// True if vision and language share the device: time spent on vision is not available to
    /// language.
    pub shared: bool,
    pub cameras: Cameras,
    pub vision: Vision,
    pub language: Language,
    pub questions: Option<Questions>,
    /// The servers that run the language model, if it is not on the device.
    pub remote: Option<Remote>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cameras {
    pub fps: f64,
    #[serde(deserialize_with = "seconds")]
    pub caption_interval: f64,
    #[serde(deserialize_with = "seconds")]
    pub max_caption_delay: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vision {
    #[serde(deserialize_with = "seconds")]
    pub frame: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    pub video_tokens: u32,
    pub text_tokens: u32,
    pub new_tokens: u32,
    pub prefill_chunk: u32,
    pub prefill_per_second: f64,
    pub max_concurrent_sequences: usize,
    #[serde(deserialize_with = "seconds")]
    pub step: f64,
    #[serde(deserialize_with = "seconds")]
    pub row: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    pub a_minute: f64,
    pub new_tokens: u32,
}

/// Servers with the costs of [`Language`] each, and the network to them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    pub replicas: usize,
    /// Size of a token's embedding, numbers.
    pub width: u32,
    pub megabytes_per_second: f64,
    /// Time of a request besides its bytes.
    #[serde(deserialize_with = "seconds")]
    pub request: f64,
    #[serde(default)]
    pub outage: Vec<Outage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    pub replica: usize,
    #[serde(deserialize_with = "seconds")]
    pub at: f64,
    #[serde(rename = "for", deserialize_with = "seconds")]
    pub length: f64,
    /// Time until the requests are sent to another server.
    #[serde(deserialize_with = "seconds")]
    pub noticed_after: f64,
}

/// Bytes of a number in a request: 16 bits, as base64.
const NUMBER_BYTES: f64 = 2.0 * 4.0 / 3.0;

impl Remote {
    /// Returns the seconds for which a prompt of `tokens` tokens occupies the network.
    pub fn wire(&self, tokens: u32) -> f64 {
        let bytes = f64::from(tokens) * f64::from(self.width) * NUMBER_BYTES;
        bytes / (self.megabytes_per_second * 1e6)
    }
}

/// Parses a time as people write it, fractions included: "12ms", "0.3ms", "10s".
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let text = String::deserialize(from)?;
    let parsed = [("ms", 1e-3), ("s", 1.0), ("m", 60.0)].into_iter().find_map(|(unit, factor)| {
        text.trim().strip_suffix(unit)?.trim().parse().ok().map(|number: f64| number * factor)
    });
    match parsed {
        Some(time) if time.is_finite() && time > 0.0 => Ok(time),
        _ => Err(serde::de::Error::custom(format!("{text:?}; wanted a time like \"12ms\""))),
    }
}

impl Profile {
    pub fn read(file: &Path) -> anyhow::Result<Profile> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Profile::parse(&text).with_context(|| file.display().to_string())
    }

    pub fn parse(text: &str) -> anyhow::Result<Profile> {
        let profile: Profile = toml::from_str(text)?;
        let Language {
            prefill_chunk,
            prefill_per_second,
            max_concurrent_sequences,
            new_tokens,
            ..
        } = profile.language;
        let counts = [
            prefill_chunk as f64,
            prefill_per_second,
            max_concurrent_sequences as f64,
            new_tokens as f64,
        ];
        let is_positive = |count: &f64| *count > 0.0;
        if !counts.iter().chain([&profile.cameras.fps]).all(is_positive) {
            bail!(
                "fps, prefill_chunk, prefill_per_second, max_concurrent_sequences and new_tokens \
                 must be above 0"
            );
        }
        let Some(remote) = &profile.remote else { return Ok(profile) };
        if profile.shared {
            bail!(
                "shared is true, but [remote] puts the language model elsewhere: set it to false"
            );
        }
        if ![remote.replicas as f64, remote.megabytes_per_second].iter().all(is_positive) {
            bail!("[remote] replicas and megabytes_per_second must be above 0");
        }
        if let Some(outage) = remote.outage.iter().find(|outage| outage.replica >= remote.replicas)
        {
            bail!(
                "[[remote.outage]] replica is {}; with replicas = {} the last one is {}",
                outage.replica,
                remote.replicas,
                remote.replicas - 1
            );
        }
        Ok(profile)
    }

    /// Returns the share of the device that vision takes.
    pub fn vision_load(&self, cameras: usize) -> f64 {
        cameras as f64 * self.cameras.fps * self.vision.frame
    }
}
