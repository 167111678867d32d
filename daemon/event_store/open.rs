//! Opens the database in its folder, for one daemon at a time. A corrupt one is set aside.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::SystemTime;

use super::database::Database;
use super::file::{OpenFile, set_aside};
use super::values::StoreError;
use crate::event::{Event, EventId};

/// A database in use.
pub struct Opened {
    pub database: Database,
    /// The newest run that has an event or the position of a reader.
    pub newest_run: Option<u64>,
    /// The positions of named readers.
    pub positions: Vec<(String, EventId)>,
    /// Each camera's newest caption that is not `unchanged`.
    pub captions: Vec<Event>,
    /// Names a corrupt database that was set aside, or one that was removed.
    pub notice: Option<String>,
    /// The file, to see whether it is still in its place.
    pub file: OpenFile,
    /// Keeps other daemons out of the folder.
    _lock: File,
}

/// Opens or creates the database, and sets a corrupt one aside. `corrupt` is the reason why the
/// present one is known to be corrupt, although it can be opened.
pub fn open(folder: &Path, corrupt: Option<&str>) -> Result<Opened, StoreError> {
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = lock(folder)?;
    let opened = match corrupt {
        Some(why) => Err(StoreError::Corrupt(why.to_owned())),
        None => Database::open(folder),
    };
    let (database, notice) = match opened {
        Err(StoreError::Corrupt(why)) => {
            let aside = set_aside(folder, SystemTime::now()).map_err(failed)?;
            let notice = format!("a corrupt journal was set aside as {}: {why}", aside.display());
            tracing::error!("journal: {notice}");
            (Database::open(folder)?, Some(notice))
        }
        opened => (opened?, None),
    };
    Ok(Opened {
        newest_run: database.newest_run()?,
        positions: database.positions()?,
        captions: database.newest_captions()?,
        database,
        notice,
        file: OpenFile::of(folder).map_err(failed)?,
        _lock: lock,
    })
}

/// Locks a folder until the file is dropped.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let lock = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Failed("another daemon keeps its journal in this folder".into()))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn failed(error: std::io::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}
