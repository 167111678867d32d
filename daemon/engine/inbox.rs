//! Queues work for the vision worker: frames from the cameras, and frames that a question needs
//! encoded again.
//!
//! Guarantees:
//! - A camera never waits. At most `capacity` of its frames wait here; a newer frame replaces the
//!   oldest one.
//! - All waiting frames together take at most `most_bytes`. If a new frame exceeds that, the camera
//!   whose waiting frames take the most bytes loses its oldest one. If no camera has more than one
//!   frame, the camera that the worker served last loses its frame, so that every camera gets its
//!   turn. A single frame larger than the limit is accepted, but waits alone.
//! - The worker takes frames from the cameras in turn, so one camera's burst does not delay the
//!   others. Questions come first, also in turn. After each question's turn the cameras get one, so
//!   re-encoding never takes more than half of the turns.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::Frame;

/// A frame and its time of arrival.
pub struct Arrival {
    pub frame: Frame,
    pub at: Instant,
}

/// The next work for the vision worker.
pub enum Work<R> {
    /// Frames of the cameras. Empty if none arrived for a while.
    Frames(Vec<Arrival>),
    /// A question that needs frames encoded again. The worker encodes some of them and returns the
    /// question with [`Inbox::recall`].
    Recall(R),
}

pub struct Inbox<R> {
    state: Mutex<State<R>>,
    filled: Condvar,
    capacity: usize,
    most_bytes: usize,
}

struct State<R> {
    waiting: HashMap<Arc<str>, VecDeque<Arrival>>,
    /// Cameras with waiting frames; the next one to be served comes first.
    turns: VecDeque<Arc<str>>,
    /// Bytes of all waiting frames.
    bytes: usize,
    /// Value of `taken` when the worker last took a frame of each camera.
    served: HashMap<Arc<str>, u64>,
    /// Number of frames that the worker has taken.
    taken: u64,
    recalls: VecDeque<R>,
    /// True if the last turn was a recall's.
    recalled: bool,
    closed: bool,
}

impl<R> Inbox<R> {
    /// Creates an inbox for `capacity` (at least 1) frames per camera and `most_bytes` for all
    /// cameras.
    pub fn new(capacity: usize, most_bytes: usize) -> Inbox<R> {
        let state = State {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            bytes: 0,
            served: HashMap::new(),
            taken: 0,
            recalls: VecDeque::new(),
            recalled: false,
            closed: false,
        };
        let state = Mutex::new(state);
        Inbox { state, filled: Condvar::new(), capacity: capacity.max(1), most_bytes }
    }

    /// Adds a frame. Returns the camera of each frame that was dropped.
    pub fn push(&self, frame: Frame) -> Vec<Arc<str>> {
        let mut state = self.state();
        let mut left = Vec::new();
        let camera = frame.camera.clone();
        state.bytes += frame.bgrx.len();
        let waiting = state.waiting.entry(camera.clone()).or_default();
        waiting.push_back(Arrival { frame, at: Instant::now() });
        let (first, full) = (waiting.len() == 1, waiting.len() > self.capacity);
        if first {
            state.turns.push_back(camera.clone());
        }
        if full {
            state.drop_oldest(&camera);
            left.push(camera);
        }
        while state.bytes > self.most_bytes
            && let Some(camera) = state.too_much()
            && state.drop_oldest(&camera)
        {
            left.push(camera);
        }
        drop(state);
        self.filled.notify_one();
        left
    }

    /// Queues a question that needs frames encoded again. At most as many wait as questions may.
    /// Returns the question if the inbox is closed.
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

    /// Removes recalls that no client waits for any more.
    pub fn retain(&self, waited_for: impl FnMut(&R) -> bool) {
        self.state().recalls.retain(waited_for);
    }

