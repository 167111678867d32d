//! Reads the database: events from a position, and pages.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};
use tokio::sync::Semaphore;

use super::file::FILE;
use super::values::{StoreError, integer, kind_number, milliseconds};
use crate::event::{Event, EventId, EventKind};
use crate::journal::{EventFilter, EventPage, Query};
use crate::sync::Waiting;
use crate::wire::decode;

/// Maximum number of reads at a time; further ones wait.
const READS: usize = 4;

/// Interval at which a read looks whether the file has been replaced.
const REPLACED: Duration = Duration::from_millis(50);

/// Longest time for which another file waits until nobody reads the present one.
const LONGEST_READ: Duration = Duration::from_secs(60);

/// Connections that read.
pub struct Readers {
    folder: PathBuf,
    permits: Semaphore,
    pool: Waiting<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Number of the file: it rises when another file takes its place.
    file: u64,
    /// True while another file takes its place.
    is_being_replaced: bool,
    /// Number of connections that read.
    in_use: usize,
    idle: Vec<Connection>,
}

/// Counts a connection as in use until it is dropped.
struct InUse<'a>(&'a Readers);

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.pool.change(|pool| pool.in_use -= 1);
    }
}

impl Readers {
    pub fn new(folder: &Path) -> Readers {
        let permits = Semaphore::new(READS);
        Readers { folder: folder.into(), permits, pool: Waiting::default() }
    }

    /// Forgets the connections to a file that has been replaced.
    pub fn forget(&self) {
        let mut pool = self.pool.lock();
        pool.file += 1;
        pool.idle.clear();
    }

    /// Opens a file, which may take the place of another one. Nobody reads either in the meantime:
    /// SQLite opens and removes a log by its name, so a connection to the old file that is opened or
    /// closed after the new one would do so with the new one's log.
    pub fn replace<T>(&self, open: impl FnOnce() -> T) -> T {
        self.pool.lock().is_being_replaced = true;
        self.forget();
        drop(self.pool.wait(LONGEST_READ, |pool| pool.in_use == 0));
        let opened = open();
        self.pool.lock().is_being_replaced = false;
        opened
    }

    /// Runs a read in a thread of its own. Waits while the file is being replaced.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let ended = |_| StoreError::Failed("the daemon is stopping".into());
        let _permit = self.permits.acquire().await.map_err(ended)?;
        while self.pool.lock().is_being_replaced {
            tokio::time::sleep(REPLACED).await;
        }
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
            let mut pool = self.pool.lock();
            if pool.is_being_replaced {
                return Err(StoreError::Failed("the database is being replaced".into()));
            }
            pool.in_use += 1;
            (pool.file, pool.idle.pop())
        };
        // Dropped after the connection.
        let _in_use = InUse(self);
        let connection = match connection {
            Some(connection) => connection,
            None => open(&self.folder)?,
        };
        let result = read(&connection);
        let mut pool = self.pool.lock();
        match result {
            // The file that was replaced says nothing about the new one.
            Err(StoreError::Corrupt(why)) if pool.file != file => Err(StoreError::Failed(why)),
            Err(error) => Err(error),
            Ok(read) => {
                if pool.file == file && pool.idle.len() < READS {
                    pool.idle.push(connection);
                }
                Ok(read)
            }
        }
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

/// Events that follow a position.
pub struct Following {
    pub events: Vec<Arc<Event>>,
    /// True if events of the position's run may be missing in front of them.
    pub may_miss: bool,
}

/// Returns the oldest events from a position on.
pub fn from(
    connection: &Connection,
    position: EventId,
    limit: usize,
) -> Result<Following, StoreError> {
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
        events.extend(event(row)?);
    }
    // The rest of a run has been deleted, or lost with the file, if the event that was read last is
    // gone too.
    let goes_on = events.first().is_some_and(|first| first.id.run == position.run);
    let may_miss = !goes_on && position.sequence > 1 && !has(connection, before(position))?;
    Ok(Following { events, may_miss })
}

fn before(EventId { run, sequence }: EventId) -> EventId {
    EventId { run, sequence: sequence - 1 }
}

fn has(connection: &Connection, id: EventId) -> Result<bool, StoreError> {
    let mut exists = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM events WHERE run = ? AND sequence = ?)")?;
    Ok(exists.query_row([integer(id.run), integer(id.sequence)], |row| row.get(0))?)
}

/// Reads the event of a row. One that is damaged, or of a kind that only a later version knows, is
/// left out.
fn event(row: &rusqlite::Row) -> Result<Option<Arc<Event>>, StoreError> {
    let event = decode::event_bytes(row.get_ref(0)?.as_blob().unwrap_or_default());
    Ok(event
        .inspect_err(|error| tracing::warn!("journal: an event cannot be read: {error}"))
        .ok()
        .map(Arc::new))
}

