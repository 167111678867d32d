//! The thread that embeds texts and keeps the vectors in memory up to date.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::matrix::Row;
use super::passages::passages;
use super::table::{self, NewVectors, Unembedded};
use super::vector::Vector;
use super::{Inbox, Meaning, Search};
use crate::embedding::{EmbeddingError, TextEmbedder};
use crate::event_store::Shared;
use crate::event_store::database::RowChange;
use crate::event_store::values::StoreError;
use crate::metrics;

/// Maximum number of texts that are embedded before their vectors are stored together, and the time
/// after which they are stored.
const TEXTS: usize = 256;
const BATCH_TIME: Duration = Duration::from_millis(100);

/// Number of vectors that are loaded at a time.
const LOADED: usize = 1_000;

/// Time after which a failed read or a failed model is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Longest wait for work.
const IDLE: Duration = Duration::from_secs(60);

/// Priority of the thread: the lowest is 19, and that of other threads 0.
const NICENESS: i32 = 10;

/// Text that every model accepts.
const PROBE: &str = "A first text.";

/// The thread's state.
pub struct Worker {
    shared: Arc<Shared>,
    meaning: Arc<Meaning>,
    embedder: Box<dyn TextEmbedder>,
    /// Vectors that the writer stores, by the row of their event.
    in_flight: HashMap<i64, (Row, Vec<Vector>)>,
    /// Row before which vectors are still to be loaded.
    load_before: Option<i64>,
    /// Time before which nothing is embedded, after a failure.
    next_try: Instant,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        meaning: Arc<Meaning>,
        embedder: Box<dyn TextEmbedder>,
    ) -> Worker {
        let next_try = Instant::now();
        let in_flight = HashMap::new();
        Worker { shared, meaning, embedder, in_flight, load_before: None, next_try }
    }

    /// Works until the journal is dropped.
    pub fn run(mut self) {
        lower_priority();
        // Searches must not wait for a thread that has panicked.
        let _ended = Ended(self.meaning.clone());
        let mut timeout = Duration::ZERO;
        loop {
            let may_embed = Instant::now() >= self.next_try;
            let Inbox { stop, reload, has_events, is_writing, searches, changes, .. } =
                self.meaning.work(timeout, may_embed);
            if stop {
                return;
            }
            if reload {
                self.meaning.matrix_mut().clear();
                self.load_before = Some(i64::MAX);
            }
            self.apply(changes);
            self.answer(searches);
            timeout = self.next_try.saturating_duration_since(Instant::now());
            if !timeout.is_zero() {
                continue;
            }
            timeout = IDLE;
            if let Some(before) = self.load_before {
                let loaded = self.load(before);
                self.retry_after(loaded);
                timeout = Duration::ZERO;
            } else if has_events && !is_writing {
                let embedded = self.embed_pending();
                self.retry_after(embedded);
                timeout = Duration::ZERO;
            }
        }
    }

    /// Brings the vectors in memory in line with the table.
    fn apply(&mut self, changes: Vec<RowChange>) {
        if changes.is_empty() {
            return;
        }
        let mut matrix = self.meaning.matrix_mut();
        for change in changes {
            match change {
                RowChange::Inserted(id) => {
                    if let Some((row, vectors)) = self.in_flight.remove(&id) {
                        matrix.insert(row, &vectors);
                    }
                }
                RowChange::Deleted(id) => matrix.remove(id),
            }
        }
        metrics::search_vectors(matrix.events());
    }

    /// Embeds the texts that are searched for.
    fn answer(&mut self, searches: impl IntoIterator<Item = Search>) {
        for Search { text, reply } in searches {
            let vector = self.embedder.embed(&text).map(|vector| Vector::new(&vector));
            // A client that has left does not need its vector.
            let _ = reply.send(vector);
        }
    }

    /// Loads a page of the vectors on disk.
    fn load(&mut self, before: i64) -> Result<(), String> {
        let dimensions = self.embedder.dimensions();
        let read =
            |connection: &rusqlite::Connection| table::load(connection, before, LOADED, dimensions);
        let page = self.shared.readers.read_here(read).map_err(|error| self.unreadable(error))?;
        let mut matrix = self.meaning.matrix_mut();
        self.load_before = page.last().map(|(row, _)| row.id);
        for (row, vectors) in page {
            matrix.insert(row, &vectors);
        }
        // Older vectors have no room either.
        if matrix.left_out_ms().is_some() {
            self.load_before = None;
        }
        metrics::search_vectors(matrix.events());
        drop(matrix);
        if self.load_before.is_none() {
            self.meaning.inbox.change_for_all(|inbox| {
                inbox.is_loading = inbox.reload;
                inbox.has_events = true;
            });
        }
        Ok(())
    }

    /// Embeds the newest events without a vector, and gives their vectors to the writer.
    fn embed_pending(&mut self) -> Result<(), String> {
        self.meaning.inbox.lock().has_events = false;
        let read = |connection: &rusqlite::Connection| table::pending(connection, TEXTS);
        let pending = match self.shared.readers.read_here(read) {
            Ok(pending) => pending,
            Err(error) => {
                self.meaning.events_stored();
                return Err(self.unreadable(error));
            }
        };
        if pending.is_empty() {
            return Ok(());
        }
        // There may be more.
        self.meaning.events_stored();
        // Those that are left belonged to events that were deleted.
        self.in_flight.clear();
        let begun = Instant::now();
        let mut vectors = Vec::with_capacity(pending.len());
        for Unembedded { event, row, text } in pending {
            let mut of_text = Vec::new();
            for passage in passages(&text) {
                of_text.extend(self.vector(passage)?);
            }
            let bytes = of_text.iter().flat_map(Vector::bytes).collect();
            self.in_flight.insert(row.id, (row, of_text));
            vectors.push(NewVectors { event, bytes });
            let waiting = std::mem::take(&mut self.meaning.inbox.lock().searches);
            self.answer(waiting);
            if begun.elapsed() > BATCH_TIME {
                break;
            }
        }
        self.meaning.give(vectors);
        self.shared.state.change_for_all(|state| state.has_work = true);
        Ok(())
    }

    /// Embeds a text. Returns `None` if the model works and does not accept this text.
    fn vector(&mut self, text: &str) -> Result<Option<Vector>, String> {
        match self.embedder.embed(text) {
            Ok(vector) => Ok(Some(Vector::new(&vector))),
            Err(EmbeddingError(why)) => match self.embedder.embed(PROBE) {
                Ok(_) => {
                    tracing::warn!("search by meaning: a text cannot be embedded: {why}");
                    Ok(None)
                }
                Err(EmbeddingError(why)) => Err(why),
            },
        }
    }

    fn retry_after(&mut self, done: Result<(), String>) {
        if done.is_err() {
            self.next_try = Instant::now() + RETRY;
        }
        self.meaning.set_problem(done.err().unwrap_or_default());
    }

    fn unreadable(&self, error: StoreError) -> String {
        self.shared.unreadable(error).to_string()
    }
}

/// Refuses searches when the thread ends.
struct Ended(Arc<Meaning>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.stop();
        if std::thread::panicking() {
            self.0.set_problem("its thread panicked; restart lookout".into());
        }
    }
}

/// Lets every other thread of the machine go first.
fn lower_priority() {
    // SAFETY: the call changes nothing but this thread's priority.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
    if done != 0 {
        tracing::warn!("the priority of the embedding thread could not be lowered");
    }
}
