//! Queues work for the vision worker: frames from the cameras, and frames that a question needs
//! encoded again. Pure rules; the engine holds the lock and waits.
//!
//! Guarantees:
//! - A camera never waits. At most `capacity` of its frames wait here; a newer frame replaces the
//!   oldest one.
//! - All waiting frames together take at most `max_bytes`. If a new frame exceeds that, the camera
//!   whose waiting frames take the most bytes loses its oldest one. If no camera has more than one
//!   frame, the camera that the worker served last loses its frame, so that every camera gets its
//!   turn. A single frame larger than the limit is accepted, but waits alone.
//! - The worker takes frames from the cameras in turn, so one camera's burst does not delay the
//!   others. Questions come first, also in turn. After each question's turn the cameras get one, so
//!   re-encoding never takes more than half of the turns.
//! - What needs frames in the background is taken only while nothing else waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

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
    /// A question, or a request in the background, that needs frames encoded again. The worker
    /// encodes some of them and returns it with [`Inbox::reencode`] or
    /// [`Inbox::reencode_in_background`].
    Reencode(R),
}

pub struct Inbox<R> {
    capacity: usize,
    max_bytes: usize,
    waiting: HashMap<Arc<str>, VecDeque<Arrival>>,
    /// Cameras with waiting frames; the next one to be served comes first.
    round: VecDeque<Arc<str>>,
    /// Bytes of all waiting frames.
    bytes: usize,
    /// Value of `taken` when the worker last took a frame of each camera.
    served: HashMap<Arc<str>, u64>,
    /// Number of frames that the worker has taken.
    taken: u64,
    questions: VecDeque<R>,
    background: VecDeque<R>,
    /// True if the worker took a question last.
    question_was_last: bool,
    closed: bool,
}

impl<R> Inbox<R> {
    /// Creates an inbox for `capacity` (at least 1) frames per camera and `max_bytes` for all
    /// cameras.
    pub fn new(capacity: usize, max_bytes: usize) -> Inbox<R> {
        Inbox {
            capacity: capacity.max(1),
            max_bytes,
            waiting: HashMap::new(),
            round: VecDeque::new(),
            bytes: 0,
            served: HashMap::new(),
            taken: 0,
            questions: VecDeque::new(),
            background: VecDeque::new(),
            question_was_last: false,
            closed: false,
        }
    }

    /// Adds a frame that arrived at `at`. Returns the camera of each frame that was dropped.
    pub fn push(&mut self, frame: Frame, at: Instant) -> Vec<Arc<str>> {
        let mut dropped = Vec::new();
        let camera = frame.camera.clone();
        self.bytes += frame.bgrx.len();
        let waiting = self.waiting.entry(camera.clone()).or_default();
        waiting.push_back(Arrival { frame, at });
        let length = waiting.len();
        if length == 1 {
            self.round.push_back(camera.clone());
        }
        if length > self.capacity {
            self.drop_oldest(&camera);
            dropped.push(camera);
        }
        while self.bytes > self.max_bytes
            && let Some(camera) = self.camera_to_drop_from()
            && self.drop_oldest(&camera)
        {
            dropped.push(camera);
        }
        dropped
    }

    /// Queues a question that needs frames encoded again. At most as many wait as questions may.
    /// Returns the question if the inbox is closed.
    pub fn reencode(&mut self, question: R) -> Result<(), R> {
        if self.closed {
            return Err(question);
        }
        self.questions.push_back(question);
        Ok(())
    }

    /// Queues a request in the background, as `reencode` does. The caller limits their
    /// number.
    pub fn reencode_in_background(&mut self, request: R) -> Result<(), R> {
        if self.closed {
            return Err(request);
        }
        self.background.push_back(request);
        Ok(())
    }

    /// Returns the questions and the requests in the background that wait.
    pub fn requests(&mut self) -> impl Iterator<Item = &mut R> {
        self.questions.iter_mut().chain(&mut self.background)
    }

