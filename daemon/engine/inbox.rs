//! Frames on their way from the cameras to the vision worker.
//!
//! A camera never waits: of its frames at most `capacity` wait here, and the oldest of them leaves
//! for the newest. The worker takes them in turn over the cameras, so that one camera's burst does
//! not push others back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// A frame and the moment it came.
pub struct Arrival {
    pub frame: Frame,
    pub at: Instant,
}

pub struct Inbox {
    state: Mutex<State>,
    filled: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    waiting: HashMap<Arc<str>, VecDeque<Arrival>>,
    /// Cameras with waiting frames, the one whose turn it is first.
    turns: VecDeque<Arc<str>>,
    closed: bool,
}

impl Inbox {
    /// `capacity` (at least 1) frames a camera.
    pub fn new(capacity: usize) -> Inbox {
        Inbox { state: Mutex::default(), filled: Condvar::new(), capacity: capacity.max(1) }
    }

    /// Returns whether an older frame had to leave.
    pub fn push(&self, frame: Frame) -> bool {
        let mut state = self.state();
        let camera = frame.camera.clone();
        let waiting = state.waiting.entry(camera.clone()).or_default();
        let full = waiting.len() == self.capacity;
        if full {
            waiting.pop_front();
        }
        let first = waiting.is_empty();
        waiting.push_back(Arrival { frame, at: Instant::now() });
        if first {
            state.turns.push_back(camera);
        }
        drop(state);
        self.filled.notify_one();
        full
    }

    /// Up to `most` frames, in turn over the cameras; each camera's in order. Waits at most
    /// `patience` for the first. `None`: closed.
    pub fn take(&self, most: usize, patience: Duration) -> Option<Vec<Arrival>> {
        let state = self.state();
        let (mut state, _) = self
            .filled
            .wait_timeout_while(state, patience, |state| state.turns.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some(camera) = state.turns.pop_front() else { break };
            let Some(waiting) = state.waiting.get_mut(&camera) else { continue };
            taken.extend(waiting.pop_front());
            if !waiting.is_empty() {
                state.turns.push_back(camera);
            }
        }
        Some(taken)
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
    use std::time::SystemTime;

    use super::*;
    use crate::frame::Clock;

    fn frame(camera: &str, number: u64) -> Frame {
        Frame {
            camera: camera.into(),
            number,
            captured_at: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            clock: Clock::Host,
            width: 0,
            height: 0,
            bgrx: bytes::Bytes::new(),
        }
    }

    fn taken(inbox: &Inbox, most: usize) -> Vec<(String, u64)> {
        let taken = inbox.take(most, Duration::ZERO).expect("open");
        taken.iter().map(|a| (a.frame.camera.to_string(), a.frame.number)).collect()
    }

    #[test]
    fn full_means_the_oldest_of_that_camera_leaves() {
        let inbox = Inbox::new(2);
        assert!(!inbox.push(frame("a", 0)));
        assert!(!inbox.push(frame("b", 0)));
        assert!(!inbox.push(frame("a", 1)));
        assert!(inbox.push(frame("a", 2)));
        let all = [("a", 1), ("b", 0), ("a", 2)].map(|(c, n)| (c.to_string(), n));
        assert_eq!(taken(&inbox, 8), all);
        assert_eq!(taken(&inbox, 8), []);
    }

    #[test]
    fn cameras_take_turns() {
        let inbox = Inbox::new(8);
        for number in 0..4 {
            inbox.push(frame("a", number));
        }
        inbox.push(frame("b", 0));
        let first = [("a", 0), ("b", 0), ("a", 1)].map(|(c, n)| (c.to_string(), n));
        assert_eq!(taken(&inbox, 3), first);
        inbox.close();
        assert!(inbox.take(1, Duration::from_secs(60)).is_none());
    }
}
