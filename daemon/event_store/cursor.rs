//! A reader that begins in the database and continues with the newest events in memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Shared;
use super::read::{self, Following};
use super::values::StoreError;
use crate::event::{Event, EventId};
use crate::journal::{Cursor, Journal, QueryError, Read};

/// Number of events read from the database at a time.
const BATCH: usize = 256;

/// Number of times that a read is tried, and the time between two of them: long enough for a corrupt
/// file to be set aside.
const TRIES: u32 = 3;
const RETRY: Duration = Duration::from_secs(1);

/// The position before every event.
const OLDEST: EventId = EventId { run: 0, sequence: 0 };

/// The place at which a cursor starts.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// The oldest event.
    Oldest,
    /// The oldest event, after a note that events may be missing.
    Unknown,
    At(EventId),
    Since(SystemTime),
}

pub struct StoreCursor {
    shared: Arc<Shared>,
    /// The start, until it has been looked up.
    start: Option<Start>,
    /// The event that is read next.
    next: EventId,
    /// Events from `next` on, read from the database.
    read: VecDeque<Arc<Event>>,
    /// The reader of memory, while `next` is there.
    live: Option<Box<dyn Cursor>>,
}

/// A result of a step.
enum Step {
    Read(Read),
    /// Something changed: the next step finds it.
    Again,
}

impl StoreCursor {
    pub fn new(shared: Arc<Shared>, start: Start) -> StoreCursor {
        let next = match start {
            Start::At(position) => position,
            Start::Oldest | Start::Unknown | Start::Since(_) => OLDEST,
        };
        // A position among the events in memory needs no lookup.
        let start = Some(start).filter(|_| !is_in_memory(&shared, next));
        StoreCursor { shared, start, next, read: VecDeque::new(), live: None }
    }

    /// Looks up the start in the database.
    async fn begin(&mut self, start: Start) -> Step {
        let run = self.shared.memory.run();
        let found: Result<(EventId, bool), StoreError> = match start {
            Start::Oldest => Ok((OLDEST, true)),
            Start::Unknown => Ok((EventId { run, sequence: 1 }, false)),
            Start::Since(time) => {
                let first = self.shared.readers.read(move |c| read::first_since(c, time)).await;
                let in_memory = || self.shared.memory.read_since(time).position();
                first.map(|first| (first.unwrap_or_else(in_memory), true))
            }
            Start::At(position) if position.run == run => Ok((position, true)),
            Start::At(position) if position.run > run => Ok((EventId { run, sequence: 1 }, false)),
            Start::At(position) => {
                let of = position.run;
                let known = self.shared.readers.read(move |c| read::has_run(c, of)).await;
                // The reader of an unknown run learns only once that events are missing.
                let next =
                    |known| if known { position } else { EventId { sequence: 0, ..position } };
                known.map(|known| (next(known), known))
            }
        };
        let (next, is_known) = found.unwrap_or_else(|error| {
            tracing::warn!("{}", self.shared.unreadable(error));
            (EventId { run, sequence: self.shared.memory.oldest() }, false)
        });
        self.start = None;
        self.next = next;
        if is_known { Step::Again } else { Step::Read(Read::Missed(None)) }
    }

    /// Reads the next events from the database.
    async fn fetch(&mut self) -> Step {
        let (run, from) = (self.shared.memory.run(), self.next);
        let found = self.read_from_disk(from).await;
        let unreadable = |_| Following { events: Vec::new(), may_miss: true };
        let Following { events, may_miss } = found.unwrap_or_else(unreadable);
        let released = self.shared.memory.released();
        // An event that is stored but not released follows from memory.
        let visible = |event: &Arc<Event>| event.id.run != run || event.id.sequence <= released;
        self.read = events.into_iter().take_while(visible).collect();
        if let Some(first) = self.read.front() {
            if !may_miss {
                return Step::Again;
            }
            self.next = EventId { run: first.id.run, sequence: 1 };
            return Step::Read(Read::Missed(None));
        }
        // Nothing is stored from here on: memory follows.
        let oldest = self.shared.memory.oldest();
        let expected = if self.next.run == run { self.next.sequence.max(1) } else { 1 };
        self.next = EventId { run, sequence: oldest.max(expected) };
        if may_miss && from.run != run {
            return Step::Read(Read::Missed(None));
        }
        match oldest.saturating_sub(expected) {
            0 => Step::Again,
            missed => Step::Read(Read::Missed(Some(missed))),
        }
    }

    /// Reads events from the database, and tries again if it is busy or being replaced.
    async fn read_from_disk(&self, from: EventId) -> Result<Following, QueryError> {
        let mut tries = 0;
        loop {
            let found = self.shared.readers.read(move |c| read::from(c, from, BATCH)).await;
            let error = match found {
                Ok(found) => return Ok(found),
                Err(error) => self.shared.unreadable(error),
            };
            tries += 1;
            if tries == TRIES {
                tracing::warn!("a reader skips events: {error}");
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Returns what can be read without the database.
    fn step(&mut self) -> Option<Step> {
        if self.start.is_some() {
            return None;
        }
        if let Some(first) = self.read.front() {
            let first = first.id;
            let expected = if first.run == self.next.run { self.next.sequence.max(1) } else { 1 };
            let missed = first.sequence.saturating_sub(expected);
            // From the oldest event on, nothing is missed.
            if missed > 0 && self.next != OLDEST {
                self.next = first;
                return Some(Step::Read(Read::Missed(Some(missed))));
            }
        }
        if let Some(event) = self.read.pop_front() {
            self.next = after(event.id);
            return Some(Step::Read(Read::Event(event)));
        }
        if !is_in_memory(&self.shared, self.next) {
            self.live = None;
            return None;
        }
        let live =
            self.live.get_or_insert_with(|| self.shared.memory.read_from(None, self.next.sequence));
        match live.try_next()? {
            Read::Event(event) => {
                self.next = after(event.id);
                Some(Step::Read(Read::Event(event)))
            }
            // The events were deleted.
            Read::Missed(Some(missed)) if is_in_memory(&self.shared, self.next) => {
                self.next.sequence += missed;
                Some(Step::Read(Read::Missed(Some(missed))))
            }
            // The event left memory just now: the database has it.
            Read::Missed(_) => {
                self.live = None;
                Some(Step::Again)
            }
        }
    }
}

/// Returns true if memory holds an event, or it is the next one to come.
fn is_in_memory(shared: &Shared, position: EventId) -> bool {
    position.run == shared.memory.run() && position.sequence >= shared.memory.oldest()
}

fn after(id: EventId) -> EventId {
    EventId { run: id.run, sequence: id.sequence + 1 }
}

impl Cursor for StoreCursor {
    fn position(&self) -> EventId {
        self.next
    }

    fn is_at_end(&self) -> bool {
        self.start.is_none()
            && self.next.run == self.shared.memory.run()
            && self.next.sequence > self.shared.memory.released()
    }

    fn next(&mut self) -> Pin<Box<dyn Future<Output = Read> + Send + '_>> {
        Box::pin(async {
            loop {
                let step = match (self.step(), self.start) {
                    (Some(step), _) => step,
                    (None, Some(start)) => self.begin(start).await,
                    (None, None) if is_in_memory(&self.shared, self.next) => {
                        self.shared.visible(self.next.sequence).await;
                        Step::Again
                    }
                    (None, None) => self.fetch().await,
                };
                if let Step::Read(read) = step {
                    return read;
                }
            }
        })
    }

    fn try_next(&mut self) -> Option<Read> {
        loop {
            if let Step::Read(read) = self.step()? {
                return Some(read);
            }
        }
    }
}
