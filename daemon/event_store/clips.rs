//! The clips of alerts in the database. A clip is stored in chunks, so that new events are stored in
//! between. It belongs to the first event that says that it is ready, and is deleted with it.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::sync::oneshot;

use super::values::{StoreError, kind_number, milliseconds};
use crate::event::{Alert, Body, ClipState, Event, EventKind};
use crate::journal::{CLIP_CHUNK, QueryError};
use crate::wire::decode;

/// The receiver of the result of storing a clip.
type Reply = oneshot::Sender<Result<(), QueryError>>;

/// Number of chunks that one step stores: 4 MiB.
const CHUNKS_AT_ONCE: usize = 16;

/// Time by which a camera's clock may be ahead of the host's, which dates events.
const AHEAD: Duration = Duration::from_secs(3600);

/// A clip that is being stored.
pub struct Storing {
    pub alert_id: String,
    pub clip: Bytes,
    pub reply: Reply,
    /// Number of chunks that are stored, and the clip's row.
    stored: Option<(usize, i64)>,
}

impl Storing {
    pub fn new(alert_id: String, clip: Bytes, reply: Reply) -> Storing {
        Storing { alert_id, clip, reply, stored: None }
    }

    /// Stores some chunks. Returns true if none is left.
    pub fn step(&mut self, connection: &mut Connection) -> Result<bool, StoreError> {
        let transaction = connection.transaction()?;
        let (from, row) = match self.stored {
            Some(stored) => stored,
            None => {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO clips (alert_id) VALUES (?)")?;
                (0, insert.insert([&self.alert_id])?)
            }
        };
        let chunks = self.clip.chunks(CLIP_CHUNK).enumerate().skip(from).take(CHUNKS_AT_ONCE);
        let mut to = from;
        for (number, chunk) in chunks {
            transaction
                .prepare_cached("INSERT INTO clip_chunks (clip, number, data) VALUES (?, ?, ?)")?
                .execute(params![row, number as i64, chunk])?;
            to = number + 1;
        }
        transaction.commit()?;
        self.stored = Some((to, row));
        Ok(to * CLIP_CHUNK >= self.clip.len())
    }
}

/// Gives the clip of an alert to the event that says that it is ready. The event is exempt from
/// retention if an earlier one of the alert is kept.
pub fn link(transaction: &Transaction, row: i64, event: &Event) -> Result<(), StoreError> {
    let Body::Alert(alert) = &event.body else { return Ok(()) };
    if alert.clip.as_ref().is_none_or(|clip| clip.state != ClipState::Ready) {
        return Ok(());
    }
    let linked = transaction
        .prepare_cached("UPDATE clips SET event = ? WHERE alert_id = ? AND event IS NULL")?
        .execute(params![row, &*alert.alert_id])?;
    if linked > 0 && is_kept(transaction, &event.camera, alert)? {
        transaction.execute("INSERT OR IGNORE INTO kept_events (event) VALUES (?)", [row])?;
    }
    Ok(())
}

/// Returns true if an event of an alert is kept.
fn is_kept(transaction: &Transaction, camera: &str, alert: &Alert) -> Result<bool, StoreError> {
    let since = alert.started_at.checked_sub(AHEAD).unwrap_or(alert.started_at);
    let mut select = transaction.prepare_cached(
        "SELECT body FROM events WHERE id IN (SELECT event FROM kept_events) \
         AND kind = ? AND camera = ? AND published_ms >= ?",
    )?;
    let kept = params![kind_number(EventKind::Alert), camera, milliseconds(since)];
    let mut rows = select.query(kept)?;
    while let Some(row) = rows.next()? {
        let body: Vec<u8> = row.get(0)?;
        if let Ok(Event { body: Body::Alert(kept), .. }) = decode::event_bytes(&body)
            && kept.alert_id == alert.alert_id
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies the clip of an event from another database, if every byte of it can be read.
pub fn copy(
    source: &Connection,
    source_row: i64,
    transaction: &Connection,
    (row, alert): (i64, &Alert),
) -> Result<(), StoreError> {
    let found = source.query_row("SELECT id FROM clips WHERE event = ?", [source_row], |row| {
        row.get::<_, i64>(0)
    });
    let Ok(source_clip) = found else { return Ok(()) };
    transaction.execute(
        "INSERT INTO clips (alert_id, event) VALUES (?, ?)",
        params![&*alert.alert_id, row],
    )?;
    let clip = transaction.last_insert_rowid();
    let mut bytes = 0;
    for number in 0.. {
        let chunk = source.query_row(
            "SELECT data FROM clip_chunks WHERE clip = ? AND number = ?",
            [source_clip, number],
            |row| row.get::<_, Vec<u8>>(0),
        );
        let Ok(chunk) = chunk else { break };
        bytes += chunk.len() as u64;
        transaction
            .prepare_cached("INSERT INTO clip_chunks (clip, number, data) VALUES (?, ?, ?)")?
            .execute(params![clip, number, chunk])?;
    }
    if alert.clip.as_ref().is_none_or(|clip| clip.bytes != bytes) {
        transaction.execute("DELETE FROM clips WHERE id = ?", [clip])?;
    }
    Ok(())
}

/// Returns the row of the event that the clip of an alert belongs to.
pub fn event_of(connection: &Connection, alert_id: &str) -> Result<Option<i64>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT event FROM clips WHERE alert_id = ? AND event IS NOT NULL")?;
    Ok(select.query_row([alert_id], |row| row.get(0)).optional()?)
}

/// Returns a chunk of an alert's clip.
pub fn chunk(
    connection: &Connection,
    alert_id: &str,
    number: u32,
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT data FROM clip_chunks WHERE number = ? \
         AND clip = (SELECT id FROM clips WHERE alert_id = ? ORDER BY id DESC LIMIT 1)",
    )?;
    Ok(select.query_row(params![number, alert_id], |row| row.get(0)).optional()?)
}

/// Deletes the clips whose event was not stored, because the daemon was killed before.
pub fn delete_unlinked(connection: &Connection) -> Result<(), StoreError> {
    connection.execute("DELETE FROM clips WHERE event IS NULL", [])?;
    Ok(())
}

/// Deletes the oldest clip that is not kept, if it is older than every JPEG that could be deleted
/// in its place. Returns the number of deleted clips.
pub fn delete_oldest(connection: &Connection) -> Result<usize, StoreError> {
    let oldest = |table: &str| -> Result<Option<i64>, StoreError> {
        let mut select = connection.prepare_cached(&format!(
            "SELECT event FROM {table} WHERE event IS NOT NULL \
             AND event NOT IN (SELECT event FROM kept_events) ORDER BY event LIMIT 1"
        ))?;
        Ok(select.query_row([], |row| row.get(0)).optional()?)
    };
    let Some(clip) = oldest("clips")? else { return Ok(0) };
    if oldest("event_jpegs")?.is_some_and(|jpeg| jpeg < clip) {
        return Ok(0);
    }
    Ok(connection.execute("DELETE FROM clips WHERE event = ?", [clip])?)
}
