//! The SQLite file: its schema, and what the writer does with it. `read` has the queries.
//!
//! `events` has a row per event, with its columns for filters and the whole event as the protobuf
//! message `lookout.v1.Event`. `texts` is the full-text index over the texts of captions and
//! answers; captions that say "unchanged" are not in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use sha2::{Digest, Sha256};
use uuid::{NoContext, Timestamp, Uuid};

use crate::event::{Body, Event, EventKind, Inference};
use crate::wire::encode;

/// Name of the file in the journal's folder.
pub const FILE: &str = "events.sqlite";

/// The schema's version, in SQLite's `user_version`.
const VERSION: i64 = MIGRATIONS.len() as i64;

/// The step from each version to the next, beginning with an empty file (version 0).
const MIGRATIONS: &[&str] = &["
    CREATE TABLE events (
        id INTEGER PRIMARY KEY,
        run INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        uuid BLOB NOT NULL,
        published_ms INTEGER NOT NULL,
        camera TEXT NOT NULL,
        kind INTEGER NOT NULL,
        window_from_ms INTEGER,
        window_to_ms INTEGER,
        text TEXT,
        prompt_hash BLOB,
        body BLOB NOT NULL
    );
    CREATE UNIQUE INDEX events_position ON events (run, sequence);
    CREATE INDEX events_published ON events (published_ms);
    CREATE INDEX events_camera ON events (camera);
    CREATE VIRTUAL TABLE texts USING fts5 (
        text, content = 'events', content_rowid = 'id', tokenize = 'porter unicode61'
    );
    CREATE TRIGGER texts_insert AFTER INSERT ON events WHEN new.text IS NOT NULL BEGIN
        INSERT INTO texts (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER texts_delete AFTER DELETE ON events WHEN old.text IS NOT NULL BEGIN
        INSERT INTO texts (texts, rowid, text) VALUES ('delete', old.id, old.text);
    END;
"];

/// Number of events that one step of the retention deletes.
const DELETED_AT_ONCE: i64 = 1_000;

/// A reason why the database cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The file is not a usable database. It is set aside.
    #[error("the database is corrupt: {0}")]
    Corrupt(String),
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

/// The database, opened for writing.
pub struct Database {
    connection: Connection,
}

impl Database {
    /// Opens or creates the database in a folder, and brings it to the newest version.
    pub fn open(folder: &Path) -> Result<Database, StoreError> {
        let connection = Connection::open(folder.join(FILE))?;
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A crash of the daemon loses nothing. A power failure may lose the last moments, and
        // leaves the database consistent.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        let mut database = Database { connection };
        database.migrate()?;
        // Reads both ends of the table, so that a file cut short is noticed at once.
        database.newest_run()?;
        database.connection.query_row(
            "SELECT count(*) FROM (SELECT body FROM events ORDER BY id DESC LIMIT 100)",
            [],
            |row| row.get::<_, i64>(0),
        )?;
        Ok(database)
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let version: i64 =
            self.connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version > VERSION {
            return Err(StoreError::Failed(format!(
                "the journal has version {version} of a newer lookout; this one reads version \
                 {VERSION}: update lookout, or configure another journal.folder"
            )));
        }
        let done = usize::try_from(version).unwrap_or(0);
        for (step, to) in MIGRATIONS.iter().zip(1..).skip(done) {
            let transaction = self.connection.transaction()?;
            transaction.execute_batch(step)?;
            transaction.pragma_update(None, "user_version", to)?;
            transaction.commit()?;
        }
        Ok(())
    }

    /// Returns the newest run that has an event.
    pub fn newest_run(&self) -> Result<Option<u64>, StoreError> {
        let run: Option<i64> =
            self.connection.query_row("SELECT max(run) FROM events", [], |row| row.get(0))?;
        Ok(run.and_then(|run| u64::try_from(run).ok()))
    }

    /// Stores events, all or none of them.
    pub fn append<'a>(
        &mut self,
        events: impl Iterator<Item = &'a Event>,
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        {
            // An event that is stored already (it was written twice after an error) stays as it is.
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO events (run, sequence, uuid, published_ms, camera, kind, \
                 window_from_ms, window_to_ms, text, prompt_hash, body) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            for event in events {
                let inference = event.body.inference();
                let window = inference.map(|inference| inference.window);
                insert.execute(params![
                    integer(event.id.run),
                    integer(event.id.sequence),
                    uuid(event.published_at).as_bytes(),
                    milliseconds(event.published_at),
                    &*event.camera,
                    kind_number(event.body.kind()),
                    window.map(|window| milliseconds(window.from)),
                    window.map(|window| milliseconds(window.to)),
                    searchable(&event.body).map(|inference| inference.text.as_str()),
                    inference.map(|inference| prompt_hash(&inference.prompt)),
                    encode::event_bytes(event),
                ])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Deletes the oldest events published before a time, at most [`DELETED_AT_ONCE`] of them.
    /// Returns their number.
    pub fn delete_before(&self, time: SystemTime) -> Result<usize, StoreError> {
        // The oldest events by position, up to the first that is young enough: a clock that was set
        // cannot delete from the middle.
        let first_to_keep: Option<i64> = self
            .connection
            .query_row(
                "SELECT id FROM (SELECT id, published_ms FROM events ORDER BY id LIMIT ?) \
                 WHERE published_ms >= ? ORDER BY id LIMIT 1",
                params![DELETED_AT_ONCE, milliseconds(time)],
                |row| row.get(0),
            )
            .optional()?;
        let deleted = match first_to_keep {
            Some(id) => self.connection.execute("DELETE FROM events WHERE id < ?", [id])?,
            None => self.delete_oldest()?,
        };
        self.give_back(deleted)?;
        Ok(deleted)
    }

    /// Deletes the oldest events if the database is larger than `bytes`. Returns their number.
    pub fn delete_over(&self, bytes: u64) -> Result<usize, StoreError> {
        if self.bytes()? <= bytes {
            return Ok(0);
        }
        let deleted = self.delete_oldest()?;
        self.give_back(deleted)?;
        Ok(deleted)
    }

    fn delete_oldest(&self) -> Result<usize, StoreError> {
        Ok(self.connection.execute(
            "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT ?)",
            [DELETED_AT_ONCE],
        )?)
    }

    /// Returns freed pages to the file system.
    fn give_back(&self, deleted: usize) -> Result<(), StoreError> {
        if deleted > 0 {
            let mut vacuum = self.connection.prepare_cached("PRAGMA incremental_vacuum(4096)")?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    /// Returns the bytes of all pages in use.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let pragma = |name: &str| {
            self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
        };
        let pages = pragma("page_count")? - pragma("freelist_count")?;
        Ok(u64::try_from(pages * pragma("page_size")?).unwrap_or(0))
    }
}

/// Renames a corrupt database, and SQLite's files next to it. Returns the new name of the database.
pub fn set_aside(folder: &Path, now: SystemTime) -> std::io::Result<PathBuf> {
    let stamp = milliseconds(now);
    let aside = folder.join(format!("{FILE}.corrupt-{stamp}"));
    let beside = |path: &Path, suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    std::fs::rename(folder.join(FILE), &aside)?;
    for suffix in ["-wal", "-shm"] {
        let from = beside(&folder.join(FILE), suffix);
        match std::fs::rename(from, beside(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// Returns the text that a search finds: that of answers and of captions of changed scenes.
fn searchable(body: &Body) -> Option<&Inference> {
    match body {
        Body::Caption(caption) if caption.unchanged.is_some() => None,
        body => body.inference(),
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

fn uuid(time: SystemTime) -> Uuid {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Uuid::new_v7(Timestamp::from_unix(NoContext, since.as_secs(), since.subsec_nanos()))
}

/// Returns the first 16 bytes of a prompt's SHA-256.
fn prompt_hash(prompt: &str) -> Vec<u8> {
    Sha256::digest(prompt.as_bytes()).iter().take(16).copied().collect()
}
