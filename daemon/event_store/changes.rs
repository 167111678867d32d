//! Changes to stored events on request: marks them as kept, and deletes them. The writer's thread
//! makes them, between two batches of new events.
//!
//! A deletion leaves no content in the file: SQLite overwrites what it deletes, the full-text index
//! too, and the write-ahead log is emptied at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, params, params_from_iter};
use tokio::sync::oneshot;

use super::Shared;
use super::clips::{self, Storing};
use super::database::{BUSY, Database};
use super::values::{StoreError, integer, milliseconds};
use crate::event::{Body, Event, EventId};
use crate::journal::{Deleted, Deletion, QueryError};
use crate::sync::lock;
use crate::wire::{decode, encode};

/// Number of events that one step of a deletion deletes.
const DELETED_AT_ONCE: i64 = 100;

/// Longest time for a deletion, after which the client has to ask for the rest.
const LONGEST: Duration = Duration::from_secs(10);

/// Number of attempts to empty the write-ahead log, and the time that each waits for readers.
const ATTEMPTS: u32 = 20;
const READERS_LEAVE: Duration = Duration::from_millis(100);

/// The receiver of a change's result.
pub type Reply<T> = oneshot::Sender<Result<T, QueryError>>;

/// A change that waits for the writer.
pub enum Change {
    Keep { id: EventId, kept: bool, reply: Reply<Arc<Event>> },
    Delete(Deleting),
    StoreClip(Storing),
}

/// A deletion in progress.
pub struct Deleting {
    deletion: Deletion,
    deleted: Deleted,
    /// Sequence of the newest event at the first step. Events up to it are stored before anything is
    /// deleted, so that what belongs to them is deleted with them.
    newest: Option<u64>,
    /// Time at which the deletion begins.
    begun: Option<Instant>,
    /// Number of attempts to empty the write-ahead log.
    attempts: u32,
    reply: Reply<Deleted>,
}

impl Change {
    pub fn delete(deletion: Deletion, reply: Reply<Deleted>) -> Change {
        let deleted = Deleted::default();
        Change::Delete(Deleting {
            deletion,
            deleted,
            newest: None,
            begun: None,
            attempts: 0,
            reply,
        })
    }

    /// Fails the change, because the database cannot be written.
    pub fn refuse(self, why: &str) {
        let error = QueryError::Unwritable(why.to_owned());
        // A client that has gone needs no reply.
        match self {
            Change::Keep { reply, .. } => drop(reply.send(Err(error))),
            Change::Delete(Deleting { reply, .. }) => drop(reply.send(Err(error))),
            Change::StoreClip(Storing { reply, .. }) => drop(reply.send(Err(error))),
        }
    }

    /// Makes a step of the change. Returns the change if more steps follow, and the database's
    /// error if it failed.
    pub fn step(
        self,
        shared: &Shared,
        database: &mut Database,
        written: u64,
    ) -> Result<Option<Change>, StoreError> {
        match self {
            Change::Keep { id, kept, reply } => {
                let most = shared.settings.bytes / 2;
                let result = database.keep(id, kept, most);
                if let Ok(Ok(event)) = &result {
                    shared.memory.replace(event.clone());
                }
                finish(reply, result)?;
                Ok(None)
            }
            Change::StoreClip(mut storing) => match storing.step(&mut database.connection) {
                Ok(false) => Ok(Some(Change::StoreClip(storing))),
                Ok(true) => finish(storing.reply, Ok(Ok(()))).map(|()| None),
                Err(error) => finish(storing.reply, Err(error)).map(|()| None),
            },
            Change::Delete(mut deleting) => match deleting.step(shared, database, written) {
                Ok(false) => Ok(Some(Change::Delete(deleting))),
                Ok(true) => {
                    drop(deleting.reply.send(Ok(deleting.deleted)));
                    Ok(None)
                }
                Err(error) => finish(deleting.reply, Err(error)).map(|()| None),
            },
        }
    }
}

/// Sends the result of a change. Returns the database's error.
fn finish<T>(
    reply: Reply<T>,
    result: Result<Result<T, QueryError>, StoreError>,
) -> Result<(), StoreError> {
    // A client that has gone needs no reply.
    match result {
        Ok(done) => {
            drop(reply.send(done));
            Ok(())
        }
        Err(error) => {
            drop(reply.send(Err(QueryError::Unwritable(error.to_string()))));
            Err(error)
        }
    }
}

impl Deleting {
    /// Deletes some events. Returns true if none is left.
    fn step(
        &mut self,
        shared: &Shared,
        database: &mut Database,
        written: u64,
    ) -> Result<bool, StoreError> {
        if written < *self.newest.get_or_insert(shared.memory.newest_sequence()) {
            return Ok(false);
        }
        let is_first = self.begun.is_none();
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if is_first {
            let sequences = shared.memory.delete_events(&self.deletion);
            lock(&shared.earlier_captions).retain(|event| !self.deletion.includes(event));
            // The others are in the database, too.
            self.deleted.events += sequences.iter().filter(|at| **at > written).count() as u64;
            let mut queue = lock(&shared.jpegs);
            sequences.into_iter().for_each(|sequence| queue.forget(sequence));
        }
        if self.attempts == 0 {
            let (events, jpegs) = database.delete_some(&self.deletion)?;
            self.deleted.events += events;
            self.deleted.jpegs += jpegs;
            self.deleted.more = events > 0;
            if events > 0 && begun.elapsed() < LONGEST {
                return Ok(false);
            }
            self.deleted.kept_events = database.count_kept(&self.deletion)?;
        }
        self.attempts += 1;
        if database.empty_log()? {
            return Ok(true);
        }
        if self.attempts >= ATTEMPTS {
            return Err(StoreError::Failed(
                "the events are deleted, but a long read of the journal keeps their bytes in \
                 events.sqlite-wal: delete again later"
                    .into(),
            ));
        }
        Ok(false)
    }
}

