//! The journal: all events, numbered in the order of their publication.
//!
//! [`Journal`] is the interface to it, and [`MemoryJournal`] keeps the newest events in memory.
//!
//! Guarantees of every journal: the writer never waits for a reader. A reader holds a [`Cursor`] and
//! reads at its own pace. It gets every event once and in order, or the exact number of events that
//! it missed. A reader with a position in another run of the daemon is notified.

mod density;
mod memory;
mod query;

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::event::{Body, Event, EventId};
use crate::frame::FrameId;

pub use density::{Bucket, Density, DensityQuery};
pub use memory::{Batch, CAPACITY, HELD_FOR, MemoryJournal};
pub use query::{
    CameraCoverage, Deleted, Deletion, EventFilter, EventPage, MeaningCoverage, Pending, Query,
    QueryError, SearchCoverage, SearchHit, SearchMode, SearchPage, SearchQuery,
};

/// Bytes of a chunk of a clip.
pub const CLIP_CHUNK: usize = 256 << 10;

/// Numbered events, appended by the daemon and read by the interfaces.
pub trait Journal: Send + Sync + 'static {
    /// Returns the run of the daemon whose events are appended. Their sequences begin at 1.
    fn run(&self) -> u64;

    /// Appends an event with the next sequence. Never waits for a reader or a disk.
    fn append(&self, camera: Arc<str>, body: Body) -> Arc<Event> {
        self.append_with_jpegs(camera, body, Vec::new())
    }

    /// Appends an event as [`Journal::append`] does, with JPEGs of its frames. A journal on disk
    /// stores them with the event, as far as its disk keeps up.
    fn append_with_jpegs(&self, camera: Arc<str>, body: Body, jpegs: Vec<EventJpeg>) -> Arc<Event>;

    /// Returns the stored JPEG of a frame.
    fn jpeg(&self, _camera: String, _frame: FrameId) -> Pending<'_, Option<Vec<u8>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Stores the clip of an alert. It belongs to the next event that says that it is ready, and is
    /// deleted with that event.
    fn store_clip(&self, alert_id: Arc<str>, clip: Bytes) -> Pending<'_, ()>;

    /// Returns a chunk of an alert's clip by its number, from 0. All but the last have
    /// [`CLIP_CHUNK`] bytes. `None` after the last one, or if there is no clip.
    fn clip_chunk(&self, alert_id: String, number: u32) -> Pending<'_, Option<Bytes>>;

    /// Returns an event while the journal holds it. A `run` of `None` is this run.
    fn get(&self, run: Option<u64>, sequence: u64) -> Option<Arc<Event>>;

    /// Returns a cursor that starts at event `sequence` of a run (`None`: this run). 0 is the
    /// oldest event still held. If the journal does not know the position, the cursor starts at the
    /// oldest event and first reports that events may be missing.
    fn read_from(&self, run: Option<u64>, sequence: u64) -> Box<dyn Cursor>;

    /// Returns a cursor that reads the events appended from now on.
    fn read_new(&self) -> Box<dyn Cursor>;

    /// Returns each camera's newest caption that is not `unchanged`, and its newest change of state
    /// in this run, among the events that readers may see, in order. They are found even if the
    /// journal no longer holds them otherwise. A caption may be of an earlier run.
    fn newest(&self) -> Vec<Arc<Event>>;

    /// Records that a named reader needs no event up to this one any more. A journal on disk stores
    /// it soon, so that the reader can continue there in a later run.
    fn acknowledge(&self, _reader: &str, _up_to: EventId) {}

    /// Returns the event up to which a named reader has acknowledged all events, in this run or in
    /// an earlier one. `None` if nothing is stored about the reader.
    fn acknowledged(&self, _reader: &str) -> Option<EventId> {
        None
    }

    /// Returns a cursor that starts at the first event published at or after a time.
    fn read_since(&self, time: SystemTime) -> Box<dyn Cursor>;

    /// Returns events from the newest to the oldest.
    fn list(&self, query: Query) -> Pending<'_, EventPage>;

    /// Counts captions over time.
    fn density(&self, query: DensityQuery) -> Pending<'_, Density>;

    /// Returns captions and answers whose texts match, the best match first.
    fn search(&self, query: SearchQuery) -> Pending<'_, SearchPage>;

    /// Waits until readers see an event of this run. It is then stored, unless that fails or takes
    /// too long.
    fn visible(&self, _sequence: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    /// Marks an event as kept, or removes the mark. Returns the event.
    fn keep(&self, _id: EventId, _kept: bool) -> Pending<'_, Arc<Event>> {
        Box::pin(std::future::ready(Err(QueryError::NoStore)))
    }

    /// Deletes events, so that no byte of them is left in memory and on disk.
    fn delete(&self, deletion: Deletion) -> Pending<'_, Deleted>;

    /// Waits until every event is stored, or cannot be. Returns at once if nothing is stored.
    fn flush(&self) {}

    /// Returns the reason why events are not stored although they should be.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// The JPEG of a frame that an event lists.
#[derive(Clone, Debug, PartialEq)]
pub struct EventJpeg {
    pub frame: FrameId,
    pub jpeg: Arc<[u8]>,
}

/// The position of a reader in a journal.
pub trait Cursor: Send + Sync {
    /// Returns the position of the event that [`Cursor::next`] reads next.
    fn position(&self) -> EventId;

    /// Returns true if there is currently nothing to read.
    fn is_at_end(&self) -> bool;

    /// Waits for the next event. The future can be dropped at any time without losing an event.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Read> + Send + '_>>;

    /// Returns the next event if it can be read without waiting.
    fn try_next(&mut self) -> Option<Read>;
}

/// A result of reading.
#[derive(Debug, PartialEq)]
pub enum Read {
    Event(Arc<Event>),
    /// Events are missing, and reading continues after them. The value is the number of events that
    /// the journal dropped before this reader read them. It is `None`, unknown, if the position
    /// belongs to another run.
    Missed(Option<u64>),
}
