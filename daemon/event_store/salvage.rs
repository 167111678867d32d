//! Copies what can be read of a corrupt database into a new one: events, and the positions of
//! readers. JPEGs and clips are copied with kept events only, because they may take more room than
//! the disk has twice; the others stay in the file that was set aside.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::database::Database;
use super::values::{StoreError, integer};
use super::{clips, positions};
use crate::event::{Body, Event, EventId};
use crate::frame::FrameId;
use crate::journal::EventJpeg;
use crate::wire::decode;

/// Number of events that are copied in one transaction.
const BATCH: usize = 512;

/// Longest time for copying. The daemon does not store events in the meantime, or has not started.
const LONGEST: Duration = Duration::from_secs(60);

/// Number of rows in a row that cannot be read, after which the rest is given up.
const UNREADABLE_MOST: u32 = 100_000;

/// Copies the readable events before a position. Returns a description of what was copied.
pub fn copy(from: &Path, to: &mut Database, before: EventId) -> String {
    let mut copied = 0;
    let result = open(from).and_then(|source| copy_all(&source, to, before, &mut copied));
    let rest = match result {
        Ok(0) => String::new(),
        Ok(damaged) => format!(", and {damaged} places could not be read"),
        Err(error) => format!(", until: {error}"),
    };
    format!("{copied} of its events were copied into a new one{rest}")
}

/// Opens a corrupt database for reading.
fn open(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(file, flags)?;
    source.pragma_update(None, "query_only", true)?;
    // SQLite then also reads a file that is shorter than its header says.
    source.pragma_update(None, "writable_schema", true)?;
    source.pragma_update(None, "cell_size_check", true)?;
    Ok(source)
}

/// Copies positions and events. Returns the number of rows that could not be read.
fn copy_all(
    source: &Connection,
    to: &mut Database,
    before: EventId,
    copied: &mut u64,
) -> Result<u64, StoreError> {
    let begun = Instant::now();
    if let Ok(known) = positions::stored(source) {
        to.write(|connection| positions::store(connection, &known))?;
    }
    let mut rows = Rows { source, next: 0, unreadable: 0 };
    loop {
        let batch: Vec<Row> =
            rows.by_ref().filter(|row| row.event.id < before).take(BATCH).collect();
        if batch.is_empty() {
            return Ok(rows.unreadable);
        }
        let events = batch.iter().map(|row| (&row.event, row.jpegs.clone()));
        *copied += to.append(events)?.events;
        for row in batch.iter().filter(|row| row.is_kept) {
            to.write(|connection| keep(source, row, connection))?;
            if begun.elapsed() > LONGEST {
                return Err(StoreError::Failed(format!("it took longer than {LONGEST:?}")));
            }
        }
        if begun.elapsed() > LONGEST {
            return Err(StoreError::Failed(format!("it took longer than {LONGEST:?}")));
        }
    }
}

/// Exempts a copied event from retention, and copies its clip.
fn keep(source: &Connection, row: &Row, to: &Connection) -> Result<(), StoreError> {
    let EventId { run, sequence } = row.event.id;
    let mut select = to.prepare_cached("SELECT id FROM events WHERE run = ? AND sequence = ?")?;
    let copy: i64 = select.query_row([integer(run), integer(sequence)], |row| row.get(0))?;
    to.execute("INSERT OR IGNORE INTO kept_events VALUES (?)", [copy])?;
    let Body::Alert(alert) = &row.event.body else { return Ok(()) };
    clips::copy(source, row.id, to, (copy, alert))
}

/// An event that can be read.
struct Row {
    id: i64,
    event: Event,
    /// True if the event is exempt from retention: it is kept, or the clip of a kept alert belongs to
    /// it.
    is_kept: bool,
    /// The JPEGs of the event, if it is exempt.
    jpegs: Vec<EventJpeg>,
}

/// The readable events of a database in the order of their rows, with the JPEGs of kept ones.
struct Rows<'a> {
    source: &'a Connection,
    /// The row that is read next.
    next: i64,
    unreadable: u64,
}

impl Iterator for Rows<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Self::Item> {
        let mut failed = 0;
        while failed < UNREADABLE_MOST {
            match self.read() {
                Ok(Some((id, body))) => {
                    self.next = id + 1;
                    let Ok(event) = decode::event_bytes(&body) else {
                        self.unreadable += 1;
                        continue;
                    };
                    let is_kept = event.kept || self.is_kept(id);
                    let jpegs = if is_kept { self.jpegs(id) } else { Vec::new() };
                    return Some(Row { id, event, is_kept, jpegs });
                }
                Ok(None) => return None,
                // The row is on a damaged page, or the page that leads to it is damaged.
                Err(_) => {
                    self.next += 1;
                    self.unreadable += u64::from(failed == 0);
                    failed += 1;
                }
            }
        }
        None
    }
}

impl Rows<'_> {
    /// Reads the first event from a row on.
    fn read(&self) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
        let mut select = self
            .source
            .prepare_cached("SELECT id, body FROM events WHERE id >= ? ORDER BY id LIMIT 1")?;
        select.query_row([self.next], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    /// Returns true if the table of exempt events has an event.
    fn is_kept(&self, row: i64) -> bool {
        let select = self.source.prepare_cached("SELECT 1 FROM kept_events WHERE event = ?");
        select.and_then(|mut select| select.exists([row])).unwrap_or(false)
    }

    /// Returns the JPEGs of an event, as far as they can be read.
    fn jpegs(&self, row: i64) -> Vec<EventJpeg> {
        let read = || -> rusqlite::Result<Vec<EventJpeg>> {
            let mut select = self.source.prepare_cached(
                "SELECT run, number, jpegs.jpeg FROM event_jpegs JOIN jpegs ON jpegs.id = event_jpegs.jpeg \
                 WHERE event = ?",
            )?;
            let number = |value: i64| u64::try_from(value).unwrap_or(0);
            let rows = select.query_map([row], |row| {
                let frame = FrameId { run: number(row.get(0)?), number: number(row.get(1)?) };
                Ok(EventJpeg { frame, jpeg: row.get::<_, Vec<u8>>(2)?.into() })
            })?;
            rows.collect()
        };
        read().unwrap_or_default()
    }
}
