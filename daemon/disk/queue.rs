//! What the disk is to do: pure rules, no disk.
//!
//! Reading goes before writing, for somebody waits. At most `capacity` frames wait to be written;
//! one more is not written, and the camera's next record says so.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Record;
use crate::frame::FrameId;
use crate::timeline::Place;

/// A frame on its way to the disk.
pub struct Write {
    pub record: Record,
    pub jpeg: Arc<[u8]>,
}

/// A frame that is wanted back.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub camera: Arc<str>,
    pub id: FrameId,
    /// `None`: on its way there.
    pub place: Option<Place>,
}

/// Frames that are wanted back, and who gets them: their JPEGs in the same order, `None` where it
/// could not be read.
pub struct Read {
    pub wanted: Vec<Wanted>,
    pub to: Box<dyn FnOnce(Jpegs) + Send>,
}

pub type Jpegs = Vec<Option<Arc<[u8]>>>;

pub enum Job {
    Read(Read),
    Write(Write),
    /// Nothing was to be done for a while.
    Idle,
}

pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    reads: VecDeque<Read>,
    writes: VecDeque<Write>,
    /// Cameras of which frames were not written since the last that waits.
    missing: HashSet<Arc<str>>,
    closed: bool,
}

impl Queue {
    pub fn new(capacity: usize) -> Queue {
        Queue { state: Mutex::default(), filled: Condvar::new(), capacity }
    }

    /// Returns whether the frame will be tried to be written.
    pub fn write(&self, mut write: Write) -> bool {
        let mut state = self.state();
        if state.closed || state.writes.len() >= self.capacity {
            state.missing.insert(write.record.camera.clone());
            return false;
        }
        write.record.missing_before |= state.missing.remove(&write.record.camera);
        state.writes.push_back(write);
        drop(state);
        self.filled.notify_one();
        true
    }

    /// Gives the read back when there is nobody any more to do it. As many wait as questions may.
    pub fn read(&self, read: Read) -> Result<(), Read> {
        let mut state = self.state();
        if state.closed {
            return Err(read);
        }
        state.reads.push_back(read);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The frame before those of this camera that wait could not be written.
    pub fn missed(&self, camera: &Arc<str>) {
        let mut state = self.state();
        match state.writes.iter_mut().find(|write| write.record.camera == *camera) {
            Some(next) => next.record.missing_before = true,
            None => drop(state.missing.insert(camera.clone())),
        }
    }

    /// The JPEG of a frame that waits to be written.
    pub fn waiting(&self, camera: &str, id: FrameId) -> Option<Arc<[u8]>> {
        let state = self.state();
        let of_it = |write: &&Write| *write.record.camera == *camera && write.record.id == id;
        state.writes.iter().find(of_it).map(|write| write.jpeg.clone())
    }

    /// Waits at most `patience`. `None`: closed, and all that waited is done.
    pub fn next(&self, patience: Duration) -> Option<Job> {
        let state = self.state();
        let empty =
            |state: &mut State| state.reads.is_empty() && state.writes.is_empty() && !state.closed;
        let (mut state, _) = self
            .filled
            .wait_timeout_while(state, patience, empty)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = state.reads.pop_front() {
            return Some(Job::Read(read));
        }
        if let Some(write) = state.writes.pop_front() {
            return Some(Job::Write(write));
        }
        if state.closed { None } else { Some(Job::Idle) }
    }

    pub fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after each method, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn write(number: u64) -> Write {
        let mut record = record("gate", number);
        record.missing_before = false;
        Write { record, jpeg: vec![number as u8].into() }
    }

    #[test]
    fn full_means_not_written_and_the_next_record_says_so() {
        let queue = Queue::new(2);
        assert!(queue.write(write(0)) && queue.write(write(1)));
        assert!(!queue.write(write(2)));
        assert_eq!(queue.waiting("gate", write(1).record.id), Some([1].into()));
        assert_eq!(queue.waiting("gate", write(2).record.id), None);
        let next = || match queue.next(Duration::ZERO) {
            Some(Job::Write(write)) => (write.record.id.number, write.record.missing_before),
            _ => panic!("nothing to write"),
        };
        assert_eq!(next(), (0, false));
        // One that fails is missing before the one behind it.
        queue.missed(&"gate".into());
        assert_eq!(next(), (1, true));
        assert!(queue.write(write(3)) && queue.write(write(4)));
        assert_eq!((next(), next()), ((3, true), (4, false)));
    }

    #[test]
    fn reading_goes_first_and_closing_lets_writes_end() {
        let queue = Queue::new(8);
        queue.write(write(0));
        let read = || Read { wanted: Vec::new(), to: Box::new(|_| ()) };
        assert!(queue.read(read()).is_ok());
        queue.close();
        assert!(queue.read(read()).is_err());
        assert!(!queue.write(write(1)));
        assert!(matches!(queue.next(Duration::ZERO), Some(Job::Read(_))));
        assert!(matches!(queue.next(Duration::ZERO), Some(Job::Write(_))));
        assert!(queue.next(Duration::ZERO).is_none());
    }
}