/// Returns the first event published at or after a time.
pub fn first_since(
    connection: &Connection,
    time: SystemTime,
) -> Result<Option<EventId>, StoreError> {
    let since = EventFilter { since: Some(time), ..EventFilter::default() };
    let rows = Rows::of(connection, &since)?;
    let mut select = connection.prepare_cached(
        "SELECT run, sequence FROM events WHERE id > ? AND +published_ms >= ? ORDER BY id LIMIT 1",
    )?;
    let found: Option<(i64, i64)> = select
        .query_row([rows.after, milliseconds(time)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(found.map(|(run, sequence)| EventId { run: number(run), sequence: number(sequence) }))
}

pub fn list(connection: &Connection, query: &Query) -> Result<EventPage, StoreError> {
    // The order of the rows is that of the positions.
    let mut rows = Rows::of(connection, &query.filter)?;
    if let Some(EventId { run, sequence }) = query.before {
        let mut select = connection.prepare_cached(
            "SELECT id FROM events WHERE (run, sequence) >= (?, ?) ORDER BY run, sequence LIMIT 1",
        )?;
        let row =
            select.query_row([integer(run), integer(sequence)], |row| row.get(0)).optional()?;
        rows.before = rows.before.min(row.unwrap_or(i64::MAX));
    }
    let Condition { sql, mut values } = Condition::of(&query.filter);
    values.extend([rows.after, rows.before, integer(query.limit as u64 + 1)].map(Value::from));
    let mut select = connection.prepare_cached(&format!(
        "SELECT body FROM events WHERE {sql} AND id > ? AND id < ? ORDER BY id DESC LIMIT ?"
    ))?;
    let mut rows = select.query(params_from_iter(values))?;
    let mut page = EventPage::default();
    while let Some(row) = rows.next()? {
        if page.events.len() == query.limit {
            page.more = true;
            break;
        }
        page.events.extend(event(row)?);
    }
    Ok(page)
}

/// A range of rows that contains all events of a span of time.
pub struct Rows {
    /// The row before the first one, or an earlier one.
    pub after: i64,
    /// The row after the last one, or a later one.
    pub before: i64,
}

impl Rows {
    /// Returns the rows of a filter's span. Times rise with the rows, except where the host's clock
    /// was set back: no event was published earlier than one before it by more than `set_back_ms`.
    /// The whole span therefore comes after an event that is older than it by more than that.
    pub fn of(connection: &Connection, filter: &EventFilter) -> Result<Rows, StoreError> {
        let find = |sql: &str, time: Option<SystemTime>| -> Result<Option<i64>, StoreError> {
            let Some(time) = time else { return Ok(None) };
            let mut select = connection.prepare_cached(sql)?;
            Ok(select.query_row([milliseconds(time)], |row| row.get(0)).optional()?)
        };
        let after = find(
            "SELECT id FROM events WHERE published_ms < ? - (SELECT set_back_ms FROM clock) \
             ORDER BY published_ms DESC LIMIT 1",
            filter.since,
        )?;
        let before = find(
            "SELECT id FROM events WHERE published_ms >= ? + (SELECT set_back_ms FROM clock) \
             ORDER BY published_ms LIMIT 1",
            filter.until,
        )?;
        Ok(Rows { after: after.unwrap_or(0), before: before.unwrap_or(i64::MAX) })
    }
}

/// A condition of SQL on the table `events`, with its values.
///
/// A plus in front of a column keeps SQLite from using an index by it. Only an index by a single
/// value has its rows in the order that is wanted, and the one with the fewest rows is used.
pub struct Condition {
    pub sql: String,
    pub values: Vec<Value>,
}

impl Condition {
    pub fn of(filter: &EventFilter) -> Condition {
        let mut condition = Condition { sql: "TRUE".into(), values: Vec::new() };
        let EventFilter { cameras, kinds, since, until } = filter;
        // Nearly all events are captions.
        let by_kind = matches!(kinds[..], [kind] if kind != EventKind::Caption);
        let cameras = cameras.iter().map(|camera| camera.clone().into()).collect();
        condition.add_one_of("events.camera", cameras, !by_kind);
        let kinds = kinds.iter().map(|kind| i64::from(kind_number(*kind)).into()).collect();
        condition.add_one_of("events.kind", kinds, by_kind);
        if let Some(since) = since {
            condition.add("+events.published_ms >= ?", [milliseconds(*since).into()]);
        }
        if let Some(until) = until {
            condition.add("+events.published_ms < ?", [milliseconds(*until).into()]);
        }
        condition
    }

    /// Adds that a column has one of some values, or any if there are none.
    fn add_one_of(&mut self, column: &str, values: Vec<Value>, by_index: bool) {
        match values.len() {
            0 => {}
            1 if by_index => self.add(&format!("{column} = ?"), values),
            count => self.add(&format!("+{column} IN ({})", vec!["?"; count].join(", ")), values),
        }
    }

    fn add(&mut self, sql: &str, values: impl IntoIterator<Item = Value>) {
        self.sql += " AND ";
        self.sql += sql;
        self.values.extend(values);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::sync::lock;

    #[tokio::test]
    async fn reads_beyond_the_limit_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        Connection::open(folder.path().join(FILE)).expect("a database");
        let readers = Arc::new(Readers::new(folder.path()));
        let begun = Arc::new(AtomicUsize::new(0));
        // Each read ends when it has received a message.
        let (ends, gate) = mpsc::sync_channel(2 * READS);
        let gate = Arc::new(Mutex::new(gate));
        let read = || {
            let (readers, begun, gate) = (readers.clone(), begun.clone(), gate.clone());
            tokio::spawn(async move {
                let read = move |_: &Connection| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    lock(&gate).recv().map_err(|error| StoreError::Failed(error.to_string()))
                };
                readers.read(read).await
            })
        };
        let reads: Vec<_> = (0..2 * READS).map(|_| read()).collect();
        let until_begun = async |count| {
            while begun.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        for ended in 0..=READS {
            until_begun(READS + ended).await;
            assert_eq!(readers.permits.available_permits(), 0);
            // One that does not wait would begin in this time.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(begun.load(Ordering::Relaxed), READS + ended);
            ends.send(()).expect("reads wait");
        }
        (1..READS).for_each(|_| ends.send(()).expect("reads wait"));
        for read in reads {
            assert_eq!(read.await.expect("a task"), Ok(()));
        }
    }
}
