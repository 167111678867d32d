//! A journal in memory: a ring of the newest events.
//!
//! Each run of the daemon begins an empty journal. The ring can hold events back from its readers
//! until they are stored on disk, within [`HELD_MAX`] and [`HELD_FOR`].

mod clips;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use clips::ClipRing;

use super::{
    CLIP_CHUNK, Cursor, Deleted, Deletion, Density, DensityQuery, EventJpeg, EventPage, Journal,
    Pending, Query, QueryError, Read, SearchPage, SearchQuery,
};
use crate::event::{Body, Event, EventId, EventKind};
use crate::sync::lock;

/// Number of events that the daemon's journal holds for readers that connect late.
pub const CAPACITY: usize = 10_000;

/// Maximum number of events that are held back from readers.
const HELD_MAX: u64 = 1_024;

/// Longest time for which an event is held back.
pub const HELD_FOR: Duration = Duration::from_secs(1);

/// A journal that holds a fixed number of events.
#[derive(Clone)]
pub struct MemoryJournal(Arc<Shared>);

/// State shared by the journal and its cursors.
struct Shared {
    run: u64,
    ring: Mutex<Ring>,
    clips: Mutex<ClipRing>,
    /// The newest sequence. Readers wait for it to change.
    newest: watch::Sender<u64>,
}

struct Ring {
    /// The newest events in order, `None` for one that was deleted.
    events: VecDeque<Option<Arc<Event>>>,
    /// Each camera's newest caption and newest change of state among the events that have left the
    /// ring, for [`Journal::newest`].
    left: HashMap<(Arc<str>, EventKind), Arc<Event>>,
    capacity: usize,
    next: u64,
    /// Sequence of the newest event that readers may see.
    released: u64,
    /// True if new events are held back until they are released.
    holds_back: bool,
    /// Time of the first event that is held back.
    held_since: Option<Instant>,
}

/// Consecutive events.
pub struct Batch {
    /// The events that were not deleted.
    pub events: Vec<Arc<Event>>,
    /// Number of events before them that left the ring.
    pub dropped: u64,
    /// The last sequence of the batch, also if that event was deleted.
    pub up_to: u64,
}

impl MemoryJournal {
    /// Creates the journal of a run. It holds the newest `capacity` (at least 1) events.
    pub fn shared(run: u64, capacity: usize) -> Arc<dyn Journal> {
        Arc::new(MemoryJournal::new(run, capacity))
    }

    pub fn new(run: u64, capacity: usize) -> MemoryJournal {
        let ring = Ring {
            events: VecDeque::new(),
            left: HashMap::new(),
            capacity: capacity.max(1),
            next: 1,
            released: 0,
            holds_back: false,
            held_since: None,
        };
        let newest = watch::Sender::new(0);
        MemoryJournal(Arc::new(Shared {
            run,
            ring: Mutex::new(ring),
            clips: Mutex::default(),
            newest,
        }))
    }

    /// Sets whether new events wait for [`MemoryJournal::release`] before readers see them. False
    /// releases all.
    pub fn hold_back(&self, holds_back: bool) {
        let newest = {
            let mut ring = self.0.ring();
            ring.holds_back = holds_back;
            ring.next - 1
        };
        if !holds_back {
            self.release(newest);
        }
    }

    /// Lets readers see the events up to a sequence, and holds back the later ones.
    pub fn hold_back_after(&self, up_to: u64) {
        self.0.ring().holds_back = true;
        self.release(up_to);
    }

    /// Lets readers see the events up to a sequence.
    pub fn release(&self, up_to: u64) {
        let released = {
            let mut ring = self.0.ring();
            ring.release(up_to);
            ring.released
        };
        self.0.newest.send_replace(released);
    }

    /// Lets readers see all events if one of them is held back for too long.
    pub fn release_late(&self) {
        let late = {
            let ring = self.0.ring();
            let is_late = ring.held_since.is_some_and(|since| since.elapsed() >= HELD_FOR);
            is_late.then_some(ring.next - 1)
        };
        if let Some(newest) = late {
            self.release(newest);
        }
    }

    /// Returns the oldest events after a sequence, at most `limit`.
    pub fn after(&self, sequence: u64, limit: usize) -> Batch {
        let ring = self.0.ring();
        let first = (sequence + 1).max(ring.oldest());
        let skipped = usize::try_from(first - ring.oldest()).unwrap_or(usize::MAX);
        let up_to = (first - 1 + limit as u64).min(ring.next - 1);
        let events = ring.events.iter().skip(skipped).take(limit).flatten().cloned().collect();
        Batch { events, dropped: first - (sequence + 1), up_to }
    }

    /// Replaces an event by another version of it, if it is held.
    pub fn replace(&self, event: Arc<Event>) {
        let mut ring = self.0.ring();
        if event.id.run == self.0.run
            && let Some(held @ Some(_)) = ring.slot(event.id.sequence)
        {
            *held = Some(event);
        }
    }

