//! The SQLite file, opened for writing: appends events, and deletes old ones. `schema` has the
//! tables, `read` the queries.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::hooks::Action;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::file::FILE;
use super::values::{StoreError, integer, kind_number, milliseconds};
use super::{clips, jpegs, newest, schema};
use crate::event::{Alert, AlertPhase, AlertUpdate, Answer, Body, Caption, Event};
use crate::journal::EventJpeg;
use crate::wire::encode;

/// Longest wait for another connection.
pub const BUSY: Duration = Duration::from_secs(2);

/// Number of events that one step of the retention deletes.
const DELETED_AT_ONCE: i64 = 1_000;

/// Number of events whose JPEGs are deleted together.
const STRIPPED_AT_ONCE: i64 = 16;

/// Longest time for making the database smaller, so that events do not wait longer to be stored.
const STEP: Duration = Duration::from_millis(250);

/// A change of a row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange {
    Inserted(i64),
    Deleted(i64),
}

/// The numbers of events and of frames that were stored and not there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub events: u64,
    pub frames: u64,
}

/// The database, opened for writing.
pub struct Database {
    pub(super) connection: Connection,
}

impl Database {
    /// Opens or creates the database in a folder, and brings it to the newest version.
    pub fn open(folder: &Path) -> Result<Database, StoreError> {
        let connection = Connection::open(folder.join(FILE))?;
        connection.busy_timeout(BUSY)?;
        // What is deleted is overwritten, so that a deletion for privacy leaves nothing in the file.
        connection.pragma_update(None, "secure_delete", true)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A crash of the daemon loses nothing. A power failure may lose the last moments, and
        // leaves the database consistent.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        let mut database = Database { connection };
        schema::migrate(&mut database.connection)?;
        clips::delete_unlinked(&database.connection)?;
        // Reads both ends of the table, so that a file cut short is noticed at once.
        newest::run(&database.connection)?;
        database.connection.query_row(
            "SELECT count(*) FROM (SELECT body FROM events ORDER BY id DESC LIMIT 100)",
            [],
            |row| row.get::<_, i64>(0),
        )?;
        Ok(database)
    }

    /// Writes all of something or nothing.
    pub fn write(
        &mut self,
        write: impl FnOnce(&Connection) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        write(&transaction)?;
        Ok(transaction.commit()?)
    }

    /// Reports every change of a table's rows, also before it is committed.
    pub fn watch(
        &mut self,
        table: &'static str,
        mut report: impl FnMut(RowChange) + Send + 'static,
    ) -> Result<(), StoreError> {
        let hook = move |action: Action, _: &str, changed: &str, row: i64| match action {
            Action::SQLITE_INSERT if changed == table => report(RowChange::Inserted(row)),
            Action::SQLITE_DELETE if changed == table => report(RowChange::Deleted(row)),
            _ => {}
        };
        Ok(self.connection.update_hook(Some(hook))?)
    }

    /// Stores events with their JPEGs, all or none of them. Events that are stored already stay as
    /// they are.
    pub fn append<'a>(
        &mut self,
        events: impl Iterator<Item = (&'a Event, Vec<EventJpeg>)>,
    ) -> Result<Appended, StoreError> {
        let transaction = self.connection.transaction()?;
        let mut appended = Appended { events: 0, frames: 0 };
        {
            // After an error, memory's events are stored again.
            let mut insert = transaction.prepare_cached(
                "INSERT OR IGNORE INTO events (run, sequence, uuid, published_ms, camera, kind, \
                 window_from_ms, window_to_ms, text, prompt_hash, body) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            for (event, jpegs) in events {
                let inference = event.body.inference();
                let window = event.body.window();
                let is_new = insert.execute(params![
                    integer(event.id.run),
                    integer(event.id.sequence),
                    event.uuid.as_bytes(),
                    milliseconds(event.published_at),
                    &*event.camera,
                    kind_number(event.body.kind()),
                    window.map(|window| milliseconds(window.from)),
                    window.map(|window| milliseconds(window.to)),
                    searchable(&event.body),
                    inference.map(|inference| prompt_hash(&inference.prompt)),
                    encode::event_bytes(event),
                ])? > 0;
                appended.events += u64::from(is_new);
                if is_new {
                    let id = transaction.last_insert_rowid();
                    clips::link(&transaction, id, event)?;
                    appended.frames += jpegs::insert(&transaction, id, &event.camera, &jpegs)?;
                }
            }
        }
        transaction.commit()?;
        Ok(appended)
    }

