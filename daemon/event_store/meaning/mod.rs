//! Search by meaning: vectors of captions and answers, on disk and in memory. A text of several
//! statements has one for each of them, and one for the whole (`passages`).
//!
//! A thread embeds the texts of stored events, new ones first, then older ones without a vector. The
//! journal's writer stores the vectors. Searches are embedded by the same thread, between two texts.
//!
//! Guarantees: neither captions nor the writer wait for the model. A vector is in memory only while
//! its event is in the database.

mod matrix;
mod passages;
mod table;
#[cfg(test)]
mod tests;
mod vector;
mod worker;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::database::RowChange;
use super::values::{StoreError, kind_number, milliseconds};
use crate::embedding::{EmbeddingError, TextEmbedder};
use crate::journal::{EventFilter, QueryError};
use crate::sync::{Waiting, lock};
use matrix::{Matrix, RowFilter};
use table::NewVectors;

pub use matrix::Found;
pub use table::{COUNTED, count_pending, store};
pub use vector::Vector;
pub use worker::Worker;

/// Maximum number of searches that wait for their vector.
const WAITING_SEARCHES: usize = 32;

/// The vectors of the journal's events.
pub struct Meaning {
    /// Identity of the vectors: the model, and that texts are divided into passages.
    model: String,
    matrix: RwLock<Matrix>,
    inbox: Waiting<Inbox>,
    /// Vectors for the writer to store.
    outgoing: Mutex<Vec<NewVectors>>,
    /// The reason why texts are not embedded. Empty if all is well.
    problem: Mutex<String>,
}

/// Work for the thread.
#[derive(Default)]
struct Inbox {
    /// True if the thread is to end, or has ended.
    stop: bool,
    /// True if another database is in use, whose vectors are to be loaded.
    reload: bool,
    /// True while vectors of the database are being loaded.
    is_loading: bool,
    /// True if events were stored that may have no vector.
    has_events: bool,
    /// True until the writer has stored the vectors that it was given.
    is_writing: bool,
    searches: VecDeque<Search>,
    /// Changes of the table of vectors, in order.
    changes: Vec<RowChange>,
}

/// A text to search for, and the receiver of its vector.
struct Search {
    text: String,
    reply: oneshot::Sender<Result<Vector, EmbeddingError>>,
}

impl Meaning {
    /// Creates the state of a search with a model. Vectors in memory take at most `bytes`.
    pub fn new(embedder: &dyn TextEmbedder, bytes: u64) -> Meaning {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        Meaning {
            model: format!("{} of passages", embedder.id()),
            matrix: RwLock::new(Matrix::new(embedder.dimensions(), bytes)),
            inbox: Waiting::default(),
            outgoing: Mutex::default(),
            problem: Mutex::default(),
        }
    }

    /// Prepares a database for the vectors of this model.
    pub fn prepare(&self, connection: &Connection) -> Result<(), StoreError> {
        table::use_model(connection, &self.model)
    }

    /// Has the vectors of another database loaded. Those that wait for the writer are discarded.
    pub fn reload(&self) {
        self.inbox.change_for_all(|inbox| {
            inbox.reload = true;
            inbox.is_loading = true;
            inbox.is_writing = false;
            inbox.changes.clear();
            lock(&self.outgoing).clear();
        });
    }

    /// Reports a change of the table of vectors. Never waits for the thread.
    pub fn changed(&self, change: RowChange) {
        self.inbox.change_for_all(|inbox| inbox.changes.push(change));
    }

    /// Reports that events were stored.
    pub fn events_stored(&self) {
        self.inbox.change_for_all(|inbox| inbox.has_events = true);
    }

    /// Takes the vectors that wait for the writer. After them it calls [`Meaning::vectors_stored`].
    pub fn take_vectors(&self) -> Vec<NewVectors> {
        std::mem::take(&mut *lock(&self.outgoing))
    }

    /// Reports that the vectors were stored, or could not be.
    pub fn vectors_stored(&self) {
        self.inbox.change_for_all(|inbox| inbox.is_writing = false);
    }

    /// Returns the vector of a text that is searched for.
    pub async fn embed(&self, text: String) -> Result<Vector, QueryError> {
        let stopped = || QueryError::NoVector("the embedding thread has ended".into());
        let (reply, received) = oneshot::channel();
        self.inbox.change_for_all(|inbox| {
            if inbox.stop {
                return Err(stopped());
            }
            if inbox.searches.len() >= WAITING_SEARCHES {
                return Err(QueryError::QueueFull(WAITING_SEARCHES));
            }
            inbox.searches.push_back(Search { text, reply });
            Ok(())
        })?;
        let vector = received.await.map_err(|_| stopped())?;
        vector.map_err(|error| QueryError::NoVector(error.to_string()))
    }

    /// Returns the events most similar to a vector, the most similar first.
    pub fn similar(&self, vector: &Vector, filter: &EventFilter, limit: usize) -> Vec<Found> {
        let filter = RowFilter {
            cameras: filter.cameras.clone(),
            kinds: filter.kinds.iter().map(|kind| kind_number(*kind)).collect(),
            since_ms: filter.since.map(milliseconds),
            until_ms: filter.until.map(milliseconds),
        };
        self.matrix().search(vector, &filter, limit)
    }

    /// Returns true while vectors of the database are being loaded.
    pub fn is_loading(&self) -> bool {
        self.inbox.lock().is_loading
    }

    /// Returns the publication time of the newest event that was left out for lack of memory, in
    /// milliseconds since 1970.
    pub fn left_out_ms(&self) -> Option<i64> {
        self.matrix().left_out_ms()
    }

    /// Returns the reason why texts are not embedded.
    pub fn trouble(&self) -> Option<String> {
        let problem = lock(&self.problem);
        (!problem.is_empty()).then(|| format!("search by meaning: {problem}"))
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.inbox.change_for_all(|inbox| {
            inbox.stop = true;
            // The receivers get an error.
            inbox.searches.clear();
        });
    }

    /// Waits until there is work, for `timeout` at most, and takes it. Events are work only if
    /// `embeds`.
    fn work(&self, timeout: Duration, embeds: bool) -> Inbox {
        let mut inbox = self.inbox.wait(timeout, |inbox| {
            let has_texts = embeds && inbox.has_events && !inbox.is_writing;
            inbox.stop
                || inbox.reload
                || has_texts
                || !inbox.searches.is_empty()
                || !inbox.changes.is_empty()
        });
        Inbox {
            stop: inbox.stop,
            reload: std::mem::take(&mut inbox.reload),
            is_loading: inbox.is_loading,
            has_events: inbox.has_events,
            is_writing: inbox.is_writing,
            searches: std::mem::take(&mut inbox.searches),
            changes: std::mem::take(&mut inbox.changes),
        }
    }

    /// Gives vectors to the writer, unless they are of a database that is no longer in use.
    fn give(&self, vectors: Vec<NewVectors>) {
        let mut inbox = self.inbox.lock();
        if !inbox.reload {
            inbox.is_writing = true;
            *lock(&self.outgoing) = vectors;
        }
    }

    fn set_problem(&self, problem: String) {
        let mut known = lock(&self.problem);
        if *known != problem {
            if !problem.is_empty() {
                tracing::error!("search by meaning: {problem}");
            }
            *known = problem;
        }
    }

    fn matrix(&self) -> RwLockReadGuard<'_, Matrix> {
        self.matrix.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn matrix_mut(&self) -> RwLockWriteGuard<'_, Matrix> {
        self.matrix.write().unwrap_or_else(PoisonError::into_inner)
    }
}
