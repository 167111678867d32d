//! Finds each camera's newest caption, so that a new run can show it.

use rusqlite::{Connection, OptionalExtension, params};

use super::values::{StoreError, kind_number};
use crate::event::{Event, EventKind};
use crate::wire::decode;

/// Number of a camera's events among which its newest caption is searched at the start.
const SEARCHED: i64 = 10_000;

/// Returns each camera's newest caption that is not `unchanged`, among the camera's newest
/// [`SEARCHED`] events.
pub fn captions(connection: &Connection) -> Result<Vec<Event>, StoreError> {
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
