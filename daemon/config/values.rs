//! Small values that a config holds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A count of bytes, written `"256 MiB"`.
pub type Bytes = bytesize::ByteSize;

/// A password: never printed, read again whenever it is needed, so that a changed file counts.
#[derive(Clone)]
pub enum Secret {
    File(PathBuf),
    /// It stood in the URL.
    Inline(String),
}

impl Secret {
    /// The secret itself, without the line end that editors leave.
    pub fn read(&self) -> io::Result<String> {
        match self {
            Secret::File(path) => read_secret_file(path),
            Secret::Inline(secret) => Ok(secret.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::File(path) => write!(f, "(in {})", path.display()),
            Secret::Inline(_) => f.write_str("(hidden)"),
        }
    }
}

pub fn read_secret_file(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)
        .map_err(|e| io::Error::new(e.kind(), format!("password file {}: {e}", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}
