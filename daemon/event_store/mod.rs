//! The journal on disk: events in SQLite, which outlive the daemon.
//!
//! Guarantees: appending never waits for the disk. Readers see an event once it is stored, or once
//! storing has failed or takes too long. A database that is full, read-only or locked is tried
//! again; until then events are in memory only, `trouble` says so, and what memory still holds is
//! stored later. A corrupt database is set aside by name, and a new one takes its place.
//!
//! Not here: what an event contains (`event`), and the ring of the newest events
//! (`journal/memory`), from which readers that keep up are served.

mod changes;
mod clips;
mod coverage;
mod cursor;
mod database;
mod density;
mod file;
mod jpegs;
mod meaning;
mod newest;
mod open;
mod positions;
mod read;
mod salvage;
mod schema;
mod search;
#[cfg(test)]
mod tests;
mod values;
mod words;
mod writer;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

use crate::embedding::TextEmbedder;
use crate::event::{Body, Event, EventId};
use crate::frame::FrameId;
use crate::journal::{
    self, Cursor, Deleted, Deletion, Density, DensityQuery, EventJpeg, EventPage, HELD_FOR,
    Journal, MemoryJournal, Pending, Query, QueryError, SearchPage, SearchQuery,
};
use crate::sync::{Waiting, lock};
use changes::Change;
use clips::Storing;
use cursor::{Start, StoreCursor};
use jpegs::JpegQueue;
use meaning::Meaning;
use newest::EarlierRuns;
use open::Opened;
use positions::Positions;
use read::Readers;
use values::StoreError;
use writer::Writer;

/// Maximum number of changes to stored events that wait; further ones wait for their turn.
const CHANGES: usize = 4;

/// Longest wait for the last events to be stored when the daemon stops.
const FLUSH: Duration = Duration::from_secs(1);

/// A position after every event.
const LAST: EventId = EventId { run: u64::MAX, sequence: u64::MAX };

/// Location and limits of the journal on disk.
#[derive(Clone, Debug)]
pub struct Settings {
    pub folder: PathBuf,
    /// Maximum age of an event.
    pub retention: Duration,
    /// Maximum size of the database.
    pub bytes: u64,
}

/// The model of the search by meaning, and the memory for its vectors.
pub struct MeaningSearch {
    pub embedder: Box<dyn TextEmbedder>,
    pub bytes: u64,
}

/// The error of a daemon whose journal's folder another daemon uses.
#[derive(Debug, thiserror::Error)]
#[error("journal.folder {}: {why}", folder.display())]
pub struct FolderInUse {
    folder: PathBuf,
    why: String,
}

/// The database before the number of this run is known.
pub struct EventStore {
    settings: Settings,
    opened: Result<Opened, StoreError>,
    /// Traces of earlier runs in the database, if it could be read but not opened.
    earlier: EarlierRuns,
    meaning: Option<MeaningSearch>,
}

impl EventStore {
    /// Opens or creates the database. One that cannot be used is tried again later. Returns an error
    /// if another daemon uses the folder.
    pub fn open(settings: Settings) -> Result<EventStore, FolderInUse> {
        let opened = open::open(&settings.folder, None, LAST);
        if let Err(StoreError::InUse(why)) = opened {
            return Err(FolderInUse { folder: settings.folder, why });
        }
        let earlier = match &opened {
            Ok(_) => EarlierRuns::default(),
            // Nothing is known of a folder that cannot be read.
            Err(_) => open::look_into(&settings.folder).unwrap_or_default(),
        };
        Ok(EventStore { settings, opened, earlier, meaning: None })
    }

    /// Returns the newest run that has an event or the position of a reader.
    pub fn newest_run(&self) -> Option<u64> {
        self.opened.as_ref().map_or(&self.earlier, |opened| &opened.earlier).newest
    }

    /// Enables the search by meaning.
    pub fn with_meaning(self, meaning: MeaningSearch) -> EventStore {
        EventStore { meaning: Some(meaning), ..self }
    }