impl Database {
    /// Marks an event as kept, or removes the mark. Kept events with their JPEGs may take at most
    /// `most` bytes.
    fn keep(
        &mut self,
        id: EventId,
        kept: bool,
        most: u64,
    ) -> Result<Result<Arc<Event>, QueryError>, StoreError> {
        let transaction = self.connection.transaction()?;
        let found: Option<(i64, Vec<u8>)> = transaction
            .query_row(
                "SELECT id, body FROM events WHERE run = ? AND sequence = ?",
                params![integer(id.run), integer(id.sequence)],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let event = found.and_then(|(row, body)| Some((row, decode::event_bytes(&body).ok()?)));
        let Some((row, mut event)) = event else { return Ok(Err(QueryError::NoEvent(id))) };
        if let Body::Alert(alert) = &event.body
            && let Some(of_clip) = clips::event_of(&transaction, &alert.alert_id)?
        {
            // The clip is exempt with the event that it belongs to.
            transaction.execute(
                if kept {
                    "INSERT OR IGNORE INTO kept_events (event) VALUES (?)"
                } else {
                    "DELETE FROM kept_events WHERE event = ?"
                },
                [of_clip],
            )?;
        }
        event.kept = kept;
        transaction.execute(
            "UPDATE events SET body = ? WHERE id = ?",
            params![encode::event_bytes(&event), row],
        )?;
        if !kept {
            transaction.execute("DELETE FROM kept_events WHERE event = ?", [row])?;
            transaction.commit()?;
            return Ok(Ok(Arc::new(event)));
        }
        transaction.execute("INSERT OR IGNORE INTO kept_events (event) VALUES (?)", [row])?;
        let bytes: i64 = transaction.query_row(
            "SELECT (SELECT coalesce(sum(length(body)), 0) FROM events \
                     WHERE id IN (SELECT event FROM kept_events)) + \
                    (SELECT coalesce(sum(length(jpeg)), 0) FROM jpegs WHERE id IN \
                     (SELECT jpeg FROM event_jpegs \
                      WHERE event IN (SELECT event FROM kept_events))) + \
                    (SELECT coalesce(sum(length(data)), 0) FROM clip_chunks WHERE clip IN \
                     (SELECT id FROM clips WHERE event IN (SELECT event FROM kept_events)))",
            [],
            |row| row.get(0),
        )?;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        if bytes > most {
            return Ok(Err(QueryError::TooMuchKept { bytes, most }));
        }
        transaction.commit()?;
        Ok(Ok(Arc::new(event)))
    }

    /// Deletes some of the events of a deletion. Returns the number of events and of JPEGs.
    fn delete_some(&mut self, deletion: &Deletion) -> Result<(u64, u64), StoreError> {
        let (before, _) = self.jpeg_totals()?;
        let transaction = self.connection.transaction()?;
        // The index overwrites deleted texts only here, because it is slow.
        transaction.execute("INSERT INTO texts (texts, rank) VALUES ('secure-delete', 1)", [])?;
        let kept = if deletion.include_kept { "" } else { NOT_KEPT };
        let (select, mut values) = select(deletion, kept);
        values.push(DELETED_AT_ONCE.into());
        let sql = format!("DELETE FROM events WHERE id IN ({select} LIMIT ?)");
        let events = transaction.execute(&sql, params_from_iter(values))?;
        transaction.execute("INSERT INTO texts (texts, rank) VALUES ('secure-delete', 0)", [])?;
        transaction.commit()?;
        self.give_back(events)?;
        let (after, _) = self.jpeg_totals()?;
        Ok((events as u64, before.saturating_sub(after)))
    }

    /// Returns the number of events that a deletion leaves because they are kept.
    fn count_kept(&self, deletion: &Deletion) -> Result<u64, StoreError> {
        if deletion.include_kept {
            return Ok(0);
        }
        let (select, values) = select(deletion, KEPT);
        let sql = format!("SELECT count(*) FROM ({select})");
        let count: i64 =
            self.connection.query_row(&sql, params_from_iter(values), |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Writes the write-ahead log to the file and empties it. Returns false if a reader needs it.
    fn empty_log(&self) -> Result<bool, StoreError> {
        self.connection.busy_timeout(READERS_LEAVE)?;
        let busy = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        self.connection.busy_timeout(BUSY)?;
        Ok(busy? == 0)
    }
}

/// Conditions of an event that is kept, or not.
const KEPT: &str = "AND id IN (SELECT event FROM kept_events)";
const NOT_KEPT: &str = "AND id NOT IN (SELECT event FROM kept_events)";

/// Returns the query for the events of a deletion, with its values.
fn select(deletion: &Deletion, condition: &str) -> (String, Vec<Value>) {
    let cameras = match deletion.cameras.len() {
        0 => String::new(),
        many => format!("AND camera IN ({})", vec!["?"; many].join(", ")),
    };
    let (from, to) = (milliseconds(deletion.span.from), milliseconds(deletion.span.to));
    let names = || deletion.cameras.iter().map(|name| Value::from(name.clone()));
    let with_cameras = |values: [i64; 2]| values.map(Value::from).into_iter().chain(names());
    let sql = format!(
        "SELECT id FROM events WHERE window_to_ms > ? AND window_from_ms < ? {cameras} {condition} \
         UNION ALL \
         SELECT id FROM events WHERE window_to_ms IS NULL AND published_ms >= ? \
         AND published_ms < ? {cameras} {condition}"
    );
    (sql, with_cameras([from, to]).chain(with_cameras([from, to])).collect())
}
