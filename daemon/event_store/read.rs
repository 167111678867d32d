//! Reads the database: events from a position, and pages.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};
use tokio::sync::Semaphore;

use super::database::FILE;
use super::values::{StoreError, integer, kind_number, milliseconds};
use crate::event::{Event, EventId};
use crate::journal::{EventFilter, EventPage, Query};
use crate::sync::lock;
use crate::wire::decode;

/// Maximum number of reads at a time; further ones wait.
const READS: usize = 4;

/// Connections that read.
pub struct Readers {
    folder: PathBuf,
    permits: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// Number of the file: it rises when another file takes its place.
    file: u64,
    connections: Vec<Connection>,
}

impl Readers {
    pub fn new(folder: &Path) -> Readers {
        let permits = Semaphore::new(READS);
        Readers { folder: folder.into(), permits, idle: Mutex::default() }
    }

    /// Forgets the connections to a file that has been replaced.
    pub fn forget(&self) {
        let mut idle = lock(&self.idle);
        idle.file += 1;
        idle.connections.clear();
    }

    /// Runs a read in a thread of its own.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = |_| StoreError::Failed("the daemon is stopping".into());
        let _permit = self.permits.acquire().await.map_err(ended)?;
        let readers = self.clone();
        let done = tokio::task::spawn_blocking(move || readers.read_here(read)).await;
        done.map_err(|error| StoreError::Failed(error.to_string()))?
    }

    /// Runs a read in this thread.
    pub fn read_here<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (file, connection) = {
            let mut idle = lock(&self.idle);
            (idle.file, idle.connections.pop())
        };
        let connection = match connection {
            Some(connection) => connection,
            None => open(&self.folder)?,
        };
        let result = read(&connection)?;
        let mut idle = lock(&self.idle);
        if idle.file == file && idle.connections.len() < READS {
            idle.connections.push(connection);
        }
        Ok(result)
    }
}

fn open(folder: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder.join(FILE), flags)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Returns true if a run has an event.
pub fn has_run(connection: &Connection, run: u64) -> Result<bool, StoreError> {
    let mut exists =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM events WHERE run = ?)")?;
    Ok(exists.query_row([integer(run)], |row| row.get(0))?)
}

pub fn get(connection: &Connection, id: EventId) -> Result<Option<Event>, StoreError> {
    let mut select =
        connection.prepare_cached("SELECT body FROM events WHERE run = ? AND sequence = ?")?;
    let body: Option<Vec<u8>> = select
        .query_row(params![integer(id.run), integer(id.sequence)], |row| row.get(0))
        .optional()?;
    Ok(body.and_then(|body| decode::event_bytes(&body).ok()))
}

/// Returns the oldest events from a position on.
pub fn from(
    connection: &Connection,
    position: EventId,
    limit: usize,
) -> Result<Vec<Arc<Event>>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT body FROM events WHERE (run, sequence) >= (?, ?) ORDER BY run, sequence LIMIT ?",
    )?;
    let mut rows = select.query(params![
        integer(position.run),
        integer(position.sequence),
        integer(limit as u64)
    ])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        // An event of a later version, whose kind is unknown here, is left out.
        if let Ok(event) = decode::event_bytes(row.get_ref(0)?.as_blob().unwrap_or_default()) {
            events.push(Arc::new(event));
        }
    }
    Ok(events)
}

/// Returns the first event published at or after a time.
pub fn first_since(
    connection: &Connection,
    time: SystemTime,
) -> Result<Option<EventId>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT run, sequence FROM events WHERE published_ms >= ? \
         ORDER BY published_ms, id LIMIT 1",
    )?;
    let found: Option<(i64, i64)> =
        select.query_row([milliseconds(time)], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(found.map(|(run, sequence)| EventId { run: number(run), sequence: number(sequence) }))
}

pub fn list(connection: &Connection, query: &Query) -> Result<EventPage, StoreError> {
    let mut condition = Condition::of(&query.filter, "events");
    if let Some(EventId { run, sequence }) = query.before {
        condition.add("(run, sequence) < (?, ?)", [integer(run).into(), integer(sequence).into()]);
    }
    let Condition { sql, mut values } = condition;
    values.push(integer(query.limit as u64 + 1).into());
    let mut select = connection.prepare_cached(&format!(
        "SELECT body FROM events WHERE {sql} ORDER BY run DESC, sequence DESC LIMIT ?"
    ))?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut page = EventPage::default();
    while let Some(row) = rows.next()? {
        if page.events.len() == query.limit {
            page.more = true;
            break;
        }
        if let Ok(event) = decode::event_bytes(row.get_ref(0)?.as_blob().unwrap_or_default()) {
            page.events.push(Arc::new(event));
        }
    }
    Ok(page)
}

/// A condition of SQL with its values.
pub struct Condition {
    pub sql: String,
    pub values: Vec<Value>,
}

impl Condition {
    pub fn of(filter: &EventFilter, table: &str) -> Condition {
        let mut condition = Condition { sql: "TRUE".into(), values: Vec::new() };
        let places = |count: usize| vec!["?"; count].join(", ");
        if !filter.cameras.is_empty() {
            let values = filter.cameras.iter().map(|camera| camera.clone().into());
            let sql = format!("{table}.camera IN ({})", places(filter.cameras.len()));
            condition.add(&sql, values);
        }
        if !filter.kinds.is_empty() {
            let values = filter.kinds.iter().map(|kind| i64::from(kind_number(*kind)).into());
            // The plus keeps SQLite from choosing an index by it.
            let sql = format!("+{table}.kind IN ({})", places(filter.kinds.len()));
            condition.add(&sql, values);
        }
        if let Some(since) = filter.since {
            condition.add(&format!("{table}.published_ms >= ?"), [milliseconds(since).into()]);
        }
        if let Some(until) = filter.until {
            condition.add(&format!("{table}.published_ms < ?"), [milliseconds(until).into()]);
        }
        condition
    }

    fn add(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql += " AND ";
        self.sql += sql;
        self.values.extend(values);
    }
}
