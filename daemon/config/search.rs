//! The `[search]` table: the model of the search by meaning.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::rules::size_at_least;
use super::{Bytes, ConfigError};

/// The model of the search by meaning, and the memory for its vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Search {
    pub model: PathBuf,
    pub vector_bytes: Bytes,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchTable {
    model: Option<PathBuf>,
    vector_bytes: Bytes,
}

impl Default for SearchTable {
    fn default() -> SearchTable {
        SearchTable { model: None, vector_bytes: Bytes::mib(512) }
    }
}

impl SearchTable {
    /// Checks the table. `has_folder` is true if the journal is on disk.
    pub fn check(self, base: &Path, has_folder: bool) -> Result<Option<Search>, ConfigError> {
        let vector_bytes = size_at_least("search.vector_bytes", self.vector_bytes, Bytes::mib(1))?;
        if self.model.is_some() && !has_folder {
            return Err(ConfigError("search.model needs journal.folder: set both or none".into()));
        }
        Ok(self.model.map(|model| Search { model: base.join(model), vector_bytes }))
    }
}