    /// Deletes events. Returns their sequences.
    pub fn delete_events(&self, deletion: &Deletion) -> Vec<u64> {
        let mut ring = self.0.ring();
        ring.left.retain(|_, event| !deletion.includes(event));
        let mut deleted = Vec::new();
        for slot in &mut ring.events {
            if let Some(event) = slot.take_if(|event| deletion.includes(event)) {
                if let Body::Alert(alert) = &event.body {
                    lock(&self.0.clips).remove(&alert.alert_id);
                }
                deleted.push(event.id.sequence);
            }
        }
        deleted
    }

    /// Returns the page of the events after a sequence.
    pub fn page_after(&self, sequence: u64, query: &Query) -> EventPage {
        let ring = self.0.ring();
        let later =
            ring.events.iter().rev().flatten().take_while(|event| event.id.sequence > sequence);
        let wanted = later.filter(|event| {
            event.id.sequence <= ring.released
                && query.before.is_none_or(|before| event.id < before)
                && query.filter.wants(event)
        });
        let mut events: Vec<_> = wanted.take(query.limit.saturating_add(1)).cloned().collect();
        let more = events.len() > query.limit;
        events.truncate(query.limit);
        EventPage { events, more }
    }

    /// Counts the captions after a sequence.
    pub fn add_density_after(&self, sequence: u64, query: &DensityQuery, density: &mut Density) {
        let ring = self.0.ring();
        let later =
            ring.events.iter().rev().flatten().take_while(|event| event.id.sequence > sequence);
        for event in later.filter(|event| event.id.sequence <= ring.released) {
            density.add_event(query, event);
        }
    }

    /// Returns the sequence of the oldest event that is held.
    pub fn oldest(&self) -> u64 {
        self.0.ring().oldest()
    }

    /// Returns the sequence of the newest event that readers may see.
    pub fn released(&self) -> u64 {
        self.0.ring().released
    }

    /// Waits until readers may see an event.
    pub async fn wait_for(&self, sequence: u64) {
        let mut newest = self.0.newest.subscribe();
        // The sender is in this journal and cannot be gone.
        let _ = newest.wait_for(|newest| *newest >= sequence).await;
    }

    /// Returns the sequence of the newest event.
    pub fn newest_sequence(&self) -> u64 {
        self.0.ring().next - 1
    }

    fn cursor(&self, next: u64, is_of_another_run: bool) -> Box<dyn Cursor> {
        let (shared, newest) = (self.0.clone(), self.0.newest.subscribe());
        Box::new(MemoryCursor { shared, newest, next, is_of_another_run })
    }
}

impl Journal for MemoryJournal {
    fn run(&self) -> u64 {
        self.0.run
    }

    fn append_with_jpegs(
        &self,
        camera: Arc<str>,
        body: Body,
        _jpegs: Vec<EventJpeg>,
    ) -> Arc<Event> {
        let (event, released) = {
            let mut ring = self.0.ring();
            let event = ring.append(self.0.run, camera, body);
            (event, ring.released)
        };
        self.0.newest.send_replace(released);
        event
    }

    fn store_clip(&self, alert_id: Arc<str>, clip: Bytes) -> Pending<'_, ()> {
        Box::pin(std::future::ready(lock(&self.0.clips).push(alert_id, clip)))
    }

    fn clip_chunk(&self, alert_id: String, number: u32) -> Pending<'_, Option<Bytes>> {
        let clips = lock(&self.0.clips);
        let chunk = clips.get(&alert_id).and_then(|clip| {
            let from = (number as usize).checked_mul(CLIP_CHUNK).filter(|at| *at < clip.len())?;
            Some(clip.slice(from..clip.len().min(from + CLIP_CHUNK)))
        });
        Box::pin(std::future::ready(Ok(chunk)))
    }

    fn get(&self, run: Option<u64>, sequence: u64) -> Option<Arc<Event>> {
        if run.is_some_and(|run| run != self.0.run) {
            return None;
        }
        self.0.ring().get(sequence).cloned()
    }

    fn read_from(&self, run: Option<u64>, sequence: u64) -> Box<dyn Cursor> {
        let ring = self.0.ring();
        let (oldest, next) = (ring.oldest(), ring.next);
        drop(ring);
        let is_known = run.is_none_or(|run| run == self.0.run) && sequence <= next;
        let start = if is_known && sequence > 0 { sequence } else { oldest };
        self.cursor(start, !is_known)
    }

    fn read_new(&self) -> Box<dyn Cursor> {
        let next = self.0.ring().next;
        self.cursor(next, false)
    }

    fn newest(&self) -> Vec<Arc<Event>> {
        let ring = self.0.ring();
        let up_to = ring.released;
        let mut left: Vec<&Arc<Event>> =
            ring.left.values().filter(|event| event.id.sequence <= up_to).collect();
        left.sort_by_key(|event| Reverse(event.id.sequence));
        let mut seen = HashSet::new();
        let mut newest: Vec<Arc<Event>> = ring
            .events
            .iter()
            .rev()
            .flatten()
            .skip_while(|event| event.id.sequence > up_to)
            .chain(left)
            .filter(|event| shows_a_camera(&event.body))
            .filter(|event| seen.insert((event.camera.clone(), event.body.kind())))
            .cloned()
            .collect();
        newest.reverse();
        newest
    }

    fn read_since(&self, time: SystemTime) -> Box<dyn Cursor> {
        let ring = self.0.ring();
        let first = ring.events.iter().flatten().find(|event| event.published_at >= time);
        let next = first.map_or(ring.next, |event| event.id.sequence);
        drop(ring);
        self.cursor(next, false)
    }

    fn list(&self, query: Query) -> Pending<'_, EventPage> {
        Box::pin(std::future::ready(Ok(self.page_after(0, &query))))
    }

    fn density(&self, query: DensityQuery) -> Pending<'_, Density> {
        let mut density = Density::default();
        self.add_density_after(0, &query, &mut density);
        Box::pin(std::future::ready(Ok(density)))
    }

    fn delete(&self, deletion: Deletion) -> Pending<'_, Deleted> {
        let events = self.delete_events(&deletion).len() as u64;
        // Without a journal on disk, no event is kept and no JPEG is stored.
        let deleted = Deleted { events, ..Deleted::default() };
        Box::pin(std::future::ready(Ok(deleted)))
    }

    fn search(&self, _query: SearchQuery) -> Pending<'_, SearchPage> {
        Box::pin(std::future::ready(Err(QueryError::NoStore)))
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }
}

