//! The `[journal]` table: where events are kept, and how long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::rules::{at_least, size_at_least};
use super::{Bytes, ConfigError};

/// Location and limits of the journal on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    pub folder: PathBuf,
    pub retention: Duration,
    pub bytes: Bytes,
    pub jpegs: Jpegs,
}

/// The frames whose JPEGs are stored with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Jpegs {
    /// All frames that the model saw.
    All,
    /// The frames that the model saw with many tokens.
    Slow,
    None,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JournalTable {
    folder: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    retention: Duration,
    bytes: Bytes,
    jpegs: Jpegs,
}

impl Default for JournalTable {
    fn default() -> JournalTable {
        let retention = Duration::from_secs(30 * 24 * 3600);
        JournalTable { folder: None, retention, bytes: Bytes::gib(10), jpegs: Jpegs::Slow }
    }
}

impl JournalTable {
    pub fn check(self, base: &Path) -> Result<Option<Journal>, ConfigError> {
        let retention = at_least("journal.retention", self.retention, Duration::from_secs(3600))?;
        let bytes = size_at_least("journal.bytes", self.bytes, Bytes::mib(1))?;
        let JournalTable { folder, jpegs, .. } = self;
        Ok(folder.map(|folder| Journal { folder: base.join(folder), retention, bytes, jpegs }))
    }
}