    /// Starts the journal of a run, and its threads.
    pub fn journal(self, run: u64) -> std::io::Result<Arc<dyn Journal>> {
        let memory = MemoryJournal::new(run, journal::CAPACITY);
        let search = self.meaning;
        let meaning =
            search.as_ref().map(|search| Arc::new(Meaning::new(&*search.embedder, search.bytes)));
        let shared = Arc::new(Shared {
            memory,
            jpegs: Mutex::new(JpegQueue::new(jpegs::QUEUE_BYTES)),
            readers: Arc::new(Readers::new(&self.settings.folder)),
            settings: self.settings,
            state: Waiting::default(),
            stored: AtomicU64::new(0),
            problem: Mutex::default(),
            is_corrupt: AtomicBool::new(false),
            meaning: meaning.clone(),
            positions: Mutex::default(),
            earlier_captions: Mutex::default(),
            changes: Semaphore::new(CHANGES),
        });
        shared.know_earlier_runs(self.earlier);
        let writer = Writer::new(shared.clone(), self.opened);
        let mut threads = vec![spawn("journal", move || writer.run())?];
        if let Some((meaning, search)) = meaning.zip(search) {
            let worker = meaning::Worker::new(shared.clone(), meaning, search.embedder);
            threads.push(spawn("embedding", move || worker.run())?);
        }
        Ok(Arc::new(StoredJournal { shared, threads }))
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

/// Checks that a folder can be used: returns what it contains.
pub fn check(folder: &Path) -> Result<String, String> {
    let shown = folder.display();
    let file = folder.join(file::FILE);
    if file.exists() {
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        let probe = |connection: &rusqlite::Connection| read::has_run(connection, 0);
        return match Readers::new(folder).read_here(probe) {
            Ok(_) => Ok(format!("{shown}: {bytes} bytes of events")),
            Err(error) => Err(format!("{shown}: {error}; `lookout run` sets a corrupt one aside")),
        };
    }
    let existing = folder.ancestors().find(|folder| folder.is_dir());
    match existing.map(tempfile::tempfile_in) {
        Some(Ok(_)) => Ok(format!("{shown}: can be written, and has no events yet")),
        Some(Err(error)) => Err(format!("{shown}: {error}; allow lookout to write there")),
        None => Err(format!("{shown}: no such folder")),
    }
}

/// State shared by the journal, its writer and its cursors.
struct Shared {
    memory: MemoryJournal,
    jpegs: Mutex<JpegQueue>,
    readers: Arc<Readers>,
    settings: Settings,
    state: Waiting<WriterState>,
    /// Sequence up to which every event of this run is in the database, or lost.
    stored: AtomicU64,
    /// The reason why events are not stored, or that something was set aside. Empty if all is well.
    problem: Mutex<String>,
    /// True if a reader found the database corrupt.
    is_corrupt: AtomicBool,
    /// The search by meaning, if the config has a model for it.
    meaning: Option<Arc<Meaning>>,
    positions: Mutex<Positions>,
    /// Each camera's newest caption of the earlier runs.
    earlier_captions: Mutex<Vec<Arc<Event>>>,
    /// A permit for each change that may wait.
    changes: Semaphore,
}

#[derive(Default)]
struct WriterState {
    /// True if events or positions wait for the writer.
    has_work: bool,
    stop: bool,
    /// Sequence up to which every event is stored, or was given up.
    written: u64,
    /// Changes to stored events, in the order of their requests.
    changes: VecDeque<Change>,
}

impl Shared {
    /// Waits for events, for `timeout` at most. Returns true if the journal was dropped.
    fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.state.wait(timeout, |state| state.has_work || state.stop);
        state.has_work = false;
        state.stop
    }

    /// Has the writer make a change, and waits for its result.
    async fn change<T>(
        &self,
        change: impl FnOnce(changes::Reply<T>) -> Change,
    ) -> Result<T, QueryError> {
        let stopping = || QueryError::Unwritable("the daemon is stopping".into());
        let _permit = self.changes.acquire().await.map_err(|_| stopping())?;
        let (reply, result) = oneshot::channel();
        self.state.change_for_all(|state| {
            state.changes.push_back(change(reply));
            state.has_work = true;
        });
        result.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Takes over what a database has of earlier runs.
    fn know_earlier_runs(&self, earlier: EarlierRuns) {
        let EarlierRuns { newest: _, positions, captions } = earlier;
        lock(&self.positions).load(&positions);
        let run = self.memory.run();
        let captions = captions.into_iter().filter(|event| event.id.run < run);
        *lock(&self.earlier_captions) = captions.map(Arc::new).collect();
    }

    fn set_written(&self, up_to: u64) {
        self.state.change_for_all(|state| state.written = up_to);
    }

    /// Returns true if the problem is a new one.
    fn set_problem(&self, problem: String) -> bool {
        let mut known = lock(&self.problem);
        let is_new = *known != problem;
        *known = problem;
        is_new
    }

    /// Waits until readers see an event.
    async fn visible(&self, sequence: u64) {
        while tokio::time::timeout(HELD_FOR, self.memory.wait_for(sequence)).await.is_err() {
            self.memory.release_late();
        }
    }

    fn take_corrupt(&self) -> bool {
        self.is_corrupt.swap(false, Ordering::Relaxed)
    }

    /// Converts an error of a read, and has the writer look at a corrupt database.
    fn unreadable(&self, error: StoreError) -> QueryError {
        if matches!(error, StoreError::Corrupt(_)) {
            self.is_corrupt.store(true, Ordering::Relaxed);
        }
        QueryError::Unreadable(error.to_string())
    }
}

/// A journal in memory and on disk.
struct StoredJournal {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl StoredJournal {
    fn cursor(&self, start: Start) -> Box<dyn Cursor> {
        Box::new(StoreCursor::new(self.shared.clone(), start))
    }
}

impl Journal for StoredJournal {
    fn run(&self) -> u64 {
        self.shared.memory.run()
    }

    fn append_with_jpegs(&self, camera: Arc<str>, body: Body, jpegs: Vec<EventJpeg>) -> Arc<Event> {
        // The queue is locked first, so that the writer does not find the event without its JPEGs.
        let mut queue = lock(&self.shared.jpegs);
        let event = self.shared.memory.append(camera, body);
        queue.push(event.id.sequence, jpegs);
        drop(queue);
        self.shared.state.change_for_all(|state| state.has_work = true);
        event
    }

    fn get(&self, run: Option<u64>, sequence: u64) -> Option<Arc<Event>> {
        if let Some(event) = self.shared.memory.get(run, sequence) {
            return Some(event);
        }
        let id = EventId { run: run.unwrap_or(self.run()), sequence };
        match self.shared.readers.read_here(|connection| read::get(connection, id)) {
            Ok(event) => event.map(Arc::new),
            Err(error) => {
                tracing::warn!("{}", self.shared.unreadable(error));
                None
            }
        }
    }

    fn read_from(&self, run: Option<u64>, sequence: u64) -> Box<dyn Cursor> {
        if run.is_none() && sequence == 0 {
            return self.cursor(Start::Oldest);
        }
        let position = EventId { run: run.unwrap_or(self.run()), sequence };
        if position.run == self.run() && sequence > self.shared.memory.newest_sequence() + 1 {
            return self.cursor(Start::Unknown);
        }
        self.cursor(Start::At(position))
    }

    fn read_new(&self) -> Box<dyn Cursor> {
        let sequence = self.shared.memory.newest_sequence() + 1;
        self.cursor(Start::At(EventId { run: self.run(), sequence }))
    }

    fn newest(&self) -> Vec<Arc<Event>> {
        let newest = self.shared.memory.newest();
        let earlier = lock(&self.shared.earlier_captions);
        let replaced = |earlier: &Arc<Event>| {
            let replaces = |newer: &Arc<Event>| {
                newer.camera == earlier.camera && newer.body.kind() == earlier.body.kind()
            };
            newest.iter().any(replaces)
        };
        let mut all: Vec<_> =
            earlier.iter().filter(|earlier| !replaced(earlier)).cloned().collect();
        all.extend(newest);
        all
    }

    fn acknowledge(&self, reader: &str, up_to: EventId) {
        if lock(&self.shared.positions).advance(reader, up_to) {
            self.shared.state.change_for_all(|state| state.has_work = true);
        }
    }

    fn acknowledged(&self, reader: &str) -> Option<EventId> {
        lock(&self.shared.positions).get(reader)
    }

    fn read_since(&self, time: SystemTime) -> Box<dyn Cursor> {
        self.cursor(Start::Since(time))
    }

    fn list(&self, query: Query) -> Pending<'_, EventPage> {
        Box::pin(async move {
            // While events cannot be stored, the newest ones are in memory only.
            let stored = self.shared.stored.load(Ordering::Relaxed);
            let mut page = self.shared.memory.page_after(stored, &query);
            if page.more {
                return Ok(page);
            }
            let after = EventId { run: self.run(), sequence: stored + 1 };
            let before = Some(query.before.map_or(after, |before| before.min(after)));
            let rest = Query { before, limit: query.limit - page.events.len(), ..query.clone() };
            let read = self.shared.readers.read(move |connection| read::list(connection, &rest));
            match read.await {
                Ok(rest) => {
                    page.events.extend(rest.events);
                    page.more = rest.more;
                    Ok(page)
                }
                // The newest events are still in memory.
                Err(error) => {
                    tracing::warn!("{}", self.shared.unreadable(error));
                    self.shared.memory.list(query).await
                }
            }
        })
    }

    fn density(&self, query: DensityQuery) -> Pending<'_, Density> {
        Box::pin(async move {
            let stored = self.shared.stored.load(Ordering::Relaxed);
            let mut newest = Density::default();
            self.shared.memory.add_density_after(stored, &query, &mut newest);
            let read = self.shared.readers.read(move |file| density::density(file, &query));
            let mut density = read.await.map_err(|error| self.shared.unreadable(error))?;
            density.merge(newest);
            Ok(density)
        })
    }

    fn search(&self, query: SearchQuery) -> Pending<'_, SearchPage> {
        Box::pin(search::search(&self.shared, query))
    }