    /// Removes the questions for which `is_wanted` returns false.
    pub fn retain(&mut self, is_wanted: impl FnMut(&R) -> bool) {
        self.questions.retain(is_wanted);
    }

    /// Removes the waiting frames of a camera, and everything else that is kept about it.
    pub fn remove(&mut self, camera: &str) {
        while self.drop_oldest(camera) {}
        self.waiting.remove(camera);
        self.served.remove(camera);
    }

    /// Removes and returns the questions and the requests in the background for which `is_unwanted`
    /// returns true.
    pub fn extract(&mut self, mut is_unwanted: impl FnMut(&R) -> bool) -> Vec<R> {
        let mut removed = Vec::new();
        for queue in [&mut self.questions, &mut self.background] {
            let requests = std::mem::take(queue).into_iter();
            let (unwanted, kept): (Vec<R>, _) = requests.partition(|one| is_unwanted(one));
            *queue = kept.into();
            removed.extend(unwanted);
        }
        removed
    }

    /// Returns true if there is work, or if the inbox is closed.
    pub fn is_ready(&self) -> bool {
        let has_frames = !self.round.is_empty();
        has_frames || !self.questions.is_empty() || !self.background.is_empty() || self.closed
    }

    /// Takes the next question, or at most `max_frames` frames, from the cameras in turn and in
    /// order for each camera, or if there are none the next request in the background. Returns `None` if the inbox is closed.
    pub fn take(&mut self, max_frames: usize) -> Option<Work<R>> {
        if self.closed {
            return None;
        }
        if (!self.question_was_last || self.round.is_empty())
            && let Some(question) = self.questions.pop_front()
        {
            self.question_was_last = true;
            return Some(Work::Reencode(question));
        }
        self.question_was_last = false;
        if self.round.is_empty()
            && let Some(request) = self.background.pop_front()
        {
            return Some(Work::Reencode(request));
        }
        let mut taken = Vec::new();
        while taken.len() < max_frames {
            let Some(camera) = self.round.pop_front() else { break };
            let Some((arrival, more)) = self.pop(&camera) else { continue };
            taken.push(arrival);
            self.taken += 1;
            self.served.insert(camera.clone(), self.taken);
            if more {
                self.round.push_back(camera);
            }
        }
        Some(Work::Frames(taken))
    }

    /// Closes the inbox. Returns the questions and requests whose frames will not be encoded.
    pub fn close(&mut self) -> Vec<R> {
        self.closed = true;
        self.questions.drain(..).chain(self.background.drain(..)).collect()
    }