impl Ring {
    fn append(&mut self, run: u64, camera: Arc<str>, body: Body) -> Arc<Event> {
        let id = EventId { run, sequence: self.next };
        let event = Arc::new(Event::new(id, SystemTime::now(), camera, body));
        self.next += 1;
        if self.events.len() == self.capacity
            && let Some(Some(event)) = self.events.pop_front()
            && shows_a_camera(&event.body)
        {
            self.left.insert((event.camera.clone(), event.body.kind()), event);
        }
        self.events.push_back(Some(event.clone()));
        let held_since = *self.held_since.get_or_insert_with(Instant::now);
        let is_full = event.id.sequence - self.released > HELD_MAX;
        if !self.holds_back || is_full || held_since.elapsed() > HELD_FOR {
            self.release(event.id.sequence);
        }
        event
    }

    fn release(&mut self, up_to: u64) {
        self.released = self.released.max(up_to);
        let holds_more = self.released < self.next - 1;
        self.held_since = holds_more.then(Instant::now);
    }

    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    fn get(&self, sequence: u64) -> Option<&Arc<Event>> {
        let at = sequence.checked_sub(self.oldest())?;
        self.events.get(usize::try_from(at).ok()?)?.as_ref()
    }

    fn slot(&mut self, sequence: u64) -> Option<&mut Option<Arc<Event>>> {
        let at = sequence.checked_sub(self.oldest())?;
        self.events.get_mut(usize::try_from(at).ok()?)
    }

    /// Returns the number of consecutive events from a sequence on that readers may see and that
    /// were deleted.
    fn deleted_from(&self, sequence: u64) -> u64 {
        let deleted = |at: &u64| self.get(*at).is_none();
        (sequence..=self.released).take_while(deleted).count() as u64
    }
}

/// Returns true for an event that shows how a camera is, until the next one of its kind.
fn shows_a_camera(body: &Body) -> bool {
    match body {
        Body::Caption(caption) => caption.unchanged.is_none(),
        Body::CameraStatus(_) => true,
        Body::Answer(_) | Body::Alert(_) | Body::RuleStatus(_) => false,
    }
}

/// A reader of the ring.
struct MemoryCursor {
    shared: Arc<Shared>,
    newest: watch::Receiver<u64>,
    next: u64,
    /// True until the reader has been notified that its position is not valid in this run.
    is_of_another_run: bool,
}

impl Cursor for MemoryCursor {
    fn position(&self) -> EventId {
        EventId { run: self.shared.run, sequence: self.next }
    }

    fn is_at_end(&self) -> bool {
        self.next > self.shared.ring().released
    }

    fn next(&mut self) -> Pin<Box<dyn Future<Output = Read> + Send + '_>> {
        Box::pin(async {
            loop {
                self.newest.borrow_and_update();
                if let Some(read) = self.try_next() {
                    return read;
                }
                if self.newest.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        })
    }

    fn try_next(&mut self) -> Option<Read> {
        let ring = self.shared.ring();
        let oldest = ring.oldest();
        if std::mem::take(&mut self.is_of_another_run) {
            self.next = oldest;
            return Some(Read::Missed(None));
        }
        if self.next < oldest {
            let missed = oldest - self.next;
            self.next = oldest;
            return Some(Read::Missed(Some(missed)));
        }
        let deleted = ring.deleted_from(self.next);
        if deleted > 0 {
            self.next += deleted;
            return Some(Read::Missed(Some(deleted)));
        }
        let event = ring.get(self.next).filter(|event| event.id.sequence <= ring.released)?.clone();
        self.next += 1;
        Some(Read::Event(event))
    }
}

#[cfg(test)]
mod tests;
