//! The lock that keeps two daemons out of one folder. They would delete each other's segments.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Locks a folder until the file is dropped. The error `ResourceBusy` means that another daemon
/// uses the folder.
pub fn lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new().create(true).append(true).open(path.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            ErrorKind::ResourceBusy,
            "another daemon keeps its frames in this folder",
        )),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
