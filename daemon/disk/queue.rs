//! The disk's queue of reads and writes. Pure rules, no disk access.
//!
//! Reads and writes alternate while both wait: after one JPEG is read, one frame is written. So no
//! number of readers delays the incoming frames. Readers take turns of one JPEG each.
//!
//! Limits: at most `capacity` frames wait to be written. A frame beyond that is not written, and
//! the camera's next record is marked. At most `lookups` single frames wait to be read; a further
//! one is refused. Questions wait in addition, at most `generate.max_waiting_questions` of them,
//! because each holds a place in the queue of questions.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Record;
use crate::frame::FrameId;
use crate::timeline::DiskAddress;

/// A frame to be written to disk.
pub struct WriteRequest {
    pub record: Record,
    pub jpeg: Arc<[u8]>,
}

/// A frame to be read back.
#[derive(Clone, Debug)]
pub struct FrameToRead {
    pub camera: Arc<str>,
    pub id: FrameId,
    /// The frame's address on disk, or `None` while it waits to be written.
    pub address: Option<DiskAddress>,
}

/// JPEGs in the requested order; `None` for each one that could not be read.
pub type Jpegs = Vec<Option<Arc<[u8]>>>;

/// Receives the requested JPEGs.
pub trait JpegReceiver: Send {
    /// Returns true while the result is still wanted. Otherwise the frames are not read.
    fn wants_jpegs(&self) -> bool;
    fn receive(self: Box<Self>, jpegs: Jpegs);
}

/// A read request: the frames, and the receiver that receives them.
pub struct ReadRequest {
    wanted: VecDeque<FrameToRead>,
    jpegs: Jpegs,
    kind: Kind,
    receiver: Box<dyn JpegReceiver>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lookup,
    Question,
}

impl ReadRequest {
    /// Creates a request for a single frame.
    pub fn lookup(wanted: FrameToRead, receiver: Box<dyn JpegReceiver>) -> ReadRequest {
        ReadRequest { wanted: [wanted].into(), jpegs: Vec::new(), kind: Kind::Lookup, receiver }
    }

    /// Creates a request for the frames of a question, which holds a place in the queue of
    /// questions.
    pub fn question(wanted: Vec<FrameToRead>, receiver: Box<dyn JpegReceiver>) -> ReadRequest {
        ReadRequest { wanted: wanted.into(), jpegs: Vec::new(), kind: Kind::Question, receiver }
    }

    /// Reads the next JPEG. Returns the request if more frames remain.
    pub fn step(
        mut self,
        read: impl FnOnce(FrameToRead) -> Option<Arc<[u8]>>,
    ) -> Option<ReadRequest> {
        if let Some(wanted) = self.wanted.pop_front() {
            self.jpegs.push(read(wanted));
        }
        if !self.wanted.is_empty() {
            return Some(self);
        }
        self.receiver.receive(self.jpegs);
        None
    }

    /// Ends the request: the remaining frames are delivered as unreadable.
    pub fn give_up(mut self) {
        self.jpegs.resize(self.jpegs.len() + self.wanted.len(), None);
        self.receiver.receive(self.jpegs);
    }
}

/// A read request that was refused, by reason.
pub enum ReadRefused {
    Full(ReadRequest),
    Closed(ReadRequest),
}

pub enum Job {
    /// Read one JPEG of the request, then return the request with [`Queue::resume`].
    Read(ReadRequest),
    Write(WriteRequest),
    /// No job was available.
    Idle,
}

pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    capacity: usize,
    lookups: usize,
}

#[derive(Default)]
struct State {
    /// Read requests; the next one to be served comes first.
    reads: VecDeque<ReadRequest>,
    writes: VecDeque<WriteRequest>,
    /// True if the last job was a read.
    was_read: bool,
    /// Cameras with unwritten frames since their last queued record.
    missing: HashSet<Arc<str>>,
    closed: bool,
}

impl Queue {
    pub fn new(capacity: usize, lookups: usize) -> Queue {
        Queue { state: Mutex::default(), filled: Condvar::new(), capacity, lookups }
    }

