//! The disk's queue of reads and writes. [`Jobs`] has the rules and no lock; [`Queue`] lets threads
//! share it.
//!
//! Reads and writes alternate while both wait: after one JPEG is read, one frame is written. So no
//! number of readers delays the incoming frames. Readers take turns of one JPEG each.
//!
//! Limits: at most `capacity` frames wait to be written. A frame beyond that is not written, and
//! the camera's next record is marked. At most `lookups` single frames wait to be read; a further
//! one is refused. Questions wait in addition, at most `generate.max_waiting_questions` of them,
//! because each holds a place in the queue of questions. So does one window of each rule that is
//! tried.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::request::{Erasure, Kind, ReadRefused, ReadRequest, WriteRequest};
use crate::frame::FrameId;
use crate::sync::Waiting;

pub enum Job {
    /// Read one JPEG of the request, then return the request with [`Queue::resume`].
    Read(ReadRequest),
    Write(WriteRequest),
    /// Overwrite some of the frames, then return the request with [`Queue::resume_erasure`].
    Erase(Erasure),
    /// No job was available.
    Idle,
}

/// The queue of the disk thread: the jobs behind a lock that the thread waits on.
pub struct Queue(Waiting<Jobs>);

impl Queue {
    /// Creates a queue for at most `capacity` frames to be written and `lookups` single frames to
    /// be read.
    pub fn new(capacity: usize, lookups: usize) -> Queue {
        Queue(Waiting::new(Jobs::new(capacity, lookups)))
    }

    /// Queues a frame for writing. Returns false if the queue is full or closed. The frame is then
    /// dropped, and the camera's next record is marked.
    pub fn write(&self, write: WriteRequest) -> bool {
        self.0.change(|jobs| jobs.write(write))
    }

    /// Queues a read request. Returns the request if too many lookups wait or the queue is closed.
    pub fn read(&self, read: ReadRequest) -> Result<(), ReadRefused> {
        self.0.change(|jobs| jobs.read(read))
    }

    /// Puts a request at the end of the queue, after one of its JPEGs was read.
    pub fn resume(&self, read: ReadRequest) {
        self.0.lock().reads.push_back(read);
    }

    /// Queues a request to overwrite frames. Those of them that wait to be written are dropped.
    /// Returns false if the queue is closed.
    pub fn erase(&self, erasure: Erasure) -> bool {
        self.0.change(|jobs| {
            if jobs.closed {
                return false;
            }
            let stays = |write: &WriteRequest| {
                !erasure.wants(&write.record.camera, write.record.captured_at)
            };
            jobs.writes.retain(stays);
            jobs.erasures.push_back(erasure);
            true
        })
    }

    /// Puts a request back, after some of its frames were overwritten.
    pub fn resume_erasure(&self, erasure: Erasure) {
        self.0.lock().erasures.push_front(erasure);
    }

    /// Records that the frame before this camera's queued frames could not be written.
    pub fn missed(&self, camera: &Arc<str>) {
        self.0.lock().missed(camera);
    }

    /// Returns the JPEG of a frame that waits to be written.
    pub fn waiting(&self, camera: &str, id: FrameId) -> Option<Arc<[u8]>> {
        self.0.lock().waiting(camera, id)
    }

    /// Waits at most `patience` for the next job. Returns `None` if the queue is closed and all
    /// jobs are done.
    pub fn next(&self, patience: Duration) -> Option<Job> {
        self.0.wait(patience, Jobs::has_news).next()
    }

    pub fn close(&self) {
        self.0.change_for_all(|jobs| jobs.closed = true);
    }
}

/// The waiting jobs, and the rules of their order and number.
struct Jobs {
    capacity: usize,
    lookups: usize,
    /// Read requests; the next one to be served comes first.
    reads: VecDeque<ReadRequest>,
    writes: VecDeque<WriteRequest>,
    /// Requests to overwrite frames. They take the turns of the reads, before them.
    erasures: VecDeque<Erasure>,
    /// True if the last job was a read.
    was_read: bool,
    /// Cameras with unwritten frames since their last queued record.
    missing: HashSet<Arc<str>>,
    closed: bool,
}

impl Jobs {
    fn new(capacity: usize, lookups: usize) -> Jobs {
        Jobs {
            capacity,
            lookups,
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            erasures: VecDeque::new(),
            was_read: false,
            missing: HashSet::new(),
            closed: false,
        }
    }

    fn write(&mut self, mut write: WriteRequest) -> bool {
        if self.closed || self.writes.len() >= self.capacity {
            self.missing.insert(write.record.camera.clone());
            return false;
        }
        write.record.missing_before |= self.missing.remove(&write.record.camera);
        self.writes.push_back(write);
        true
    }

    fn read(&mut self, read: ReadRequest) -> Result<(), ReadRefused> {
        if self.closed {
            return Err(ReadRefused::Closed(read));
        }
        if read.kind == Kind::Lookup && self.waiting_lookups() >= self.lookups {
            self.reads.retain(|read| read.receiver.wants_jpegs());
            if self.waiting_lookups() >= self.lookups {
                return Err(ReadRefused::Full(read));
            }
        }
        self.reads.push_back(read);
        Ok(())
    }

    fn missed(&mut self, camera: &Arc<str>) {
        match self.writes.iter_mut().find(|write| write.record.camera == *camera) {
            Some(next) => next.record.missing_before = true,
            None => drop(self.missing.insert(camera.clone())),
        }
    }

    fn waiting(&self, camera: &str, id: FrameId) -> Option<Arc<[u8]>> {
        let is_frame =
            |write: &&WriteRequest| *write.record.camera == *camera && write.record.id == id;
        self.writes.iter().find(is_frame).map(|write| write.jpeg.clone())
    }

    /// Returns true if the disk thread has something to do: a job, or the end.
    fn has_news(&self) -> bool {
        !self.reads.is_empty()
            || !self.writes.is_empty()
            || !self.erasures.is_empty()
            || self.closed
    }

    /// Returns the next job, or `None` if the queue is closed and all jobs are done.
    fn next(&mut self) -> Option<Job> {
        if !self.was_read || self.writes.is_empty() {
            if let Some(erasure) = self.erasures.pop_front() {
                self.was_read = true;
                return Some(Job::Erase(erasure));
            }
            while let Some(read) = self.reads.pop_front() {
                if read.receiver.wants_jpegs() {
                    self.was_read = true;
                    return Some(Job::Read(read));
                }
            }
        }
        self.was_read = false;
        if let Some(write) = self.writes.pop_front() {
            return Some(Job::Write(write));
        }
        if self.closed { None } else { Some(Job::Idle) }
    }

    fn waiting_lookups(&self) -> usize {
        self.reads.iter().filter(|read| read.kind == Kind::Lookup).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::super::record::tests::record;
    use super::super::request::{FrameToRead, JpegReceiver, Jpegs};
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
            let (mut jpegs, mut asked, mut written, mut taken) = (0, 0, 0, 0);
            let mut reads_in_a_row = 0;
            let mut turn = || -> Result<bool, TestCaseError> {
                let writes = queue.0.lock().writes.len();
                match queue.next(Duration::ZERO) {
                    Some(Job::Read(read)) => {
                        if writes > 0 {
                            reads_in_a_row += 1;
                        }
                        prop_assert!(reads_in_a_row <= 1, "a write waits for a second JPEG");
                        jpegs += 1;
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
                    Some(Job::Erase(_) | Job::Idle) | None => Ok(false),
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
                prop_assert!(queue.0.lock().waiting_lookups() <= 4);
            }
            while turn()? {}
            prop_assert_eq!((jpegs, written), (asked, taken));
        }
    }
}
