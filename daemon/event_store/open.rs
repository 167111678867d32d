//! Opens the database in its folder, for one daemon at a time. A corrupt one is set aside.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use rusqlite::{Connection, OpenFlags};

use super::database::Database;
use super::file::{FILE, OpenFile, WAL, put_back, set_aside};
use super::newest::EarlierRuns;
use super::salvage;
use super::values::StoreError;
use crate::event::EventId;

/// A database in use.
pub struct Opened {
    pub database: Database,
    pub earlier: EarlierRuns,
    /// Names a corrupt database that was set aside, or one that was removed.
    pub notice: Option<String>,
    /// The file, to see whether it is still in its place.
    pub file: OpenFile,
    /// Keeps other daemons out of the folder.
    _lock: File,
}

/// Opens or creates the database. Sets a corrupt one aside, and copies those of its events into the
/// new one that are before a position and can be read. `corrupt` is the reason why the present one is
/// known to be corrupt, although it can be opened.
pub fn open(folder: &Path, corrupt: Option<&str>, before: EventId) -> Result<Opened, StoreError> {
    std::fs::create_dir_all(folder).map_err(failed)?;
    let lock = lock(folder)?;
    let opened = match corrupt {
        Some(why) => Err(StoreError::Corrupt(why.to_owned())),
        None => Database::open(folder),
    };
    let (database, notice) = match opened {
        Err(StoreError::Corrupt(why)) => {
            let aside = set_aside(folder, SystemTime::now()).map_err(failed)?;
            let mut database = match Database::open(folder) {
                Ok(database) => database,
                Err(error) => {
                    // The next attempt copies its events.
                    put_back(folder, &aside).map_err(failed)?;
                    return Err(error);
                }
            };
            let copied = salvage::copy(&aside, &mut database, before);
            let notice =
                format!("a corrupt journal was set aside as {}: {why}; {copied}", aside.display());
            tracing::error!("journal: {notice}");
            (database, Some(notice))
        }
        opened => (opened?, None),
    };
    Ok(Opened {
        earlier: EarlierRuns::read(&database.connection)?,
        database,
        notice,
        file: OpenFile::of(folder).map_err(failed)?,
        _lock: lock,
    })
}

/// Reads what a database has of earlier runs, although it cannot be written.
pub fn look_into(folder: &Path) -> Result<EarlierRuns, StoreError> {
    // Without a log, the file is complete. SQLite would want to create one.
    let is_complete = !folder.join(WAL).exists();
    let path = folder.join(FILE);
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        // Characters that have a meaning in a URI.
        match byte {
            b'%' | b'?' | b'#' => uri += &format!("%{byte:02x}"),
            _ => uri.push(char::from(*byte)),
        }
    }
    uri += if is_complete { "?immutable=1" } else { "" };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    EarlierRuns::read(&Connection::open_with_flags(uri, flags)?)
}

/// Locks a folder until the file is dropped. The file contains the process that locked it.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let mut lock = options.create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {
            // The process is only named in a message, so a full disk does not matter here.
            let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let process = std::fs::read_to_string(&path).unwrap_or_default();
            Err(StoreError::InUse(format!(
                "another daemon, process {process}, keeps its journal in this folder: stop it, or \
                 configure another journal.folder"
            )))
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn failed(error: std::io::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}
