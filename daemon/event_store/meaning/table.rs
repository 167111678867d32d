//! The tables of vectors: `vectors` has the vectors of an event in one row, `vectors_pending` the events that have a
//! text and no vector yet, and `embedding_model` the model that the vectors are from.
//!
//! Triggers of the schema put new events into `vectors_pending`, take events with a vector out of
//! it, and delete vectors with their events.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::matrix::Row;
use super::vector::Vector;
use crate::event::EventId;
use crate::event_store::read::Condition;
use crate::event_store::values::{StoreError, integer};
use crate::journal::EventFilter;

/// Maximum number of events without a vector that are counted.
pub const COUNTED: u64 = 10_000;

/// An event that has no vector yet.
pub struct Unembedded {
    pub event: EventId,
    pub row: Row,
    pub text: String,
}

/// The vectors of an event for the table. An event is named by its ID: its row may have been deleted and given to
/// another event.
pub struct NewVectors {
    pub event: EventId,
    /// Bytes of each [`Vector`], or nothing for a text that the model does not accept.
    pub bytes: Vec<u8>,
}

/// Deletes vectors of another model, and has their events embedded again.
pub fn use_model(connection: &Connection, id: &str) -> Result<(), StoreError> {
    let known: Option<String> =
        connection.query_row("SELECT id FROM embedding_model", [], |row| row.get(0)).optional()?;
    if known.as_deref() == Some(id) {
        return Ok(());
    }
    connection.execute("DELETE FROM vectors", [])?;
    connection.execute(
        "INSERT OR IGNORE INTO vectors_pending SELECT id FROM events WHERE text IS NOT NULL",
        [],
    )?;
    connection.execute("DELETE FROM embedding_model", [])?;
    connection.execute("INSERT INTO embedding_model (id) VALUES (?)", [id])?;
    Ok(())
}

/// Returns events without a vector, the newest first.
pub fn pending(connection: &Connection, limit: usize) -> Result<Vec<Unembedded>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT events.id, published_ms, camera, kind, run, sequence, text \
         FROM vectors_pending CROSS JOIN events ON events.id = vectors_pending.event \
         ORDER BY vectors_pending.event DESC LIMIT ?",
    )?;
    let mut rows = select.query([integer(limit as u64)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        found.push(Unembedded {
            row: columns(row)?,
            event: EventId { run: number(row.get(4)?), sequence: number(row.get(5)?) },
            text: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
        });
    }
    Ok(found)
}

/// Stores vectors, except those of events that were deleted.
pub fn store(connection: &Connection, vectors: &[NewVectors]) -> Result<(), StoreError> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO vectors (event, vector) \
         SELECT id, ? FROM events WHERE run = ? AND sequence = ?",
    )?;
    for NewVectors { event, bytes } in vectors {
        insert.execute(params![bytes, integer(event.run), integer(event.sequence)])?;
    }
    Ok(())
}

/// Returns the vectors of the events before a row, of at most `limit` events, the newest first. There
/// are none if they have another length, or the model did not accept the text.
pub fn load(
    connection: &Connection,
    before: i64,
    limit: usize,
    dimensions: usize,
) -> Result<Vec<(Row, Vec<Vector>)>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT events.id, published_ms, camera, kind, vector \
         FROM vectors CROSS JOIN events ON events.id = vectors.event \
         WHERE vectors.event < ? ORDER BY vectors.event DESC LIMIT ?",
    )?;
    let mut rows = select.query([before, integer(limit as u64)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(4)?.as_blob().unwrap_or_default();
        found.push((columns(row)?, Vector::read_all(bytes, dimensions)));
    }
    Ok(found)
}

/// Counts the events of a filter that have no vector yet, up to [`COUNTED`].
pub fn count_pending(connection: &Connection, filter: &EventFilter) -> Result<u64, StoreError> {
    let Condition { sql, values } = Condition::of(filter);
    let mut all: Vec<Value> = values;
    all.push(integer(COUNTED).into());
    let mut select = connection.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT 1 \
         FROM vectors_pending CROSS JOIN events ON events.id = vectors_pending.event \
         WHERE {sql} LIMIT ?)"
    ))?;
    let count: i64 = select.query_row(params_from_iter(all), |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn columns(row: &rusqlite::Row) -> rusqlite::Result<Row> {
    Ok(Row { id: row.get(0)?, published_ms: row.get(1)?, camera: row.get(2)?, kind: row.get(3)? })
}