    /// Writes a page. Returns an error if the database can be read but not written.
    pub fn try_write(&mut self) -> Result<(), StoreError> {
        self.write(|connection| {
            connection.execute("UPDATE clock SET set_back_ms = set_back_ms", [])?;
            Ok(())
        })
    }

    /// Deletes the oldest events that are not kept, published before a time, at most
    /// [`DELETED_AT_ONCE`] of them.
    /// Returns their number.
    pub fn delete_before(&self, time: SystemTime) -> Result<usize, StoreError> {
        // The oldest events by position, up to the first that is young enough: a clock that was set
        // cannot delete from the middle.
        let first_to_keep: Option<i64> = self
            .connection
            .query_row(
                "SELECT id FROM (SELECT id, published_ms FROM events \
                 WHERE id NOT IN (SELECT event FROM kept_events) ORDER BY id LIMIT ?) \
                 WHERE published_ms >= ? ORDER BY id LIMIT 1",
                params![DELETED_AT_ONCE, milliseconds(time)],
                |row| row.get(0),
            )
            .optional()?;
        let deleted = match first_to_keep {
            Some(id) => self.connection.execute(
                "DELETE FROM events WHERE id < ? AND id NOT IN (SELECT event FROM kept_events)",
                [id],
            )?,
            None => self.delete_oldest()?,
        };
        self.give_back(deleted)?;
        Ok(deleted)
    }

    /// Makes the database smaller if it is larger than `bytes`: deletes the oldest clips and
    /// JPEGs of events and, if there are none, those events. Ends after [`STEP`] at the latest. Returns the
    /// number of events that were deleted.
    pub fn delete_over(&self, bytes: u64) -> Result<usize, StoreError> {
        let (begun, mut deleted) = (Instant::now(), 0);
        while self.bytes()? > bytes && begun.elapsed() < STEP {
            let clips = clips::delete_oldest(&self.connection)?;
            if clips > 0 {
                self.give_back(clips)?;
                continue;
            }
            let stripped = self.connection.execute(
                "DELETE FROM event_jpegs WHERE event IN \
                 (SELECT DISTINCT event FROM event_jpegs \
                  WHERE event NOT IN (SELECT event FROM kept_events) ORDER BY event LIMIT ?)",
                [STRIPPED_AT_ONCE],
            )?;
            let gone = if stripped == 0 { self.delete_oldest()? } else { 0 };
            deleted += gone;
            if stripped + gone == 0 {
                break;
            }
            self.give_back(stripped + gone)?;
        }
        Ok(deleted)
    }

    fn delete_oldest(&self) -> Result<usize, StoreError> {
        Ok(self.connection.execute(
            "DELETE FROM events WHERE id IN (SELECT id FROM events \
             WHERE id NOT IN (SELECT event FROM kept_events) ORDER BY id LIMIT ?)",
            [DELETED_AT_ONCE],
        )?)
    }

    /// Returns freed pages to the file system.
    pub(super) fn give_back(&self, deleted: usize) -> Result<(), StoreError> {
        if deleted > 0 {
            let mut vacuum = self.connection.prepare_cached("PRAGMA incremental_vacuum(4096)")?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
        }
        Ok(())
    }

    /// Returns the number and the bytes of the stored frames.
    pub fn jpeg_totals(&self) -> Result<(u64, u64), StoreError> {
        jpegs::totals(&self.connection)
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

/// Returns the text that a search finds: that of answers and of captions of changed scenes, the rule
/// and the question of an alert that begins, and the description of an alert.
fn searchable(body: &Body) -> Option<Cow<'_, str>> {
    match body {
        Body::Caption(caption) if caption.unchanged.is_some() => None,
        Body::Caption(Caption { inference, .. }) | Body::Answer(Answer { inference, .. }) => {
            Some(inference.text.as_str().into())
        }
        Body::Alert(alert) if alert.phase == AlertPhase::New => {
            Some(format!("{}: {}", alert.rule, alert.question).into())
        }
        Body::Alert(Alert {
            update: Some(AlertUpdate::Description),
            description: Some(description),
            ..
        }) => Some(description.text.as_str().into()),
        Body::Alert(_) | Body::CameraStatus(_) | Body::RuleStatus(_) => None,
    }
}

/// Returns the first 16 bytes of a prompt's SHA-256.
fn prompt_hash(prompt: &str) -> Vec<u8> {
    Sha256::digest(prompt.as_bytes()).iter().take(16).copied().collect()
}
