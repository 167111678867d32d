//! Inspects a folder for `lookout check`, without changing its frames.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::lock::lock;
use super::record::Names;
use super::segment::{self, End, Found};

/// The contents of a folder, for a caller that only inspects it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub frames: u64,
    pub bytes: u64,
    /// True if a daemon is using the folder.
    pub in_use: bool,
    /// Names of files that cannot be read.
    pub unreadable: Vec<String>,
}

/// Inspects a folder. Nothing is changed, except that the folder and its lock file are created if
/// they do not exist.
pub fn inspect(path: &Path) -> io::Result<Contents> {
    fs::create_dir_all(path)?;
    let mut contents = Contents::default();
    match lock(path) {
        Ok(lock) => drop(lock),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => contents.in_use = true,
        Err(error) => return Err(error),
    }
    let mut names = Names::default();
    for number in segment::numbers(path)?.0 {
        let Found { records, size, end, .. } = segment::read(path, number, &mut names);
        contents.frames += records.len() as u64;
        contents.bytes += size;
        if matches!(end, End::Failed(_)) || (records.is_empty() && size > 0) {
            contents.unreadable.push(format!("{number:012}.frames"));
        }
    }
    Ok(contents)
}
