//! The `[buffer]` table: the rolling buffer of each camera, and its disk tier.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::rules::{at_least, in_range, invalid, shown, size_at_least};
use super::{Bytes, Camera, ConfigError, Rule};

/// Limits of each camera's rolling buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Limits for frames with tokens.
    pub token_age: Duration,
    pub token_bytes: Bytes,
    /// Limits for frames that have a JPEG but no tokens any more.
    pub jpeg_age: Duration,
    pub jpeg_bytes: Bytes,
    /// Limit for the tokens of re-encoded frames, shared by all cameras.
    pub reencode_cache_bytes: Bytes,
    /// Limit for full-size frames that wait to be encoded, shared by all cameras.
    pub inbox_bytes: Bytes,
    /// Limits for each camera's encoded stream, which is held for the clips of alerts.
    pub encoded_age: Duration,
    pub encoded_bytes: Bytes,
    pub disk: Option<Disk>,
    /// Maximum width in pixels of each frame's JPEG.
    pub jpeg_width: u32,
    pub jpeg_quality: u8,
}

/// The disk tier, shared by all cameras: frames that outlive memory and the daemon.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    pub folder: PathBuf,
    pub retention: Duration,
    pub bytes: Bytes,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BufferTable {
    #[serde(with = "humantime_serde")]
    token_age: Duration,
    token_bytes: Bytes,
    #[serde(with = "humantime_serde")]
    jpeg_age: Duration,
    jpeg_bytes: Bytes,
    reencode_cache_bytes: Bytes,
    inbox_bytes: Bytes,
    #[serde(with = "humantime_serde")]
    encoded_age: Duration,
    encoded_bytes: Bytes,
    jpeg_width: u32,
    jpeg_quality: u8,
    disk: DiskTable,
}

/// The table `[buffer.disk]` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DiskTable {
    folder: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    retention: Duration,
    bytes: Bytes,
}

impl Default for BufferTable {
    fn default() -> BufferTable {
        BufferTable {
            token_age: Duration::from_secs(600),
            token_bytes: Bytes::gib(1),
            jpeg_age: Duration::from_secs(3600),
            jpeg_bytes: Bytes::mib(256),
            reencode_cache_bytes: Bytes::mib(256),
            inbox_bytes: Bytes::mib(512),
            encoded_age: Duration::from_secs(120),
            encoded_bytes: Bytes::mib(64),
            jpeg_width: 640,
            jpeg_quality: 80,
            disk: DiskTable::default(),
        }
    }
}

impl Default for DiskTable {
    fn default() -> DiskTable {
        let retention = Duration::from_secs(24 * 3600);
        DiskTable { folder: None, retention, bytes: Bytes::gib(10) }
    }
}

impl BufferTable {
    pub fn check(self, folder: &Path) -> Result<Buffer, ConfigError> {
        // The smallest inbox takes a frame of 1920 × 1080.
        let inbox_bytes = size_at_least("buffer.inbox_bytes", self.inbox_bytes, Bytes::mib(8))?;
        Ok(Buffer {
            token_age: at_least("buffer.token_age", self.token_age, Duration::ZERO)?,
            token_bytes: size_at_least("buffer.token_bytes", self.token_bytes, Bytes::mib(1))?,
            jpeg_age: at_least("buffer.jpeg_age", self.jpeg_age, Duration::ZERO)?,
            jpeg_bytes: self.jpeg_bytes,
            reencode_cache_bytes: self.reencode_cache_bytes,
            inbox_bytes,
            encoded_age: at_least("buffer.encoded_age", self.encoded_age, Duration::ZERO)?,
            encoded_bytes: size_at_least(
                "buffer.encoded_bytes",
                self.encoded_bytes,
                Bytes::mib(1),
            )?,
            disk: self.disk.check(folder)?,
            jpeg_width: in_range("buffer.jpeg_width", self.jpeg_width, 32..=8192)?,
            jpeg_quality: in_range("buffer.jpeg_quality", self.jpeg_quality, 1..=100)?,
        })
    }
}

impl Buffer {
    /// Checks that the tokens of a camera's whole window are held until it is captioned.
    pub fn check_windows(&self, cameras: &[Camera]) -> Result<(), ConfigError> {
        for camera in cameras {
            let least = camera.window + camera.caption_interval;
            if self.token_age < least {
                let wanted = format!(
                    "at least {}, the window and the caption_interval of camera {:?}",
                    shown(least),
                    camera.name
                );
                return Err(invalid("buffer.token_age", shown(self.token_age), wanted));
            }
        }
        Ok(())
    }

    /// Checks that the encoded streams reach back far enough for the clips of rules. A clip is
    /// planned when an alert begins, and reaches back to before its first window.
    pub fn check_clips(&self, rules: &[Rule], cameras: &[Camera]) -> Result<(), ConfigError> {
        for rule in rules {
            let Some(clip) = rule.clip else { continue };
            let among = u32::try_from(rule.thresholds.among).unwrap_or(u32::MAX);
            for camera in cameras.iter().filter(|camera| rule.applies_to(&camera.name)) {
                let until_alert = camera.caption_interval.saturating_mul(among);
                let least = clip.before + camera.window + until_alert;
                if self.encoded_age < least {
                    let (found, least) = (shown(self.encoded_age), shown(least));
                    let (rule, camera) = (&rule.name, &camera.name);
                    let wanted = format!(
                        "at least {least}, for clips of the rule {rule:?} on the camera {camera:?}"
                    );
                    return Err(invalid("buffer.encoded_age", found, wanted));
                }
            }
        }
        Ok(())
    }
}

impl DiskTable {
    fn check(self, base: &Path) -> Result<Option<Disk>, ConfigError> {
        let second = Duration::from_secs(1);
        let retention = at_least("buffer.disk.retention", self.retention, second)?;
        let bytes = size_at_least("buffer.disk.bytes", self.bytes, Bytes::mib(1))?;
        Ok(self.folder.map(|folder| Disk { folder: base.join(folder), retention, bytes }))
    }
}
