//! What waits for the vision worker: frames from the cameras, and frames that a question wants
//! encoded again.
//!
//! A camera never waits: of its frames at most `capacity` wait here, and the oldest of them leaves
//! for the newest. The worker takes them in turn over the cameras, so that one camera's burst does
//! not push others back. Questions go first, in turn; but after a turn of theirs the cameras have
//! one, so that the past never takes more than half of the present.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// A frame and the moment it came.
pub struct Arrival {
    pub frame: Frame,
    pub at: Instant,
}

/// What the worker does next.
pub enum Work<R> {
    /// None, when nothing came for a while.
    Frames(Vec<Arrival>),
    /// A question's: some of its frames, and then back with it by [`Inbox::recall`].
    Recall(R),
}

pub struct Inbox<R> {
    state: Mutex<State<R>>,
    filled: Condvar,
    capacity: usize,
}

struct State<R> {
    waiting: HashMap<Arc<str>, VecDeque<Arrival>>,
    /// Cameras with waiting frames, the one whose turn it is first.
    turns: VecDeque<Arc<str>>,
    recalls: VecDeque<R>,
    /// The last turn was a recall's.
    recalled: bool,
    closed: bool,
}

impl<R> Inbox<R> {
    /// `capacity` (at least 1) frames a camera.
    pub fn new(capacity: usize) -> Inbox<R> {
        let state = State {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            recalls: VecDeque::new(),
            recalled: false,
            closed: false,
        };
        let state = Mutex::new(state);
        Inbox { state, filled: Condvar::new(), capacity: capacity.max(1) }
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

    /// A question's frames wait for their turn. As many wait as questions may. Gives them back when
    /// the inbox is closed.
    pub fn recall(&self, recall: R) -> Result<(), R> {
        let mut state = self.state();
        if state.closed {
            return Err(recall);
        }
        state.recalls.push_back(recall);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Forgets recalls that nobody waits for any more.
    pub fn retain(&self, waited_for: impl FnMut(&R) -> bool) {
        self.state().recalls.retain(waited_for);
    }

    /// The next recall, or up to `most` frames, in turn over the cameras; each camera's in order.
    /// Waits at most `patience` for the first. `None`: closed.
    pub fn take(&self, most: usize, patience: Duration) -> Option<Work<R>> {
        let state = self.state();
        let empty = |state: &mut State<R>| {
            state.turns.is_empty() && state.recalls.is_empty() && !state.closed
        };
        let (mut state, _) = self
            .filled
            .wait_timeout_while(state, patience, empty)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        if (!state.recalled || state.turns.is_empty())
            && let Some(recall) = state.recalls.pop_front()
        {
            state.recalled = true;
            return Some(Work::Recall(recall));
        }
        state.recalled = false;
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some(camera) = state.turns.pop_front() else { break };
            let Some(waiting) = state.waiting.get_mut(&camera) else { continue };
            taken.extend(waiting.pop_front());
            if !waiting.is_empty() {
                state.turns.push_back(camera);
            }
        }
        Some(Work::Frames(taken))
    }

    /// Returns the recalls that will not be done.
    pub fn close(&self) -> Vec<R> {
        let mut state = self.state();
        state.closed = true;
        let recalls = state.recalls.drain(..).collect();
        drop(state);
        self.filled.notify_all();
        recalls
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
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
            monotonic: Duration::from_secs(number),
            captured_at: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            clock: Clock::Host,
            width: 0,
            height: 0,
            bgrx: bytes::Bytes::new(),
        }
    }

    fn taken(inbox: &Inbox<char>, most: usize) -> Vec<(String, u64)> {
        match inbox.take(most, Duration::ZERO).expect("open") {
            Work::Frames(taken) => {
                taken.iter().map(|a| (a.frame.camera.to_string(), a.frame.number)).collect()
            }
            Work::Recall(name) => vec![(name.to_string(), 0)],
        }
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

    #[test]
    fn questions_go_first_and_leave_the_cameras_half() {
        let inbox = Inbox::new(8);
        for number in 0..3 {
            inbox.push(frame("gate", number));
        }
        assert!(inbox.recall('A').is_ok() && inbox.recall('B').is_ok());
        let mut turns = Vec::new();
        for _ in 0..7 {
            let Some(turn) = taken(&inbox, 1).pop() else { continue };
            // Each wants two turns: the first time, back with it.
            if let Some(letter @ 'A'..='B') = turn.0.chars().next()
                && !turns.contains(&turn.0)
            {
                inbox.recall(letter).expect("open");
            }
            turns.push(turn.0);
        }
        assert_eq!(turns, ["A", "gate", "B", "gate", "A", "gate", "B"]);
        assert_eq!(taken(&inbox, 1), []);
        for name in ['C', 'D', 'E'] {
            inbox.recall(name).expect("open");
        }
        inbox.retain(|name| *name != 'D');
        assert_eq!(inbox.close(), ['C', 'E']);
        assert_eq!(inbox.recall('F'), Err('F'));
    }
}
