//! The journal: all events, numbered, in a ring of fixed length.
//!
//! Guarantees: the writer never waits. A reader holds a [`Cursor`], reads at its own pace, and gets
//! the exact number of events it lost if the ring overtook it. The ring is in memory: each run of
//! the daemon begins a new journal at sequence 1, and a reader with a position in another run is
//! notified.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::event::{Body, Event, Kind};

/// Number of events in the daemon's journal, available to readers that connect late.
pub const CAPACITY: usize = 10_000;

pub struct Journal {
    run: u64,
    ring: Mutex<Ring>,
    /// The newest sequence. Readers wait for it to change.
    newest: watch::Sender<u64>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    capacity: usize,
    next: u64,
}

impl Journal {
    /// Creates the journal of a run. It keeps the newest `capacity` (at least 1) events.
    pub fn new(run: u64, capacity: usize) -> Arc<Journal> {
        let ring = Ring { events: VecDeque::new(), capacity: capacity.max(1), next: 1 };
        Arc::new(Journal { run, ring: Mutex::new(ring), newest: watch::Sender::new(0) })
    }

    /// Returns the run of these events.
    pub fn run(&self) -> u64 {
        self.run
    }

    pub fn append(&self, camera: Arc<str>, body: Body) -> Arc<Event> {
        let event = {
            let mut ring = self.ring();
            let sequence = ring.next;
            let published_at = SystemTime::now();
            let event = Event { run: self.run, sequence, published_at, camera, body };
            let event = Arc::new(event);
            ring.next += 1;
            if ring.events.len() == ring.capacity {
                ring.events.pop_front();
            }
            ring.events.push_back(event.clone());
            event
        };
        self.newest.send_replace(event.sequence);
        event
    }

    /// Returns a cursor that starts at event `sequence` of a run (`None`: this run). 0 is the
    /// oldest event still held. If the position belongs to another run or is beyond the next event,
    /// the cursor starts at the oldest event and first reports that events may be missing.
    pub fn from(self: &Arc<Journal>, run: Option<u64>, sequence: u64) -> Cursor {
        let ring = self.ring();
        let known = run.is_none_or(|run| run == self.run) && sequence <= ring.next;
        let next = if known && sequence > 0 { sequence } else { ring.oldest() };
        drop(ring);
        let of_another_run = !known;
        Cursor { newest: self.newest.subscribe(), journal: self.clone(), next, of_another_run }
    }

    /// Returns an event while the ring holds it. A `run` of `None` is this run.
    pub fn get(&self, run: Option<u64>, sequence: u64) -> Option<Arc<Event>> {
        if run.is_some_and(|run| run != self.run) {
            return None;
        }
        let ring = self.ring();
        let at = sequence.checked_sub(ring.oldest())?;
        ring.events.get(usize::try_from(at).ok()?).cloned()
    }

    /// Returns each camera's newest caption and newest change of state among the events up to a
    /// sequence, in order.
    pub fn newest(&self, up_to: u64) -> Vec<Arc<Event>> {
        let ring = self.ring();
        let mut seen = HashSet::new();
        let mut newest: Vec<Arc<Event>> = ring
            .events
            .iter()
            .rev()
            .skip_while(|event| event.sequence > up_to)
            .filter(|event| event.body.kind() != Kind::Answer)
            .filter(|event| seen.insert((event.camera.clone(), event.body.kind())))
            .cloned()
            .collect();
        newest.reverse();
        newest
    }

    /// Returns a cursor that reads what is appended from now on.
    pub fn live(self: &Arc<Journal>) -> Cursor {
        let next = self.ring().next;
        self.from(None, next)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is consistent between any two statements above, so a poisoned lock is still
        // usable.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn oldest(&self) -> u64 {
        self.next - self.events.len() as u64
    }
}

pub struct Cursor {
    journal: Arc<Journal>,
    newest: watch::Receiver<u64>,
    next: u64,
    /// True until the reader has been notified that its position is not valid in this run.
    of_another_run: bool,
}

#[derive(Debug, PartialEq)]
pub enum Read {
    Event(Arc<Event>),
    /// Events are missing, and reading continues after them. The value is the number of events by
    /// which the ring overtook this reader. It is `None`, unknown, if the position belongs to
    /// another run.
    Lost(Option<u64>),
}

impl Cursor {
    /// Returns the sequence that [`Cursor::next`] reads next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Returns true if there is currently nothing to read.
    pub fn is_at_end(&self) -> bool {
        self.next >= self.journal.ring().next
    }

