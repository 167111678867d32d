//! The `[access]` table: who may use gRPC, HTTP and MCP.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use super::rules::in_range;

/// The limits of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// Number of questions, and of trials of rules, in a minute.
    pub questions_per_minute: NonZeroU32,
    /// Number of open streams.
    pub streams: usize,
}

/// The folder of the tokens and of the audit log, and the limits of each token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessControl {
    pub folder: PathBuf,
    pub limits: TokenLimits,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessTable {
    enabled: bool,
    folder: Option<PathBuf>,
    questions_per_minute: u32,
    streams: usize,
}

impl Default for AccessTable {
    fn default() -> AccessTable {
        AccessTable { enabled: false, folder: None, questions_per_minute: 60, streams: 32 }
    }
}

impl AccessTable {
    /// Returns the checked table, or `None` if access control is disabled.
    pub fn check(self, base: &Path) -> Result<Option<AccessControl>, ConfigError> {
        let folder = self.folder.unwrap_or_else(|| "/var/lib/lookout/access".into());
        let key = "access.questions_per_minute";
        let questions = in_range(key, self.questions_per_minute, 1..=10_000)?;
        let limits = TokenLimits {
            questions_per_minute: NonZeroU32::new(questions).unwrap_or(NonZeroU32::MIN),
            streams: in_range("access.streams", self.streams, 1..=1024)?,
        };
        let control = AccessControl { folder: base.join(folder), limits };
        Ok(self.enabled.then_some(control))
    }
}
