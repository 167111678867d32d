//! The journal: every event, numbered, in a ring of fixed length.
//!
//! The writer never waits. A reader holds a [`Cursor`], reads at its own pace, and is told exactly
//! how many events it lost when the ring overtook it. The ring lives in memory: a restart of the
//! daemon begins a new journal at sequence 1.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::event::{Body, Event};

pub struct Journal {
    ring: Mutex<Ring>,
    /// Holds the newest sequence; readers wait for it to change.
    newest: watch::Sender<u64>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    capacity: usize,
    next: u64,
}

impl Journal {
    /// A journal that keeps the newest `capacity` (at least 1) events.
    pub fn new(capacity: usize) -> Arc<Journal> {
        let ring = Ring { events: VecDeque::new(), capacity: capacity.max(1), next: 1 };
        Arc::new(Journal { ring: Mutex::new(ring), newest: watch::Sender::new(0) })
    }

    pub fn append(&self, camera: Arc<str>, body: Body) -> Arc<Event> {
        let event = {
            let mut ring = self.ring();
            let sequence = ring.next;
            let published_at = SystemTime::now();
            let event = Arc::new(Event { sequence, published_at, camera, body });
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

    /// Reads from the event `sequence` on; 0 is the oldest still held, and so is a sequence that
    /// is still to come: its reader remembers an earlier run of the daemon.
    pub fn from(self: &Arc<Journal>, sequence: u64) -> Cursor {
        let ring = self.ring();
        let next = match sequence {
            1.. if sequence <= ring.next => sequence,
            _ => ring.oldest(),
        };
        drop(ring);
        Cursor { newest: self.newest.subscribe(), journal: self.clone(), next }
    }

    /// The event of this sequence, while the ring holds it.
    pub fn get(&self, sequence: u64) -> Option<Arc<Event>> {
        let ring = self.ring();
        let at = sequence.checked_sub(ring.oldest())?;
        ring.events.get(usize::try_from(at).ok()?).cloned()
    }

    /// Reads what is appended from now on.
    pub fn live(self: &Arc<Journal>) -> Cursor {
        let next = self.ring().next;
        self.from(next)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The ring is whole between any two statements above, so a poisoned lock is still good.
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
}

#[derive(Debug, PartialEq)]
pub enum Read {
    Event(Arc<Event>),
    /// The ring overtook this reader: so many events are gone; reading goes on behind them.
    Lost(u64),
}

impl Cursor {
    /// The sequence that [`Cursor::next`] wants next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Waits for the next event. Safe to drop at any moment: nothing is skipped.
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
        if self.next < oldest {
            let lost = oldest - self.next;
            self.next = oldest;
            return Some(Read::Lost(lost));
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
        let journal = Journal::new(3);
        let mut cursor = journal.from(0);
        for _ in 0..5 {
            journal.append("gate".into(), body());
        }
        assert_eq!(cursor.try_next(), Some(Read::Lost(2)));
        assert_eq!(sequence(cursor.try_next()), Some(3));
        assert_eq!(sequence(cursor.try_next()), Some(4));
        assert_eq!(sequence(cursor.try_next()), Some(5));
        assert_eq!(cursor.try_next(), None);
    }

    #[test]
    fn a_reader_resumes_from_its_sequence() {
        let journal = Journal::new(10);
        for _ in 0..4 {
            journal.append("gate".into(), body());
        }
        assert_eq!(sequence(journal.from(3).try_next()), Some(3));
        assert_eq!(journal.live().try_next(), None);
        assert_eq!(journal.live().position(), 5);
    }

    #[tokio::test]
    async fn a_waiting_reader_wakes() {
        let journal = Journal::new(10);
        let mut cursor = journal.live();
        let reader = tokio::spawn(async move { cursor.next().await });
        tokio::task::yield_now().await;
        journal.append("gate".into(), body());
        assert_eq!(sequence(reader.await.ok()), Some(1));
    }
}
