//! Opens the database in its folder, for one daemon at a time. A corrupt one is set aside.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::SystemTime;

use super::database::{self, Database};
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
    /// Names a corrupt database that was set aside.
    pub notice: Option<String>,
    /// Keeps other daemons out of the folder.
    _lock: File,
}

/// Opens or creates the database, and sets a corrupt one aside.
pub fn open(folder: &Path) -> Result<Opened, StoreError> {
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = lock(folder)?;
    let mut notice = None;
    let database = match Database::open(folder) {
        Err(StoreError::Corrupt(why)) => {
            let aside = database::set_aside(folder, SystemTime::now()).map_err(failed)?;
            let said = format!("a corrupt journal was set aside as {}: {why}", aside.display());
            tracing::error!("journal: {said}");
            notice = Some(said);
            Database::open(folder)?
        }
        opened => opened?,
    };
    Ok(Opened {
        newest_run: database.newest_run()?,
        positions: database.positions()?,
        captions: database.newest_captions()?,
        database,
        notice,
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