    /// Returns true if anything is kept about the camera.
    #[cfg(test)]
    pub fn knows(&self, camera: &str) -> bool {
        self.waiting.contains_key(camera) || self.served.contains_key(camera)
    }

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
            self.round.retain(|other| **other != *camera);
        }
        dropped.is_some()
    }

    /// Returns the camera that loses a frame if all frames take too many bytes, or `None` if at
    /// most one frame waits.
    fn camera_to_drop_from(&self) -> Option<Arc<str>> {
        if self.round.len() == 1 && self.waiting.get(&self.round[0])?.len() == 1 {
            return None;
        }
        let frames = |camera: &Arc<str>| self.waiting.get(camera).map_or(0, VecDeque::len);
        let bytes = |camera: &Arc<str>| {
            let waiting = self.waiting.get(camera).into_iter().flatten();
            waiting.map(|arrival| arrival.frame.bgrx.len()).sum::<usize>()
        };
        let several = self.round.iter().filter(|camera| frames(camera) > 1);
        let served = |camera: &&Arc<str>| self.served.get(*camera).copied().unwrap_or(0);
        several
            .max_by_key(|camera| bytes(camera))
            // If none was ever served, this is the last one in `round`.
            .or_else(|| self.round.iter().max_by_key(served))
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

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

    fn push(inbox: &mut Inbox<char>, frame: Frame) -> Vec<Arc<str>> {
        inbox.push(frame, Instant::now())
    }

    fn taken(inbox: &mut Inbox<char>, most: usize) -> Vec<(String, u64)> {
        match inbox.take(most).expect("open") {
            Work::Frames(taken) => {
                taken.iter().map(|a| (a.frame.camera.to_string(), a.frame.number)).collect()
            }
            Work::Reencode(name) => vec![(name.to_string(), 0)],
        }
    }

    #[test]
    fn a_full_camera_loses_its_oldest_frame() {
        let mut inbox = Inbox::new(2, ROOM);
        assert!(push(&mut inbox, frame("a", 0)).is_empty());
        assert!(push(&mut inbox, frame("b", 0)).is_empty());
        assert!(push(&mut inbox, frame("a", 1)).is_empty());
        assert_eq!(push(&mut inbox, frame("a", 2)), ["a".into()]);
        let all = [("a", 1), ("b", 0), ("a", 2)].map(|(c, n)| (c.to_string(), n));
        assert_eq!(taken(&mut inbox, 8), all);
        assert_eq!(taken(&mut inbox, 8), []);
    }

    #[test]
    fn a_capacity_of_one_keeps_the_newest_frame_of_each_camera() {
        let mut inbox = Inbox::new(1, ROOM);
        for number in 0..3 {
            push(&mut inbox, frame("a", number));
            push(&mut inbox, frame("b", number));
        }
        assert_eq!(taken(&mut inbox, 8), [("a", 2), ("b", 2)].map(|(c, n)| (c.to_string(), n)));
        assert_eq!(taken(&mut inbox, 8), []);
    }

    #[test]
    fn beyond_the_byte_limit_the_largest_camera_loses_its_oldest_frame() {
        let mut inbox = Inbox::new(8, 100);
        for (camera, number, bytes) in [("4K", 0, 40), ("4K", 1, 40), ("gate", 0, 10)] {
            assert!(push(&mut inbox, sized(camera, number, bytes)).is_empty());
        }
        assert_eq!(push(&mut inbox, sized("gate", 1, 20)), ["4K".into()]);
        // Once no camera has more than one frame, the one served last loses its frame.
        assert_eq!(taken(&mut inbox, 1), [("4K".to_string(), 1)]);
        assert_eq!(taken(&mut inbox, 1), [("gate".to_string(), 0)]);
        assert_eq!(push(&mut inbox, sized("4K", 2, 60)), []);
        assert_eq!(push(&mut inbox, sized("yard", 0, 30)), ["gate".into()]);
        assert_eq!(taken(&mut inbox, 8), [("4K", 2), ("yard", 0)].map(|(c, n)| (c.to_string(), n)));
        // A frame larger than the limit waits alone.
        assert_eq!(push(&mut inbox, sized("gate", 2, 10)), []);
        assert_eq!(push(&mut inbox, sized("8K", 0, 130)), ["gate".into()]);
        assert_eq!(taken(&mut inbox, 8), [("8K".to_string(), 0)]);
    }

    proptest! {
        /// Twelve 4K cameras, of whose frames only a few fit, and a worker that is far behind: the
        /// bytes never exceed the limit, and every camera gets its turns.
        #[test]
        fn under_overload_bytes_stay_bounded_and_every_camera_is_served(
            fits in 1usize..40, order in prop::collection::vec(0usize..12, 2000),
        ) {
            const FRAME: usize = 33;
            let cameras: Vec<String> = (0..12).map(|camera| format!("camera {camera}")).collect();
            let mut inbox: Inbox<char> = Inbox::new(8, fits * FRAME);
            let (mut seen, mut came, mut left) = ([0; 12], 0, 0);
            for (number, camera) in order.into_iter().enumerate() {
                left += push(&mut inbox, sized(&cameras[camera], number as u64, FRAME)).len();
                came += 1;
                prop_assert!(inbox.bytes <= fits * FRAME);
                // Ten frames arrive while one is encoded.
                if number % 10 == 9 {
                    for (camera, _) in taken(&mut inbox, 1) {
                        seen[cameras.iter().position(|name| *name == camera).expect("known")] += 1;
                    }
                }
            }
            let waiting: usize = inbox.waiting.values().map(VecDeque::len).sum();
            prop_assert_eq!(came, left + waiting + seen.iter().sum::<usize>());
            prop_assert_eq!(inbox.bytes, waiting * FRAME);
            // 200 frames are encoded: 17 per camera if they are shared evenly.
            prop_assert!(seen.iter().all(|frames| *frames >= 8), "{:?}", seen);
        }
    }

    #[test]
    fn cameras_are_served_in_turn() {
        let mut inbox = Inbox::new(8, ROOM);
        for number in 0..4 {
            push(&mut inbox, frame("a", number));
        }
        push(&mut inbox, frame("b", 0));
        let first = [("a", 0), ("b", 0), ("a", 1)].map(|(c, n)| (c.to_string(), n));
        assert_eq!(taken(&mut inbox, 3), first);
        inbox.close();
        assert!(inbox.take(1).is_none());
    }

    #[test]
    fn questions_go_first_and_leave_half_of_the_turns_to_cameras() {
        let mut inbox = Inbox::new(8, ROOM);
        for number in 0..3 {
            push(&mut inbox, frame("gate", number));
        }
        assert!(inbox.reencode('A').is_ok() && inbox.reencode('B').is_ok());
        let mut turns = Vec::new();
        for _ in 0..7 {
            let Some(turn) = taken(&mut inbox, 1).pop() else { continue };
            // Each question needs two turns: after the first it is queued again.
            if let Some(letter @ 'A'..='B') = turn.0.chars().next()
                && !turns.contains(&turn.0)
            {
                inbox.reencode(letter).expect("open");
            }
            turns.push(turn.0);
        }
        assert_eq!(turns, ["A", "gate", "B", "gate", "A", "gate", "B"]);
        assert_eq!(taken(&mut inbox, 1), []);
        for name in ['C', 'D', 'E'] {
            inbox.reencode(name).expect("open");
        }
        inbox.retain(|name| *name != 'D');
        assert_eq!(inbox.close(), ['C', 'E']);
        assert_eq!(inbox.reencode('F'), Err('F'));
    }
    #[test]
    fn nothing_of_a_removed_camera_remains() {
        let mut inbox = Inbox::new(8, ROOM);
        for number in 0..3 {
            push(&mut inbox, sized("gate", number, 7));
            push(&mut inbox, sized("yard", number, 7));
        }
        assert_eq!(taken(&mut inbox, 2).len(), 2);
        inbox.remove("gate");
        assert_eq!(inbox.bytes, 14);
        assert!(!inbox.waiting.contains_key("gate") && !inbox.served.contains_key("gate"));
        assert_eq!(
            taken(&mut inbox, 8),
            [("yard", 1), ("yard", 2)].map(|(c, n)| (c.to_string(), n))
        );
    }

    #[test]
    fn requests_in_the_background_wait_for_everything_else() {
        let mut inbox = Inbox::new(2, ROOM);
        assert_eq!(inbox.reencode_in_background('b'), Ok(()));
        assert_eq!(inbox.reencode('q'), Ok(()));
        push(&mut inbox, frame("gate", 1));
        let mut order = String::new();
        for _ in 0..3 {
            match inbox.take(8) {
                Some(Work::Reencode(request)) => order.push(request),
                Some(Work::Frames(frames)) => order.push_str(&frames.len().to_string()),
                None => panic!("the inbox is open"),
            }
        }
        assert_eq!(order, "q1b");
        assert_eq!(inbox.reencode_in_background('b'), Ok(()));
        assert!(inbox.is_ready());
        assert_eq!(inbox.extract(|request| *request == 'b'), ['b']);
        assert!(!inbox.is_ready());
        assert_eq!(inbox.reencode_in_background('c'), Ok(()));
        assert_eq!(inbox.close(), ['c']);
        assert_eq!(inbox.reencode_in_background('d'), Err('d'));
    }
}