    fn jpeg(&self, camera: String, frame: FrameId) -> Pending<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let read =
                self.shared.readers.read(move |connection| jpegs::get(connection, &camera, frame));
            read.await.map_err(|error| self.shared.unreadable(error))
        })
    }

    fn store_clip(&self, alert_id: Arc<str>, clip: Bytes) -> Pending<'_, ()> {
        let change =
            move |reply| Change::StoreClip(Storing::new(alert_id.to_string(), clip, reply));
        Box::pin(self.shared.change(change))
    }

    fn clip_chunk(&self, alert_id: String, number: u32) -> Pending<'_, Option<Bytes>> {
        Box::pin(async move {
            let read = move |connection: &_| clips::chunk(connection, &alert_id, number);
            let chunk = self.shared.readers.read(read).await;
            let chunk = chunk.map_err(|error| self.shared.unreadable(error))?;
            Ok(chunk.map(Bytes::from))
        })
    }

    fn visible(&self, sequence: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.shared.visible(sequence))
    }

    fn keep(&self, id: EventId, kept: bool) -> Pending<'_, Arc<Event>> {
        Box::pin(self.shared.change(move |reply| Change::Keep { id, kept, reply }))
    }

    fn delete(&self, deletion: Deletion) -> Pending<'_, Deleted> {
        Box::pin(self.shared.change(move |reply| Change::delete(deletion, reply)))
    }

    fn flush(&self) {
        let newest = self.shared.memory.newest_sequence();
        drop(self.shared.state.wait(FLUSH, |state| state.written >= newest));
    }

    fn trouble(&self) -> Option<String> {
        let problem = lock(&self.shared.problem).clone();
        if !problem.is_empty() {
            return Some(format!("journal: {problem}"));
        }
        self.shared.meaning.as_ref().and_then(|meaning| meaning.trouble())
    }
}

impl Drop for StoredJournal {
    fn drop(&mut self) {
        if let Some(meaning) = &self.shared.meaning {
            meaning.stop();
        }
        self.shared.state.change_for_all(|state| state.stop = true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