    /// Queues a frame for writing. Returns false if the queue is full or closed. The frame is then
    /// dropped, and the camera's next record is marked.
    pub fn write(&self, mut write: WriteRequest) -> bool {
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

    /// Queues a read request. Returns the request if too many lookups wait or the queue is closed.
    pub fn read(&self, read: ReadRequest) -> Result<(), ReadRefused> {
        let mut state = self.state();
        if state.closed {
            return Err(ReadRefused::Closed(read));
        }
        if read.kind == Kind::Lookup && state.lookups() >= self.lookups {
            state.reads.retain(|read| read.receiver.wants_jpegs());
            if state.lookups() >= self.lookups {
                return Err(ReadRefused::Full(read));
            }
        }
        state.reads.push_back(read);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Puts a request at the end of the queue, after one of its JPEGs was read.
    pub fn resume(&self, read: ReadRequest) {
        self.state().reads.push_back(read);
    }

    /// Records that the frame before this camera's queued frames could not be written.
    pub fn missed(&self, camera: &Arc<str>) {
        let mut state = self.state();
        match state.writes.iter_mut().find(|write| write.record.camera == *camera) {
            Some(next) => next.record.missing_before = true,
            None => drop(state.missing.insert(camera.clone())),
        }
    }

    /// Returns the JPEG of a frame that waits to be written.
    pub fn waiting(&self, camera: &str, id: FrameId) -> Option<Arc<[u8]>> {
        let state = self.state();
        let of_it =
            |write: &&WriteRequest| *write.record.camera == *camera && write.record.id == id;
        state.writes.iter().find(of_it).map(|write| write.jpeg.clone())
    }

    /// Waits at most `patience` for the next job. Returns `None` if the queue is closed and all
    /// jobs are done.
    pub fn next(&self, patience: Duration) -> Option<Job> {
        let state = self.state();
        let empty =
            |state: &mut State| state.reads.is_empty() && state.writes.is_empty() && !state.closed;
        let (mut state, _) = self
            .filled
            .wait_timeout_while(state, patience, empty)
            .unwrap_or_else(PoisonError::into_inner);
        if !state.was_read || state.writes.is_empty() {
            while let Some(read) = state.reads.pop_front() {
                if read.receiver.wants_jpegs() {
                    state.was_read = true;
                    return Some(Job::Read(read));
                }
            }
        }
        state.was_read = false;
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
        // The state is consistent after each method, so a poisoned lock is still usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lookups(&self) -> usize {
        self.reads.iter().filter(|read| read.kind == Kind::Lookup).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::*;

    fn write(number: u64) -> WriteRequest {
        let mut record = record("gate", number);
        record.missing_before = false;
        WriteRequest { record, jpeg: vec![number as u8].into() }
    }

    /// A receiver that waits until its flag is cleared, and keeps what it received.
    #[derive(Clone)]
    struct Asker {
        waits: Arc<AtomicBool>,
        got: Arc<Mutex<Option<Jpegs>>>,
    }

    impl Asker {
        fn new() -> Asker {
            Asker { waits: Arc::new(true.into()), got: Arc::default() }
        }

        fn got(&self) -> Option<usize> {
            self.got.lock().expect("whole").as_ref().map(Vec::len)
        }
    }

    impl JpegReceiver for Asker {
        fn wants_jpegs(&self) -> bool {
            self.waits.load(Ordering::Relaxed)
        }

        fn receive(self: Box<Self>, jpegs: Jpegs) {
            *self.got.lock().expect("whole") = Some(jpegs);
        }
    }

    fn wanted(number: u64) -> FrameToRead {
        FrameToRead { camera: "gate".into(), id: record("gate", number).id, address: None }
    }

    fn lookup(asker: &Asker) -> ReadRequest {
        ReadRequest::lookup(wanted(0), Box::new(asker.clone()))
    }

    #[test]
    fn a_full_queue_drops_the_record_and_the_next_one_counts_it() {
        let queue = Queue::new(2, 8);
        assert!(queue.write(write(0)) && queue.write(write(1)));
        assert!(!queue.write(write(2)));
        assert_eq!(queue.waiting("gate", write(1).record.id), Some([1].into()));
        assert_eq!(queue.waiting("gate", write(2).record.id), None);
        let next = || match queue.next(Duration::ZERO) {
            Some(Job::Write(write)) => (write.record.id.number, write.record.missing_before),
            _ => panic!("nothing to write"),
        };
        assert_eq!(next(), (0, false));
        // A frame that fails is missing before the next one.
        queue.missed(&"gate".into());
        assert_eq!(next(), (1, true));
        assert!(queue.write(write(3)) && queue.write(write(4)));
        assert_eq!((next(), next()), ((3, true), (4, false)));
    }

    #[test]
    fn closing_finishes_queued_jobs() {
        let queue = Queue::new(8, 8);
        let asker = Asker::new();
        queue.write(write(0));
        assert!(queue.read(lookup(&asker)).is_ok());
        queue.close();
        assert!(matches!(queue.read(lookup(&asker)), Err(ReadRefused::Closed(_))));
        assert!(!queue.write(write(1)));
        assert!(matches!(queue.next(Duration::ZERO), Some(Job::Read(_))));
        assert!(matches!(queue.next(Duration::ZERO), Some(Job::Write(_))));
        assert!(queue.next(Duration::ZERO).is_none());
    }

    #[test]
    fn excess_lookups_are_refused_and_questions_are_not() {
        let queue = Queue::new(8, 2);
        let (gone, stays) = (Asker::new(), Asker::new());
        assert!(queue.read(lookup(&gone)).is_ok() && queue.read(lookup(&stays)).is_ok());
        assert!(matches!(queue.read(lookup(&stays)), Err(ReadRefused::Full(_))));
        let question = ReadRequest::question(vec![wanted(1), wanted(2)], Box::new(stays.clone()));
        assert!(queue.read(question).is_ok());
        // A place is free as soon as a receiver no longer waits.
        gone.waits.store(false, Ordering::Relaxed);
        assert!(queue.read(lookup(&stays)).is_ok());
    }

    #[test]
    fn abandoned_reads_are_skipped() {
        let queue = Queue::new(8, 8);
        let (gone, stays) = (Asker::new(), Asker::new());
        assert!(queue.read(lookup(&gone)).is_ok() && queue.read(lookup(&stays)).is_ok());
        gone.waits.store(false, Ordering::Relaxed);
        let Some(Job::Read(read)) = queue.next(Duration::ZERO) else { panic!("nothing to read") };
        assert!(read.step(|_| Some([7].into())).is_none());
        assert_eq!((gone.got(), stays.got()), (None, Some(1)));
        assert!(matches!(queue.next(Duration::ZERO), Some(Job::Idle)));
    }

    #[test]
    fn an_unreadable_frame_is_missing_and_the_others_are_returned() {
        let asker = Asker::new();
        let read = ReadRequest::question((0..3).map(wanted).collect(), Box::new(asker.clone()));
        let step =
            |read: ReadRequest| read.step(|wanted| (wanted.id.number != 1).then(|| [1].into()));
        assert!(step(read).and_then(step).and_then(step).is_none());
        let got: Vec<_> =
            asker.got.lock().expect("whole").iter().flatten().map(Option::is_some).collect();
        assert_eq!(got, [true, false, true]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Question(usize),
        Lookup,
        Write,
        Turn,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => (1usize..60).prop_map(Step::Question),
            1 => Just(Step::Lookup),
            2 => Just(Step::Write),
            3 => Just(Step::Turn),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        /// The first queued write waits for one JPEG at most, the second for one more, and so on.
        #[test]
        fn a_write_waits_for_at_most_one_read_and_every_job_is_done(steps in steps()) {
            let queue = Queue::new(16, 4);
            let asker = Asker::new();
            let (mut pictures, mut asked, mut written, mut taken) = (0, 0, 0, 0);
            let mut reads_in_a_row = 0;
            let mut turn = || -> Result<bool, TestCaseError> {
                let writes = queue.state().writes.len();
                match queue.next(Duration::ZERO) {
                    Some(Job::Read(read)) => {
                        if writes > 0 {
                            reads_in_a_row += 1;
                        }
                        prop_assert!(reads_in_a_row <= 1, "a write waits for a second picture");
                        pictures += 1;
                        if let Some(more) = read.step(|_| None) {
                            queue.resume(more);
                        }
                        Ok(true)
                    }
                    Some(Job::Write(_)) => {
                        reads_in_a_row = 0;
                        written += 1;
                        Ok(true)
                    }
                    Some(Job::Idle) | None => Ok(false),
                }
            };
            for step in steps {
                match step {
                    Step::Question(frames) => {
                        let wanted = (0..frames as u64).map(wanted).collect();
                        let read = ReadRequest::question(wanted, Box::new(asker.clone()));
                        prop_assert!(queue.read(read).is_ok());
                        asked += frames;
                    }
                    Step::Lookup => asked += usize::from(queue.read(lookup(&asker)).is_ok()),
                    Step::Write => taken += usize::from(queue.write(write(0))),
                    Step::Turn => drop(turn()?),
                }
                prop_assert!(queue.state().lookups() <= 4);
            }
            while turn()? {}
            prop_assert_eq!((pictures, written), (asked, taken));
        }
    }
}