    /// Waits for the next event. The future can be dropped at any time without losing an event.
    pub async fn next(&mut self) -> Read {
        loop {
            self.newest.borrow_and_update();
            if let Some(read) = self.try_next() {
                return read;
            }
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn try_next(&mut self) -> Option<Read> {
        let ring = self.journal.ring();
        let oldest = ring.oldest();
        if std::mem::take(&mut self.of_another_run) {
            self.next = oldest;
            return Some(Read::Lost(None));
        }
        if self.next < oldest {
            let lost = oldest - self.next;
            self.next = oldest;
            return Some(Read::Lost(Some(lost)));
        }
        let event = ring.events.get((self.next - oldest) as usize)?.clone();
        self.next += 1;
        Some(Read::Event(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CameraStatus, Phase};

    const RUN: u64 = 1_760_000_000_000;

    fn body() -> Body {
        Body::Camera(CameraStatus {
            phase: Phase::Live,
            since: SystemTime::UNIX_EPOCH,
            reason: String::new(),
            last_frame: None,
            reconnects: 0,
            decoder: String::new(),
        })
    }

    fn sequence(read: Option<Read>) -> Option<u64> {
        match read {
            Some(Read::Event(event)) => Some(event.sequence),
            _ => None,
        }
    }

    #[test]
    fn a_slow_reader_is_told_what_it_lost() {
        let journal = Journal::new(RUN, 3);
        let mut cursor = journal.from(None, 0);
        for _ in 0..5 {
            journal.append("gate".into(), body());
        }
        assert_eq!(cursor.try_next(), Some(Read::Lost(Some(2))));
        assert_eq!(sequence(cursor.try_next()), Some(3));
        assert_eq!(sequence(cursor.try_next()), Some(4));
        assert_eq!(sequence(cursor.try_next()), Some(5));
        assert_eq!(cursor.try_next(), None);
    }

    #[test]
    fn a_reader_resumes_from_its_sequence() {
        let journal = Journal::new(RUN, 10);
        for _ in 0..4 {
            journal.append("gate".into(), body());
        }
        assert_eq!(sequence(journal.from(None, 3).try_next()), Some(3));
        assert_eq!(journal.live().try_next(), None);
        assert_eq!(journal.live().position(), 5);
        assert!(journal.live().is_at_end() && !journal.from(None, 3).is_at_end());
    }

    #[test]
    fn a_reader_of_another_run_is_told_so_and_reads_everything() {
        let journal = Journal::new(RUN, 10);
        for _ in 0..8 {
            journal.append("gate".into(), body());
        }
        // A larger and a smaller sequence than this run has, and one beyond the next event.
        for (run, position) in [(RUN - 1, 501), (RUN - 1, 5), (RUN + 1, 1), (RUN, 10)] {
            let mut cursor = journal.from(Some(run), position);
            assert_eq!(cursor.try_next(), Some(Read::Lost(None)), "{run} {position}");
            assert_eq!(sequence(cursor.try_next()), Some(1), "{run} {position}");
            assert_eq!(journal.get(Some(run), position), None);
        }
        let mut cursor = journal.from(Some(RUN), 5);
        assert_eq!(sequence(cursor.try_next()), Some(5));
        assert_eq!(journal.get(Some(RUN), 5).map(|event| event.run), Some(RUN));
        assert_eq!(journal.get(None, 5).map(|event| event.sequence), Some(5));
        // A reader that has read everything waits for the next event.
        assert_eq!(journal.from(Some(RUN), 9).try_next(), None);
    }

    #[test]
    fn the_newest_of_each_camera_is_found() {
        let journal = Journal::new(RUN, 10);
        for camera in ["gate", "yard", "gate", "gate", "yard"] {
            journal.append(camera.into(), body());
        }
        let newest = |up_to| journal.newest(up_to).iter().map(|e| e.sequence).collect::<Vec<_>>();
        assert_eq!(newest(5), [4, 5]);
        assert_eq!(newest(3), [2, 3]);
        assert_eq!(newest(1), [1]);
        assert!(newest(0).is_empty());
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes() {
        let journal = Journal::new(RUN, 10);
        let mut cursor = journal.live();
        let reader = tokio::spawn(async move { cursor.next().await });
        tokio::task::yield_now().await;
        journal.append("gate".into(), body());
        assert_eq!(sequence(reader.await.ok()), Some(1));
    }
}