    /// Returns the next recall, or at most `most` frames, from the cameras in turn and in order for
    /// each camera. Waits at most `patience` for the first. Returns `None` if the inbox is closed.
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
            let Some((arrival, more)) = state.pop(&camera) else { continue };
            taken.push(arrival);
            state.taken += 1;
            let at = state.taken;
            state.served.insert(camera.clone(), at);
            if more {
                state.turns.push_back(camera);
            }
        }
        Some(Work::Frames(taken))
    }

    /// Closes the inbox. Returns the recalls that will not be done.
    pub fn close(&self) -> Vec<R> {
        let mut state = self.state();
        state.closed = true;
        let recalls = state.recalls.drain(..).collect();
        drop(state);
        self.filled.notify_all();
        recalls
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        // The state is consistent after each method, so a poisoned lock is still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> State<R> {
    /// Takes the oldest frame of a camera. The boolean is true if more of its frames wait.
    fn pop(&mut self, camera: &str) -> Option<(Arrival, bool)> {
        let waiting = self.waiting.get_mut(camera)?;
        let arrival = waiting.pop_front()?;
        self.bytes -= arrival.frame.bgrx.len();
        Some((arrival, !waiting.is_empty()))
    }

    /// Drops the oldest frame of a camera. Returns false if there was none.
    fn drop_oldest(&mut self, camera: &str) -> bool {
        let dropped = self.pop(camera);
        if let Some((_, false)) = dropped {
            self.turns.retain(|turn| **turn != *camera);
        }
        dropped.is_some()
    }

    /// Returns the camera that loses a frame if all frames take too many bytes, or `None` if at
    /// most one frame waits.
    fn too_much(&self) -> Option<Arc<str>> {
        if self.turns.len() == 1 && self.waiting.get(&self.turns[0])?.len() == 1 {
            return None;
        }
        let of = |camera: &Arc<str>| self.waiting.get(camera).map_or(0, VecDeque::len);
        let bytes = |camera: &Arc<str>| {
            let waiting = self.waiting.get(camera).into_iter().flatten();
            waiting.map(|arrival| arrival.frame.bgrx.len()).sum::<usize>()
        };
        let several = self.turns.iter().filter(|camera| of(camera) > 1);
        let served = |camera: &&Arc<str>| self.served.get(*camera).copied().unwrap_or(0);
        several
            .max_by_key(|camera| bytes(camera))
            // If none was ever served, this is the last one in `turns`.
            .or_else(|| self.turns.iter().max_by_key(served))
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::frame::Clock;

    /// A byte limit that the frames of a test do not reach.
    const ROOM: usize = 1 << 20;

    fn frame(camera: &str, number: u64) -> Frame {
        sized(camera, number, 0)
    }

    fn sized(camera: &str, number: u64, bytes: usize) -> Frame {
        Frame {
            camera: camera.into(),
            number,
            monotonic: Duration::from_secs(number),
            captured_at: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
            clock: Clock::Host,
            width: 0,
            height: 0,
            bgrx: vec![0; bytes].into(),
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
        let inbox = Inbox::new(2, ROOM);
        assert!(inbox.push(frame("a", 0)).is_empty());
        assert!(inbox.push(frame("b", 0)).is_empty());
        assert!(inbox.push(frame("a", 1)).is_empty());
        assert_eq!(inbox.push(frame("a", 2)), ["a".into()]);
        let all = [("a", 1), ("b", 0), ("a", 2)].map(|(c, n)| (c.to_string(), n));
        assert_eq!(taken(&inbox, 8), all);
        assert_eq!(taken(&inbox, 8), []);
    }

    #[test]
    fn one_place_a_camera_is_one_turn() {
        let inbox = Inbox::new(1, ROOM);
        for number in 0..3 {
            inbox.push(frame("a", number));
            inbox.push(frame("b", number));
        }
        assert_eq!(taken(&inbox, 8), [("a", 2), ("b", 2)].map(|(c, n)| (c.to_string(), n)));
        assert_eq!(taken(&inbox, 8), []);
    }

    #[test]
    fn where_bytes_run_out_the_camera_with_most_loses_its_oldest() {
        let inbox = Inbox::new(8, 100);
        for (camera, number, bytes) in [("4K", 0, 40), ("4K", 1, 40), ("gate", 0, 10)] {
            assert!(inbox.push(sized(camera, number, bytes)).is_empty());
        }
        assert_eq!(inbox.push(sized("gate", 1, 20)), ["4K".into()]);
        // Once no camera has more than one frame, the one served last loses its frame.
        assert_eq!(taken(&inbox, 1), [("4K".to_string(), 1)]);
        assert_eq!(taken(&inbox, 1), [("gate".to_string(), 0)]);
        assert_eq!(inbox.push(sized("4K", 2, 60)), []);
        assert_eq!(inbox.push(sized("yard", 0, 30)), ["gate".into()]);
        assert_eq!(taken(&inbox, 8), [("4K", 2), ("yard", 0)].map(|(c, n)| (c.to_string(), n)));
        // A frame larger than the limit waits alone.
        assert_eq!(inbox.push(sized("gate", 2, 10)), []);
        assert_eq!(inbox.push(sized("8K", 0, 130)), ["gate".into()]);
        assert_eq!(taken(&inbox, 8), [("8K".to_string(), 0)]);
    }

    proptest! {
        /// Twelve 4K cameras, of whose frames only a few fit, and a worker that is far behind: the
        /// bytes never exceed the limit, and every camera gets its turns.
        #[test]
        fn under_overload_bytes_stay_bounded_and_every_camera_is_seen(
            fits in 1usize..40, order in prop::collection::vec(0usize..12, 2000),
        ) {
            const FRAME: usize = 33;
            let cameras: Vec<String> = (0..12).map(|camera| format!("camera {camera}")).collect();
            let inbox: Inbox<char> = Inbox::new(8, fits * FRAME);
            let (mut seen, mut came, mut left) = ([0; 12], 0, 0);
            for (number, camera) in order.into_iter().enumerate() {
                left += inbox.push(sized(&cameras[camera], number as u64, FRAME)).len();
                came += 1;
                prop_assert!(inbox.state().bytes <= fits * FRAME);
                // Ten frames arrive while one is encoded.
                if number % 10 == 9 {
                    for (camera, _) in taken(&inbox, 1) {
                        seen[cameras.iter().position(|name| *name == camera).expect("known")] += 1;
                    }
                }
            }
            let waiting: usize = inbox.state().waiting.values().map(VecDeque::len).sum();
            prop_assert_eq!(came, left + waiting + seen.iter().sum::<usize>());
            prop_assert_eq!(inbox.state().bytes, waiting * FRAME);
            // 200 frames are encoded: 17 per camera if they are shared evenly.
            prop_assert!(seen.iter().all(|frames| *frames >= 8), "{:?}", seen);
        }
    }

    #[test]
    fn cameras_take_turns() {
        let inbox = Inbox::new(8, ROOM);
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
        let inbox = Inbox::new(8, ROOM);
        for number in 0..3 {
            inbox.push(frame("gate", number));
        }
        assert!(inbox.recall('A').is_ok() && inbox.recall('B').is_ok());
        let mut turns = Vec::new();
        for _ in 0..7 {
            let Some(turn) = taken(&inbox, 1).pop() else { continue };
            // Each question needs two turns: after the first it is queued again.
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
