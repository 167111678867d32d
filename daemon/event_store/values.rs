//! Values as SQLite stores them, and its errors.

use std::time::SystemTime;

use rusqlite::ErrorCode;

use crate::event::EventKind;
use crate::wire::encode;

/// A reason why the database cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The file is not a usable database. It is set aside.
    #[error("the database is corrupt: {0}")]
    Corrupt(String),
    /// Another daemon uses the folder.
    #[error("{0}")]
    InUse(String),
    #[error("{0}")]
    Failed(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt(error.to_string())
            }
            _ => StoreError::Failed(error.to_string()),
        }
    }
}

/// Returns the number of a kind: that of the protobuf enum.
pub fn kind_number(kind: EventKind) -> i32 {
    encode::kind(kind).into()
}

/// Returns the milliseconds since 1970, negative before.
pub fn milliseconds(time: SystemTime) -> i64 {
    let nanoseconds = crate::frame::difference(SystemTime::UNIX_EPOCH, time);
    i64::try_from(nanoseconds.div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// Returns a number as SQLite stores it. Runs and sequences are far below the limit.
pub fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
