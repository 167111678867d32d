//! Finds what a new run has to know of the earlier ones: the newest run, the positions of readers, and
//! each camera's newest caption, so that it can be shown.

use rusqlite::{Connection, OptionalExtension, params};

use super::positions;
use super::values::{StoreError, kind_number};
use crate::event::{Event, EventId, EventKind};
use crate::wire::decode;

/// Number of a camera's events among which its newest caption is searched at the start.
const SEARCHED: i64 = 10_000;

/// Traces of earlier runs in a database, which a new run continues from.
#[derive(Debug, Default)]
pub struct EarlierRuns {
    /// The newest run that has an event or the position of a reader.
    pub newest: Option<u64>,
    /// The positions of named readers.
    pub positions: Vec<(String, EventId)>,
    /// Each camera's newest caption that is not `unchanged`.
    pub captions: Vec<Event>,
}

impl EarlierRuns {
    pub fn read(connection: &Connection) -> Result<EarlierRuns, StoreError> {
        Ok(EarlierRuns {
            newest: run(connection)?,
            positions: positions::stored(connection)?,
            captions: captions(connection)?,
        })
    }
}

/// Returns the newest run that has an event or the position of a reader.
pub fn run(connection: &Connection) -> Result<Option<u64>, StoreError> {
    let newest = |table| {
        let select = format!("SELECT max(run) FROM {table}");
        connection.query_row(&select, [], |row| row.get::<_, Option<i64>>(0))
    };
    let run = newest("events")?.max(newest("readers")?);
    Ok(run.and_then(|run| u64::try_from(run).ok()))
}

/// Returns each camera's newest caption that is not `unchanged`, among the camera's newest
/// [`SEARCHED`] events.
fn captions(connection: &Connection) -> Result<Vec<Event>, StoreError> {
    // Goes from one camera to the next in the index, instead of reading every event.
    let mut cameras = connection.prepare(
        "WITH RECURSIVE named (camera) AS (
            SELECT min(camera) FROM events
            UNION ALL
            SELECT (SELECT min(camera) FROM events WHERE camera > named.camera)
            FROM named WHERE named.camera IS NOT NULL
        ) SELECT camera FROM named WHERE camera IS NOT NULL",
    )?;
    let mut newest = connection.prepare(
        "SELECT body FROM (
            SELECT id, kind, text, body FROM events WHERE camera = ? ORDER BY id DESC LIMIT ?
        ) WHERE kind = ? AND text IS NOT NULL ORDER BY id DESC LIMIT 1",
    )?;
    let mut events = Vec::new();
    let mut rows = cameras.query([])?;
    while let Some(row) = rows.next()? {
        let camera: String = row.get(0)?;
        let body: Option<Vec<u8>> = newest
            .query_row(params![camera, SEARCHED, kind_number(EventKind::Caption)], |row| row.get(0))
            .optional()?;
        events.extend(body.and_then(|body| decode::event_bytes(&body).ok()));
    }
    events.sort_by_key(|event| event.id);
    Ok(events)
}
